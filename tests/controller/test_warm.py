"""Pins made active by having their prompts computed, with a real engine and a small server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lmcache_core.config import TierConfig
from lmcache_core.controller.commands import Commands
from lmcache_core.controller.completion import InexpressibleError, Secrets, completion
from lmcache_core.controller.directory import Directory
from lmcache_core.controller.failures import FieldError
from lmcache_core.controller.jobs import Jobs
from lmcache_core.controller.keeper import PinKeeper
from lmcache_core.controller.ledger import Ledger
from lmcache_core.controller.pin_row import PinContent, PlaceState
from lmcache_core.controller.selection import Selection
from lmcache_core.controller.warmer import MAX_PLACEMENTS, Order, Warmer
from lmcache_core.keys import Placeholder, Scope, tokens_to_bytes
from tests.controller.completions import (
    BROKEN,
    DRIPS,
    HANGS,
    LIES,
    TOO_LONG,
    CompletionServer,
    completions,
)
from tests.controller.controller_process import ControllerProcess
from tests.controller.engine_peer import DISK, MEMORY, NAMESPACE, EnginePeer, eventually
from tests.engine.rig import FRAME_BYTES, SLOT_BYTES, Rig

PROMPT = list(range(1, 43))
OTHER = list(range(501, 543))
SHORT = list(range(901, 911))
ADAPTER = "aa" * 32
BRIEF = msgspec.structs.replace(NAMESPACE, model="brief")
ENDED = {"done", "failed"}


class Warm:
    """An engine that serves at a server, and a controller."""

    def __init__(self, controller: ControllerProcess, rig: Rig, server: CompletionServer) -> None:
        self.controller = controller
        self.rig = rig
        self.server = server

    def put(self, pin_id: str, tokens: list[int] = PROMPT, **fields: object) -> dict[str, Any]:
        place = {"instance_id": "warm", "location": MEMORY}
        body = {"placements": [place], "tokens": tokens, "on_missing": "reserve", **fields}
        answer = self.controller.client.put(f"/v1/pins/{pin_id}", json=body)
        assert answer.is_success, answer.text
        made: dict[str, Any] = answer.json()
        return made

    def pin(self, pin_id: str) -> dict[str, Any]:
        shown: dict[str, Any] = self.controller.client.get(f"/v1/pins/{pin_id}").json()
        return shown

    def __call__(self, **body: object) -> dict[str, Any]:
        """Warm, and the job once it has ended."""
        answer = self.controller.post("/v1/pins:warm", **body)
        assert answer.status_code == 202, answer.text
        return ended(self.controller, answer.json()["event_id"])


def ended(controller: ControllerProcess, event_id: str) -> dict[str, Any]:
    def job() -> dict[str, Any] | None:
        found: dict[str, Any] = controller.client.get(f"/v1/jobs/{event_id}").json()
        return found if found["state"] in ENDED else None

    done: dict[str, Any] = eventually(job)
    return done


def outcomes(job: dict[str, Any]) -> dict[str, tuple[str, int, bool]]:
    return {p["pin_id"]: (p["state"], p["num_tokens"], p["computed"]) for p in job["placements"]}


def reasons(job: dict[str, Any]) -> dict[str, str]:
    return {p["pin_id"]: p["reason"] for p in job["placements"]}


@contextmanager
def serving(controller: ControllerProcess, **fields: object) -> Iterator[Warm]:
    lock = threading.Lock()

    def compute(body: dict[str, Any], _headers: Mapping[str, str]) -> None:
        tags = {
            name.removeprefix("lmcache.tag."): value
            for name, value in body.get("kv_transfer_params", {}).items()
        }
        scope = Scope.of(
            adapter=ADAPTER if body["model"] == "my-adapter" else None,
            cache_salt=body.get("cache_salt"),
            tags=tags,
        )
        with lock:
            rig.serve(body["prompt"], scope)

    with completions(compute) as server:
        overrides: dict[str, object] = {
            "enable_controller": True,
            "controller_url": controller.monitor,
            "instance_id": "warm",
            "heartbeat_seconds": 0.3,
            "serving_url": server.url,
            **fields,
        }
        with Rig(chunks=24, overrides=overrides) as rig:
            eventually(lambda: controller.state("warm") == "live")
            yield Warm(controller, rig, server)
            for row in controller.client.get("/v1/pins").json()["pins"]:
                controller.client.delete(f"/v1/pins/{row['pin_id']}")


@pytest.fixture
def warm(controller: ControllerProcess) -> Iterator[Warm]:
    with serving(controller) as made:
        yield made


def test_a_pin_of_a_prompt_that_was_never_seen_becomes_active(warm: Warm) -> None:
    assert warm.put("new")["state"] == "pending"
    job = warm(pin_ids=["new"])
    assert (job["state"], job["asked"], job["answered"], job["num_tokens"]) == ("done", 1, 1, 42)
    assert job["placements"] == [
        {
            "pin_id": "new",
            "instance_id": "warm",
            "location": MEMORY,
            "state": "active",
            "num_tokens": 42,
            "tokens_asked": 42,
            "computed": True,
            "done": True,
            "reason": "",
        }
    ]
    assert (warm.pin("new")["state"], warm.pin("new")["num_tokens"]) == ("active", 42)
    asked = {"model": "rig", "prompt": PROMPT, "max_tokens": 1, "temperature": 0}
    assert warm.server.asked == [{"path": "/v1/completions", **asked}]
    assert warm.rig.hit(PROMPT) == 42
    finished = warm.controller.post("/check_finish", event_id=job["event_id"]).json()
    assert finished == {"status": "done"}


def test_a_pin_on_a_disk_is_active_once_it_is_durable_there(
    controller: ControllerProcess, tmp_path: Path
) -> None:
    tiers = (
        TierConfig(MEMORY, 24 * SLOT_BYTES),
        TierConfig(DISK, 24 * FRAME_BYTES, {"path": str(tmp_path)}),
    )
    with serving(controller, tiers=tiers) as warm:
        place = {"instance_id": "warm", "location": DISK}
        assert warm.put("kept", PROMPT[:40], placements=[place])["state"] == "pending"
        assert outcomes(warm()) == {"kept": ("active", 40, True)}
        assert len(list(tmp_path.glob("*/frames/*/*"))) >= 3


def test_what_there_is_nothing_to_do_for_is_done_at_once(warm: Warm) -> None:
    warm.rig.serve(PROMPT)
    assert warm.put("there")["state"] == "active"
    for body in ({"pin_ids": ["there"]}, {"labels": {"nobody": "has"}}, {"state": "degraded"}):
        answer = warm.controller.post("/v1/pins:warm", **body)
        assert answer.status_code == 202
        job = answer.json()
        assert answer.headers["location"] == f"/v1/jobs/{job['event_id']}"
        assert (job["state"], job["placements"], job["num_tokens"]) == ("done", [], 0)
    assert not warm.server.asked


def test_pins_that_did_not_reserve_cover_more_once_it_is_computed(warm: Warm) -> None:
    warm.rig.serve(PROMPT[:16])
    assert warm.put("part", on_missing="partial")["num_tokens"] == 16
    warm.rig.serve(OTHER)
    assert warm.put("whole", OTHER, on_missing="fail")["state"] == "active"
    gone = {"instance_id": "warm", "location": MEMORY, "tokens": OTHER, "force": True}
    assert warm.controller.post("/clear", **gone).is_success
    eventually(lambda: warm.pin("whole")["state"] == "degraded")
    job = warm()
    assert outcomes(job) == {"part": ("active", 42, True), "whole": ("active", 42, True)}


def test_what_somebody_has_computed_meanwhile_is_not_computed_again(warm: Warm) -> None:
    assert warm.put("part", on_missing="partial")["num_tokens"] == 0
    warm.rig.serve(PROMPT)
    # The pin has asked for no more than there was, so that nobody has told it.
    assert warm.pin("part")["num_tokens"] == 0
    assert outcomes(warm()) == {"part": ("active", 42, False)}
    assert not warm.server.asked


def test_what_fails_says_why_and_stops_nothing_else(warm: Warm) -> None:
    warm.put("good", PROMPT)
    faults = {"long": TOO_LONG, "broken": BROKEN, "lies": LIES, "hangs": HANGS, "drips": DRIPS}
    for name, first in faults.items():
        warm.put(name, [first, *SHORT])
    warm.put("zgood", OTHER)
    with warm.controller.peer("mute") as peer:
        place = {"instance_id": "mute", "location": MEMORY}
        warm.put("mute", placements=[place])
        with warm.controller.peer("gone", serving_url="http://127.0.0.1:1") as gone:
            warm.put("gone", placements=[{**place, "instance_id": "gone"}])
            warm.put("away", placements=[{**place, "instance_id": "gone"}], tokens=SHORT)
            nobody = warm(pin_ids=["gone"])
            gone.stop()
            eventually(lambda: warm.controller.state("gone") == "stopped")
        peer.refusal = ("capacity", {})
        job = warm(pin_ids=["good", "long", "broken", "lies", "zgood", "mute", "gone", "away"])
    slow = warm(pin_ids=["hangs", "drips"], prompt_timeout_s=0.3)
    assert (job["state"], job["asked"], job["answered"]) == ("failed", 8, 8)
    assert "6 of 8 placements are not active" in job["detail"]
    assert job["num_tokens"] == 84
    found = outcomes(job)
    assert found.pop("good") == found.pop("zgood") == ("active", 42, True)
    assert found.pop("lies") == ("pending", 0, True)
    assert set(found.values()) == {("pending", 0, False)}
    why = reasons(job)
    assert "maximum context length is 20 tokens" in why["long"]
    assert "500 out of memory" in why["broken"]
    assert "none of its tokens are cached yet" in why["lies"]
    assert "its server has computed it, and still" in why["lies"]
    assert set(outcomes(slow).values()) == {("pending", 0, False)}
    for reason in reasons(slow).values():
        assert "/v1/completions" in reason
        assert "0.3" in reason
    assert warm.server.left_alone.wait(10), "the connection is cut, whatever still comes"
    assert "refused: capacity" in why["mute"]
    assert "is stopped" in why["away"]
    assert "Connection refused" in reasons(nobody)["gone"]


def test_a_server_that_fails_again_and_again_is_asked_no_more(warm: Warm) -> None:
    for number in range(5):
        warm.put(f"p{number}", [BROKEN, number, *SHORT])
    assert warm.put("refused", [TOO_LONG, *SHORT])["state"] == "pending"
    job = warm(pin_ids=["p0", "p1", "refused", "p2", "p3", "p4"])
    assert (job["asked"], job["answered"], job["num_tokens"]) == (6, 6, 0)
    # A refusal is an answer: the count begins anew behind it.
    assert len(warm.server.asked) == 6
    job = warm(pin_ids=["p0", "p1", "p2", "p3", "p4"])
    assert len(warm.server.asked) == 6 + 3
    why = reasons(job)["p4"]
    assert "failed 3 times and is asked no more" in why
    assert "500 out of memory" in why


def test_an_instance_without_a_server_says_so(warm: Warm) -> None:
    with warm.controller.peer("mute"):
        warm.put("mute", placements=[{"instance_id": "mute", "location": MEMORY}])
        job = warm(pin_ids=["mute"])
    assert outcomes(job) == {"mute": ("pending", 0, False)}
    assert "set serving_url in the engine's configuration" in reasons(job)["mute"]


def test_a_scope_is_told_to_the_server_where_it_can_be(warm: Warm) -> None:
    warm.put("salted", cache_salt="secret")
    warm.put("tagged", tags={"team": "blue"})
    warm.put("adapted", adapter=ADAPTER)
    job = warm(cache_salt="wrong", adapters={"bb" * 32: "another"})
    assert outcomes(job) == {
        "adapted": ("pending", 0, False),
        "salted": ("pending", 0, False),
        "tagged": ("active", 42, True),
    }
    assert "give its cache_salt" in reasons(job)["salted"]
    assert "give adapters" in reasons(job)["adapted"]
    job = warm(cache_salt="secret", adapters={ADAPTER: "my-adapter"})
    assert outcomes(job) == {"adapted": ("active", 42, True), "salted": ("active", 42, True)}
    assert all("secret" not in str(asked) for asked in warm.server.asked if asked["model"] != "rig")


def test_an_owner_warms_only_his_own(warm: Warm) -> None:
    warm.put("his", owner="him", labels={"kind": "system"})
    warm.put("hers", OTHER, owner="her", labels={"kind": "system"})
    refused = warm.controller.post("/v1/pins:warm", owner="him", pin_ids=["his", "hers"])
    assert refused.status_code == 404
    assert "unknown pin of owner 'him' 'hers'" in refused.json()["detail"]
    assert outcomes(warm(owner="him", labels={"kind": "system"})) == {"his": ("active", 42, True)}
    assert warm.pin("hers")["state"] == "pending"
    assert warm.controller.post("/v1/pins:warm", pin_ids=["none"]).status_code == 404


def test_pins_are_selected_as_they_are_listed(warm: Warm) -> None:
    with warm.controller.peer("second", serving_url=warm.server.url):
        both = [{"instance_id": name, "location": MEMORY} for name in ("warm", "second")]
        warm.put("both", placements=both)
        assert warm(location="nowhere")["placements"] == []
        assert warm(namespace="peer", instance_id="warm")["placements"] == []
        job = warm(namespace="rig", labels={})
        assert [p["instance_id"] for p in job["placements"]] == ["warm"]
        assert job["state"] == "done"
        assert warm.pin("both")["state"] == "pending", "the other placement was not meant"
        assert warm.controller.post("/v1/pins:warm", namespace="none").status_code == 404
        listed = warm.controller.client.get("/v1/pins", params={"namespace": "rig"}).json()["pins"]
        assert [pin["pin_id"] for pin in listed] == ["both"]


def test_a_namespace_that_nobody_serves_says_so(warm: Warm) -> None:
    with warm.controller.peer("brief", namespace=BRIEF):
        warm.put("later", placements=[{"namespace": "brief", "location": MEMORY}])
    eventually(lambda: warm.controller.state("brief") == "stopped")
    job = warm(pin_ids=["later"])
    (placement,) = job["placements"]
    assert (placement["instance_id"], placement["num_tokens"]) == (None, 0)
    assert "no live instance serves its namespace" in placement["reason"]


def test_a_rank_of_a_server_is_asked_by_its_header(warm: Warm) -> None:
    seen: list[str | None] = []
    with ExitStack() as stack:
        peers: dict[str, EnginePeer] = {}

        def compute(body: dict[str, Any], headers: Mapping[str, str]) -> None:
            seen.append(headers.get("X-data-parallel-rank"))
            peers[f"dp_dp{seen[-1]}"].cache(body["prompt"])

        server = stack.enter_context(completions(compute))
        for name in ("dp_dp0", "dp_dp1"):
            peer = warm.controller.peer(name, serving_url=server.url)
            peers[name] = stack.enter_context(peer)
        warm.put("ranks", placements=[{"instance_id": "dp", "location": MEMORY}])
        job = warm(pin_ids=["ranks"])
        assert job["state"] == "done", job
        assert sorted(map(str, seen)) == ["0", "1"]
        # Where a rank has a server of its own, that has no other.
        seen.clear()
        alone = stack.enter_context(completions(compute))
        peers["dp_dpNone"] = stack.enter_context(
            warm.controller.peer("one_dp1", serving_url=alone.url)
        )
        warm.put("alone", placements=[{"instance_id": "one_dp1", "location": MEMORY}])
        assert warm(pin_ids=["alone"])["state"] == "done"
        assert seen == [None]


def test_of_one_server_prompts_are_computed_one_by_one(warm: Warm) -> None:
    for number in range(4):
        warm.put(f"pin{number}", [number + 1, *SHORT])
    assert warm()["state"] == "done"
    assert (len(warm.server.asked), warm.server.most) == (4, 1)


def test_what_a_controller_had_under_way_when_it_ended_is_no_success(
    own_controller: ControllerProcess,
) -> None:
    with serving(own_controller) as warm:
        warm.put("hangs", [HANGS, *SHORT])
        job = own_controller.post("/v1/pins:warm").json()
        assert warm.server.hanging.wait(10)
        running = own_controller.post("/check_finish", event_id=job["event_id"]).json()
        assert running == {"status": "running", "asked": 1, "answered": 0}
        # Far sooner than the two minutes that the server has.
        assert own_controller.stop() == 0
        own_controller.start()
        job = own_controller.client.get(f"/v1/jobs/{job['event_id']}").json()
        assert job["state"] == "failed"
        assert "the controller ended" in job["detail"]
        eventually(lambda: own_controller.state("warm") == "live")
        job = own_controller.post("/v1/pins:warm").json()
        eventually(lambda: len(warm.server.asked) == 2)
        own_controller.kill()
        own_controller.start()
        job = own_controller.client.get(f"/v1/jobs/{job['event_id']}").json()
        assert job["state"] == "unknown"


def test_one_job_warms_so_many_placements_and_no_more() -> None:
    async def start(count: int) -> int:
        directory, ledger, jobs = Directory(), Ledger(), Jobs()
        commands = Commands(lambda _peer, _message: asyncio.sleep(0, result=False))
        warmer = Warmer(directory, ledger, PinKeeper(directory, ledger, commands), jobs)
        content = PinContent(owner="o", places=(), tokens=tokens_to_bytes(PROMPT))
        for number in range(count):
            place = PlaceState(location=MEMORY, identity=b"")
            ledger.put(f"p{number}", content, {"nobody": place})
        try:
            return warmer.start(ledger.rows(), Selection(), Order(1.0, Secrets())).asked
        finally:
            await warmer.close()

    assert asyncio.run(start(MAX_PLACEMENTS)) == MAX_PLACEMENTS
    with pytest.raises(FieldError, match=f"{MAX_PLACEMENTS + 1} placements are not active"):
        asyncio.run(start(MAX_PLACEMENTS + 1))


def test_a_prompt_with_pictures_in_it_cannot_be_told() -> None:
    scope = Scope(placeholders=(Placeholder("digest", 3),))
    content = PinContent(owner="o", places=(), tokens=tokens_to_bytes(PROMPT), scope=scope)
    with pytest.raises(InexpressibleError, match="pictures"):
        completion(content, "m", Secrets())
