"""The controller with a real engine over real shared memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from lmcache_core.api import BackendContext, Capability, StorageBackendSpec
from lmcache_core.errors import BackendError
from lmcache_core.keys import Scope
from lmcache_core.testing import DictBackend, DictConfig
from tests.controller.controller_process import ControllerProcess
from tests.controller.engine_peer import MEMORY, eventually
from tests.engine.rig import CHUNK_TOKENS, Rig, storage_spec

PROMPT = list(range(100, 142))


def rig(
    controller: ControllerProcess,
    instance_id: str,
    chunks: int = 8,
    storage: Sequence[StorageBackendSpec] = (),
) -> Rig:
    overrides: dict[str, object] = {
        "request_pin_owner": "requests",
        "request_pin_quota_bytes": 1 << 20,
        "request_pin_max_ttl_seconds": 60.0,
        "enable_controller": True,
        "controller_url": controller.monitor,
        "instance_id": instance_id,
        "heartbeat_seconds": 0.3,
    }
    return Rig(chunks=chunks, storage=storage, overrides=overrides)


@pytest.fixture
def engine(controller: ControllerProcess) -> Iterator[Rig]:
    with rig(controller, "real") as made:
        eventually(lambda: controller.state("real") == "live")
        yield made


def post(controller: ControllerProcess, path: str, **extra: object) -> int:
    body = {"instance_id": "real", "location": MEMORY, "tokens": PROMPT, **extra}
    answer = controller.post(path, **body)
    assert answer.status_code == 200, answer.text
    return int(answer.json()["num_tokens"])


def looked_up(controller: ControllerProcess, tokens: list[int], **scope: object) -> object:
    answer = controller.post("/lookup", tokens=tokens, **scope)
    return answer.json()["layout_info"].get("real")


def test_a_pinned_prompt_stays_through_a_flood(controller: ControllerProcess, engine: Rig) -> None:
    engine.serve(PROMPT)
    other = list(range(500, 542))
    engine.serve(other)
    assert post(controller, "/pin") == 42
    for number in range(12):
        engine.serve([1000 * (number + 1) + n for n in range(2 * CHUNK_TOKENS)])
    assert engine.hit(PROMPT) == 42
    assert engine.hit(other) == 0
    assert looked_up(controller, PROMPT) == [MEMORY, 42]
    assert looked_up(controller, other) is None
    assert post(controller, "/clear", tokens=None) > 0
    assert engine.hit(PROMPT) == 42
    assert post(controller, "/unpin") == 42
    assert post(controller, "/clear") == 42
    assert engine.hit(PROMPT) == 0
    assert looked_up(controller, PROMPT) is None


def test_a_tier_whose_store_is_there_late_is_seen_to_be_away_and_to_join(
    controller: ControllerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lmcache_core.engine.storage.breaker.FIRST_PAUSE_SECONDS", 0.05)
    away = threading.Event()
    away.set()

    class Late(DictBackend):
        def open(self) -> None:
            if away.is_set():
                raise BackendError("late:6379 did not answer within 5 s")

    spec = storage_spec("late", lambda _, context: Late(DictConfig(), context), Capability.SHARED)
    with rig(controller, "joins", storage=[spec]):
        eventually(lambda: controller.state("joins") == "live")

        def tier() -> Any:
            return controller.instance("joins")["tiers"][1]

        def healthy() -> float:
            name = "lmcache_controller_tier_healthy"
            return controller.metric(name, instance="joins", location="late")

        assert (tier()["healthy"], tier()["store_id"]) == (False, "")
        assert tier()["reason"] == "late:6379 did not answer within 5 s"
        assert healthy() == 0
        where = {"instance_id": "joins", "location": "late"}
        assert controller.post("/pin", **where, tokens=PROMPT).json()["num_tokens"] == 0

        def put(on_missing: str) -> dict[str, Any]:
            body = {"placements": [where], "tokens": PROMPT, "on_missing": on_missing}
            answer: dict[str, Any] = controller.client.put("/v1/pins/early", json=body).json()
            return answer

        not_in_use = "late is not in use, because its store could not be opened"
        assert not_in_use in put("fail")["detail"]
        assert put("reserve")["reason"] == f"joins: {not_in_use}"
        away.clear()
        eventually(lambda: tier()["healthy"])
        assert (tier()["reason"], tier()["store_id"][:5]) == ("", "dict:")
        assert healthy() == 1

        def reason() -> str:
            return str(controller.client.get("/v1/pins/early").json()["reason"])

        eventually(lambda: reason() == "joins: none of its tokens are cached yet")
        controller.client.delete("/v1/pins/early")


def test_a_store_under_way_is_waited_for(controller: ControllerProcess, engine: Rig) -> None:
    name = engine.begin(PROMPT)
    blocks = engine.blocks_for(len(PROMPT))
    engine.wait_match(name, len(PROMPT) - 1)
    engine._compute(blocks, bytes(4 * len(PROMPT)), len(PROMPT))
    job = engine.engine.plan_store(name, len(PROMPT), [blocks], final=True)
    assert job is not None
    import threading

    acknowledge = threading.Timer(0.3, engine.engine.acknowledge, [[job.job_id]])
    acknowledge.start()
    assert post(controller, "/pin") == 42
    acknowledge.join()
    engine.engine.finish(name)
    assert post(controller, "/unpin") == 42


def test_a_prefix_that_ends_inside_a_longer_chunk_is_found_and_pinned_to_the_token(
    controller: ControllerProcess, engine: Rig
) -> None:
    engine.serve(PROMPT)
    assert looked_up(controller, PROMPT[:37]) == [MEMORY, 37]
    assert looked_up(controller, [*PROMPT[:37], 7, 7, 7]) == [MEMORY, 37]
    assert post(controller, "/pin", tokens=PROMPT[:37]) == 37
    assert post(controller, "/unpin", tokens=PROMPT[:37]) == 37


def test_salts_are_kept_apart(controller: ControllerProcess, engine: Rig) -> None:
    engine.serve(PROMPT, Scope.of(cache_salt="s"))
    assert post(controller, "/pin") == 0
    assert post(controller, "/pin", cache_salt="s") == 42
    assert looked_up(controller, PROMPT) is None
    assert looked_up(controller, PROMPT, cache_salt="s") == [MEMORY, 42]
    assert post(controller, "/unpin", cache_salt="s") == 42


def test_tags_are_kept_apart_and_named_to_clear(controller: ControllerProcess, engine: Rig) -> None:
    team = {"team": "blue"}
    engine.serve(PROMPT, Scope.of(tags=team))
    engine.serve(PROMPT)
    assert post(controller, "/pin", tags=team) == 42
    pins = controller.client.get("/v1/pins").json()["pins"]
    assert [pin["num_tokens"] for pin in pins if pin["tags"] == team] == [42]
    assert post(controller, "/clear") == 42
    assert looked_up(controller, PROMPT) is None
    assert looked_up(controller, PROMPT, tags={"team": "red"}) is None
    assert looked_up(controller, PROMPT, tags=team) == [MEMORY, 42]
    assert post(controller, "/unpin", tags=team) == 42
    assert post(controller, "/clear", tags=team) == 42
    assert engine.hit(PROMPT, Scope.of(tags=team)) == 0


def test_more_than_the_cap_is_507_with_the_numbers(
    controller: ControllerProcess, engine: Rig
) -> None:
    prompts = [[1000 * number + n for n in range(CHUNK_TOKENS)] for number in range(1, 9)]
    for prompt in prompts:
        engine.serve(prompt)
    body = {"instance_id": "real", "location": MEMORY}
    statuses = []
    for prompt in prompts:
        answer = controller.post("/pin", **body, tokens=prompt)
        statuses.append(answer.status_code)
    # Four fifths of eight slots.
    assert statuses == [200] * 6 + [507] * 2
    facts = answer.json()["facts"]
    assert facts["used_bytes"] + facts["asked_bytes"] > facts["limit_bytes"]
    for prompt in prompts[:6]:
        controller.post("/unpin", **body, tokens=prompt)


def test_a_hit_renews_the_pin_in_the_ledger_too(controller: ControllerProcess, engine: Rig) -> None:
    engine.serve(PROMPT)
    place = {"instance_id": "real", "location": MEMORY}
    made = controller.client.put(
        "/v1/pins/hot",
        json={"placements": [place], "tokens": PROMPT, "ttl_s": 60, "renew": "on_hit"},
    ).json()
    assert made["state"] == "active"

    def expires_later() -> bool:
        engine.hit(PROMPT)
        shown = controller.client.get("/v1/pins/hot").json()
        return bool(shown["expires_at"] > made["expires_at"] + 0.5)

    eventually(expires_later)
    assert controller.client.delete("/v1/pins/hot").status_code == 200


def test_a_raised_epoch_is_told_and_pins_become_pending(
    controller: ControllerProcess, engine: Rig
) -> None:
    engine.serve(PROMPT)
    assert post(controller, "/pin") == 42
    with engine.engine.tiers.lock:
        engine.engine.tiers.raise_epoch()
    eventually(lambda: controller.instance("real")["namespace"]["weights_epoch"] == 1)
    eventually(
        lambda: controller.post("/pins", instance_id="real").json()["pins"][0]["state"] == "pending"
    )
    assert looked_up(controller, PROMPT) is None
    engine.serve(PROMPT)
    eventually(
        lambda: controller.post("/pins", instance_id="real").json()["pins"][0]["state"] == "active"
    )
    assert looked_up(controller, PROMPT) == [MEMORY, 42]
    assert post(controller, "/unpin") == 42


def test_an_engine_that_restarts_is_given_its_pins_back(controller: ControllerProcess) -> None:
    body = {"instance_id": "again", "location": MEMORY, "tokens": PROMPT}
    with rig(controller, "again") as first:
        eventually(lambda: controller.state("again") == "live")
        first.serve(PROMPT)
        assert controller.post("/pin", **body).json()["num_tokens"] == 42
    with rig(controller, "again") as second:
        eventually(lambda: controller.state("again") == "live")

        def shown() -> dict[str, object]:
            return dict(controller.post("/pins", instance_id="again").json()["pins"][0])

        eventually(lambda: shown()["placements"][0]["reserved_bytes"] > 0)  # type: ignore[index]
        assert (shown()["state"], shown()["num_tokens"]) == ("pending", 0)
        second.serve(PROMPT)
        eventually(lambda: shown()["state"] == "active")
        for number in range(12):
            second.serve([1000 * (number + 1) + n for n in range(2 * CHUNK_TOKENS)])
        assert second.hit(PROMPT) == 42
        assert controller.post("/unpin", **body).json()["num_tokens"] == 42


def test_the_name_of_a_request_follows_it_into_the_engines_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = tmp_path / "log"
    with ControllerProcess(log, "--log-level", "debug") as own, rig(own, "real") as made:
        eventually(lambda: own.state("real") == "live")
        made.serve(PROMPT)
        body = {"instance_id": "real", "location": MEMORY, "tokens": PROMPT}
        with caplog.at_level("INFO", logger="lmcache.engine.control.commands"):
            named = own.client.post("/pin", json=body, headers={"X-Request-ID": "ticket-7:a"})
            odd = own.client.post("/pin", json=body, headers={"X-Request-ID": "two words"})
        assert named.headers["X-Request-ID"] == "ticket-7:a"
        given = odd.headers["X-Request-ID"]
        assert given != "two words"
        lines = [record.getMessage() for record in caplog.records]
        for name in ("ticket-7:a", given):
            (line,) = (line for line in lines if f"request_id='{name}'" in line)
            assert line.startswith("event='command.answered'")
            assert "num_tokens=42" in line
    served = [line for line in log.read_text().splitlines() if "request.served" in line]
    assert any("request_id='ticket-7:a'" in line and "path='/pin'" in line for line in served)


def test_chunks_are_moved_and_copied_between_the_tiers(controller: ControllerProcess) -> None:
    store = DictBackend(DictConfig(), BackendContext(instance_id="moving", tier="dict"))
    spec = storage_spec("dict", lambda _config, _context: store, Capability.NONE)
    tokens = list(range(700, 700 + 2 * CHUNK_TOKENS))

    def move(old: list[str], new: list[str], **extra: object) -> httpx.Response:
        body = {"old_position": old, "new_position": new, "tokens": tokens, **extra}
        return controller.post("/move", **body)

    with rig(controller, "moving", storage=[spec]) as made:
        eventually(lambda: controller.state("moving") == "live")
        made.serve(tokens)
        memory, below = ["moving", MEMORY], ["moving", "dict"]
        answer = move(memory, below)
        assert answer.json()["num_tokens"] == len(tokens)
        done = controller.post("/check_finish", event_id=answer.json()["event_id"])
        assert done.json() == {"status": "done"}
        found = controller.post("/lookup", tokens=tokens).json()["layout_info"]
        assert found == {"moving": ["dict", len(tokens)]}
        assert move(below, memory, should_copy=True).json()["num_tokens"] == len(tokens)
        body = {"instance_id": "moving", "location": MEMORY, "tokens": tokens}
        assert controller.post("/pin", **body).json()["num_tokens"] == len(tokens)
        pinned = move(memory, below)
        assert pinned.status_code == 409
        assert "release the pin" in pinned.json()["detail"]
        assert move(memory, below, tags={"a": "b"}).json()["num_tokens"] == 0
        nowhere = move(memory, ["moving", "nowhere"])
        assert nowhere.status_code == 404
        assert nowhere.json()["available"] == [MEMORY, "dict"]
        assert move(memory, ["nobody-at-all", MEMORY]).status_code == 404
        assert move(memory, memory).status_code == 422


def found(controller: ControllerProcess, pin_id: str) -> Any:
    """A pin as the controller has it, or None."""
    answer = controller.client.get(f"/v1/pins/{pin_id}")
    return answer.json() if answer.status_code == 200 else None


def ask_for_pin(engine: Rig, tokens: list[int], **wish: object) -> str:
    """Serve a prompt that asks for a pin of its own; the pin's name."""
    engine.serve(tokens)
    name = engine.begin(tokens)
    engine.wait_match(name, len(tokens) - 1)
    promise = engine.engine.pin(name, len(tokens), wish)
    engine.engine.finish(name)
    return promise.pin_id


def test_a_pin_that_a_request_asked_for_is_in_the_ledger(
    controller: ControllerProcess, engine: Rig
) -> None:
    name = ask_for_pin(engine, PROMPT, ttl_s=30)
    row = eventually(lambda: found(controller, name))
    assert (row["owner"], row["state"], row["num_tokens"]) == ("requests", "active", 42)
    # It is renewed as any other, and ended as any other.
    assert ask_for_pin(engine, PROMPT, ttl_s=45) == name
    eventually(lambda: found(controller, name)["version"] > row["version"])
    controller.client.delete(f"/v1/pins/{name}").raise_for_status()
    eventually(lambda: engine.engine.tiers.pins.report(name) is None)
    assert found(controller, name) is None


def test_a_request_does_not_take_over_the_pin_of_another_owner(
    controller: ControllerProcess, engine: Rig
) -> None:
    engine.serve(PROMPT)
    place = {"instance_id": "elsewhere", "location": MEMORY}
    with rig(controller, "elsewhere") as other:
        eventually(lambda: controller.state("elsewhere") == "live")
        other.serve(PROMPT)
        body = {"placements": [place], "tokens": PROMPT[:16]}
        controller.client.put("/v1/pins/p", json=body).raise_for_status()
        ask_for_pin(engine, PROMPT, pin_id="p")
        after = ask_for_pin(engine, PROMPT, pin_id="after")
        eventually(lambda: found(controller, after))
        eventually(lambda: engine.engine.tiers.pins.report("p") is None)
        assert found(controller, "p")["tokens_asked"] == 16
