"""The incumbent's routes: its JSON to the letter, honest answers to mistakes."""

from __future__ import annotations

import concurrent.futures
import json
import re
import time

import httpx
import pytest

from lmcache_core.api.messages import (
    ClearCommand,
    HealthCommand,
    PinCommand,
    RenewCommand,
    SettleCommand,
)
from lmcache_core.api.pins import OnMissing
from lmcache_core.keys import Scope
from tests.controller.controller_process import ControllerProcess
from tests.controller.engine_peer import DISK, MEMORY, EnginePeer, eventually

PROMPT = list(range(1, 43))
UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"


def pin(
    controller: ControllerProcess, peer: EnginePeer, tokens: object = PROMPT, **extra: object
) -> httpx.Response:
    body = {"instance_id": peer.instance_id, "location": MEMORY, "tokens": tokens, **extra}
    return controller.post("/pin", **body)


def test_a_pin_answers_what_was_pinned_in_the_classic_form(
    controller: ControllerProcess, peer: EnginePeer
) -> None:
    peer.cache(PROMPT)
    answer = pin(controller, peer)
    assert answer.status_code == 200
    body = answer.json()
    assert list(body) == ["event_id", "num_tokens"]
    assert re.fullmatch(f"Pin_{UUID}", body["event_id"])
    assert body["num_tokens"] == 42
    assert controller.post("/check_finish", event_id=body["event_id"]).json() == {"status": "done"}


def test_tokens_never_seen_pin_none_and_leave_nothing(
    controller: ControllerProcess, peer: EnginePeer
) -> None:
    answer = pin(controller, peer)
    assert (answer.status_code, answer.json()["num_tokens"]) == (200, 0)
    assert controller.post("/pins", instance_id=peer.instance_id).json()["pins"] == []
    assert not peer.held


def test_the_cached_part_of_a_prompt_is_pinned(
    controller: ControllerProcess, peer: EnginePeer
) -> None:
    peer.cache(PROMPT[:32])
    assert pin(controller, peer).json()["num_tokens"] == 32
    (shown,) = controller.post("/pins", instance_id=peer.instance_id).json()["pins"]
    assert (shown["state"], shown["num_tokens"], shown["tokens_asked"]) == ("partial", 32, 42)
    assert shown["first_missing"] == 32


def test_the_same_body_renews_one_pin(controller: ControllerProcess, peer: EnginePeer) -> None:
    peer.cache(PROMPT)
    for ttl in (100, 200):
        assert pin(controller, peer, ttl_s=ttl).json()["num_tokens"] == 42
    (shown,) = controller.post("/pins", instance_id=peer.instance_id).json()["pins"]
    assert 150 < shown["expires_in_seconds"] <= 200
    (made,), (renewed,) = peer.asked(PinCommand), peer.asked(RenewCommand)
    assert made.pin.version == renewed.renewal.since < renewed.renewal.version
    assert list(peer.held) == [made.pin.pin_id]


@pytest.mark.parametrize("lost", [False, True])
def test_a_pin_that_an_engine_may_have_lost_is_asked_for_with_its_tokens(
    controller: ControllerProcess, peer: EnginePeer, *, lost: bool
) -> None:
    peer.cache(PROMPT if lost else PROMPT[:16])
    pin(controller, peer, ttl_s=100)
    if lost:
        peer.held.clear()  # as by a change that it has not told of yet
    assert pin(controller, peer, ttl_s=200).json()["num_tokens"] == (42 if lost else 16)
    assert len(peer.asked(RenewCommand)) == lost
    assert [len(each.pin.tokens) for each in peer.asked(PinCommand)] == [168, 168]


def test_scope_owner_and_labels_reach_the_engine(
    controller: ControllerProcess, peer: EnginePeer
) -> None:
    scope = Scope.of(cache_salt="secret", adapter="lora")
    peer.cache(PROMPT, scope=scope)
    assert pin(controller, peer).json()["num_tokens"] == 0
    answer = pin(
        controller,
        peer,
        cache_salt="secret",
        adapter="lora",
        owner="me",
        labels={"a": "b"},
        on_missing="reserve",
        ttl_s=30,
    )
    assert answer.json()["num_tokens"] == 42
    asked = peer.asked(PinCommand)[-1].pin
    assert (asked.scope, asked.owner, asked.labels) == (scope, "me", {"a": "b"})
    assert asked.on_missing is OnMissing.RESERVE
    assert 29 < asked.ttl_seconds <= 30
    assert "secret" not in controller.post("/pins").text


@pytest.mark.parametrize("how", ["pin_id", "event_id", "body"])
def test_unpin_takes_the_id_the_event_or_the_body(
    controller: ControllerProcess, peer: EnginePeer, how: str
) -> None:
    peer.cache(PROMPT)
    event = pin(controller, peer).json()["event_id"]
    (shown,) = controller.post("/pins", instance_id=peer.instance_id).json()["pins"]
    given = {
        "pin_id": {"pin_id": shown["pin_id"]},
        "event_id": {"event_id": event},
        "body": {"instance_id": peer.instance_id, "location": MEMORY, "tokens": PROMPT},
    }[how]
    answer = controller.post("/unpin", **given)
    assert (answer.status_code, answer.json()["num_tokens"]) == (200, 42)
    assert not peer.held
    again = controller.post("/unpin", **given)
    if how == "pin_id":
        assert again.status_code == 404
    else:
        assert (again.status_code, again.json()["num_tokens"]) == (200, 0)


def test_a_released_pin_can_be_made_again(controller: ControllerProcess, peer: EnginePeer) -> None:
    peer.cache(PROMPT)
    for _ in range(3):
        assert pin(controller, peer).json()["num_tokens"] == 42
        released = controller.post(
            "/unpin", instance_id=peer.instance_id, location=MEMORY, tokens=PROMPT
        )
        assert released.json()["num_tokens"] == 42


def test_an_unknown_instance_is_404_and_names_the_known(
    controller: ControllerProcess, peer: EnginePeer
) -> None:
    for path in ("/pin", "/clear"):
        answer = controller.post(path, instance_id="nobody", location=MEMORY, tokens=[1])
        assert answer.status_code == 404
        assert answer.headers["content-type"] == "application/problem+json"
        assert peer.instance_id in answer.json()["available"]
        assert "'nobody'" in answer.json()["detail"]
    assert controller.post("/health", instance_id="nobody").status_code == 404
    assert controller.post("/query_worker_info", instance_id="nobody").status_code == 404


def test_an_unknown_location_is_404_and_names_the_instances(
    controller: ControllerProcess, peer: EnginePeer
) -> None:
    for path in ("/pin", "/clear", "/unpin"):
        answer = controller.post(
            path, instance_id=peer.instance_id, location="LocalGPUBackend", tokens=[1]
        )
        assert answer.status_code == 404
        known = [MEMORY, DISK] if path == "/clear" else [MEMORY, DISK, "any"]
        assert answer.json()["available"] == known
    assert not peer.commands


@pytest.mark.parametrize(
    "tokens",
    [
        "[]",
        "[-1]",
        "[4294967296]",
        "[1e99]",
        "[1.0]",
        "[1.5]",
        "[true]",
        '["1"]',
        "[null]",
        "[[1]]",
        "{}",
        "null",
        '"1,2"',
        "1",
    ],
)
def test_tokens_that_are_no_token_ids_are_422_in_one_line(
    controller: ControllerProcess, peer: EnginePeer, tokens: str
) -> None:
    for path in ("/pin", "/lookup"):
        body = (
            f'"instance_id":"{peer.instance_id}","location":"{MEMORY}",' if path == "/pin" else ""
        )
        answer = controller.client.post(path, content=f'{{{body}"tokens":{tokens}}}')
        assert answer.status_code == 422, answer.text
        detail = answer.json()["detail"]
        assert detail.startswith("tokens")
        assert "\n" not in detail
    assert not peer.commands


def test_the_highest_token_id_is_one(controller: ControllerProcess, peer: EnginePeer) -> None:
    peer.cache([0, 2**32 - 1])
    assert pin(controller, peer, [0, 2**32 - 1]).json()["num_tokens"] == 2


def test_unknown_fields_are_422_and_named(controller: ControllerProcess, peer: EnginePeer) -> None:
    answer = pin(controller, peer, tll_s=3, ownr="x")
    assert answer.status_code == 422
    assert "'tll_s', 'ownr'" in answer.json()["detail"]
    assert not peer.commands


@pytest.mark.parametrize("body", ["", "{", "nonsense", '{"tokens":[1}', "\xff", "[" * 100_000])
def test_what_is_no_json_is_a_problem_of_the_caller(
    controller: ControllerProcess, body: str
) -> None:
    answer = controller.client.post("/pin", content=body.encode("latin-1"))
    assert answer.status_code in (400, 422)
    assert answer.headers["content-type"] == "application/problem+json"
    assert "\n" not in answer.json()["detail"]


def test_a_body_too_large_is_413(controller: ControllerProcess) -> None:
    answer = controller.client.post("/pin", content=b" " * (17 << 20))
    assert answer.status_code == 413


@pytest.mark.parametrize(
    ("error", "status"),
    [
        ("capacity", 507),
        ("conflict", 409),
        ("missing", 409),
        ("invalid", 422),
        ("unknown_location", 404),
        ("deadline", 504),
        ("internal", 503),
        ("something new", 503),
    ],
)
def test_an_engines_refusal_has_its_status_and_numbers(
    controller: ControllerProcess, peer: EnginePeer, error: str, status: int
) -> None:
    peer.cache(PROMPT)
    peer.refusal = (error, {"asked_bytes": 5, "used_bytes": 3, "limit_bytes": 4})
    answer = pin(controller, peer)
    assert answer.status_code == status
    assert answer.json()["facts"] == {"asked_bytes": 5, "used_bytes": 3, "limit_bytes": 4}
    assert controller.post("/pins", instance_id=peer.instance_id).json()["pins"] == []


def test_a_refused_renewal_leaves_the_pin_as_it_was(
    controller: ControllerProcess, peer: EnginePeer
) -> None:
    peer.cache(PROMPT)
    pin(controller, peer, ttl_s=50)
    peer.refusal = ("capacity", {})
    assert pin(controller, peer, ttl_s=5000).status_code == 507
    peer.refusal = None

    def shown() -> dict[str, object]:
        found = controller.post("/pins", instance_id=peer.instance_id).json()["pins"]
        return dict(found[0])

    assert shown()["ttl_s"] == 50
    eventually(lambda: shown()["state"] == "active")


def test_sixty_four_pins_at_once_all_succeed(
    controller: ControllerProcess, peer: EnginePeer
) -> None:
    prompts = [[number, *PROMPT] for number in range(32)]
    for prompt in prompts:
        peer.cache(prompt)
    with concurrent.futures.ThreadPoolExecutor(64) as pool:
        # Each of them twice, so that pins of one name meet as well.
        answers = list(pool.map(lambda p: pin(controller, peer, p), prompts * 2))
    assert [a.status_code for a in answers] == [200] * 64, [a.text for a in answers]
    assert {a.json()["num_tokens"] for a in answers} == {43}
    assert len(peer.held) == 32


def test_a_silent_engine_is_504_at_the_deadline(
    controller: ControllerProcess, peer: EnginePeer
) -> None:
    peer.cache(PROMPT)
    peer.answering = False
    began = time.monotonic()
    answer = pin(controller, peer, timeout_s=0.5)
    assert answer.status_code == 504
    assert 0.4 < time.monotonic() - began < 3
    assert (
        controller.post("/health", instance_id=peer.instance_id, timeout_s=0.2).status_code == 504
    )
    place = {"instance_id": peer.instance_id, "location": MEMORY}
    assert controller.post("/clear", **place, timeout_s=0.2).status_code == 504
    asked = peer.asked(PinCommand)[0]
    assert 0 < asked.deadline_seconds <= 0.5


def test_a_pin_that_was_answered_too_late_is_known_all_the_same(
    controller: ControllerProcess, peer: EnginePeer
) -> None:
    peer.cache(PROMPT)
    peer.before_reply = lambda _command: time.sleep(0.6)
    assert pin(controller, peer, timeout_s=0.3).status_code == 504
    eventually(
        lambda: [
            p
            for p in controller.post("/pins", instance_id=peer.instance_id).json()["pins"]
            if p["state"] == "active"
        ]
    )


def test_an_engine_that_stops_while_it_is_waited_for_is_503_at_once(
    controller: ControllerProcess, peer: EnginePeer
) -> None:
    peer.cache(PROMPT)
    peer.answering = False
    began = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(pin, controller, peer)
        eventually(lambda: peer.asked(PinCommand))
        peer.stop()
        answer = waiting.result()
    assert answer.status_code == 503
    assert answer.headers["retry-after"]
    assert time.monotonic() - began < 5
    assert pin(controller, peer).status_code == 503


def test_lookup_counts_whole_chunks_and_the_exact_tail(
    controller: ControllerProcess, peer: EnginePeer
) -> None:
    peer.cache(PROMPT)

    def found(tokens: list[int]) -> object:
        answer = controller.post("/lookup", tokens=tokens)
        assert re.fullmatch(f"Lookup_{UUID}", answer.json()["event_id"])
        return answer.json()["layout_info"].get(peer.instance_id)

    assert found(PROMPT) == [MEMORY, 42]
    assert found(PROMPT[:32]) == [MEMORY, 32]
    assert found(PROMPT[:20]) == [MEMORY, 16]
    assert found([*PROMPT, 9]) == [MEMORY, 32]
    assert found([7, *PROMPT]) is None
    peer.cache([*PROMPT, *range(100, 110)], DISK)
    assert found([*PROMPT, *range(100, 110)]) == [DISK, 52]
    peer.evict(PROMPT)
    assert found(PROMPT) == [DISK, 32]


def test_lookup_counts_what_the_tiers_of_an_engine_hold_together(
    controller: ControllerProcess, peer: EnginePeer
) -> None:
    peer.cache(PROMPT, DISK)
    peer.cache(PROMPT[:16])
    peer.evict(PROMPT[:16], DISK)
    for tells_facts in (False, True):
        peer.tells_facts = tells_facts
        answer = controller.post("/lookup", tokens=PROMPT)
        assert answer.json()["layout_info"][peer.instance_id] == [MEMORY, 42]


def test_lookup_takes_what_an_engine_says_to_the_token(
    controller: ControllerProcess, peer: EnginePeer
) -> None:
    peer.tells_facts = True
    peer.cache(PROMPT)
    answer = controller.post("/lookup", tokens=PROMPT)
    assert answer.json()["layout_info"][peer.instance_id] == [MEMORY, 42]


def test_lookup_asks_engines_to_settle_and_goes_on_without_those_that_do_not(
    controller: ControllerProcess, peer: EnginePeer
) -> None:
    def store_first(command: object) -> None:
        if isinstance(command, SettleCommand):
            peer._admit(peer._keys(command.tokens, command.scope), MEMORY)

    peer.before_reply = store_first
    answer = controller.post("/lookup", tokens=PROMPT)
    assert answer.json()["layout_info"][peer.instance_id] == [MEMORY, 42]
    peer.answering = False
    began = time.monotonic()
    answer = controller.post("/lookup", tokens=PROMPT)
    assert answer.json()["layout_info"][peer.instance_id] == [MEMORY, 42]
    assert time.monotonic() - began < 3


def test_lookup_keeps_salts_and_adapters_apart(
    controller: ControllerProcess, peer: EnginePeer
) -> None:
    peer.cache(PROMPT, scope=Scope.of(cache_salt="s"))

    def found(**scope: str) -> bool:
        answer = controller.post("/lookup", tokens=PROMPT, **scope)
        return peer.instance_id in answer.json()["layout_info"]

    assert found(cache_salt="s")
    assert not found()
    assert not found(cache_salt="t")
    assert not found(cache_salt="s", adapter="a")


def test_clear_asks_the_engine_and_answers_its_number(
    controller: ControllerProcess, peer: EnginePeer
) -> None:
    peer.cache(PROMPT)
    answer = controller.post("/clear", instance_id=peer.instance_id, location=MEMORY)
    assert (answer.status_code, answer.json()["num_tokens"]) == (200, 3)
    assert re.fullmatch(f"Clear_{UUID}", answer.json()["event_id"])
    controller.post(
        "/clear", instance_id=peer.instance_id, location=MEMORY, tokens=[1], cache_salt="s"
    )
    everything, some = peer.asked(ClearCommand)
    assert (everything.tokens, everything.force) == (b"", False)
    assert (some.tokens, some.scope) == (b"\1\0\0\0", Scope.of(cache_salt="s"))
    assert controller.post("/lookup", tokens=PROMPT).json()["layout_info"] == {}


def test_clear_with_an_empty_list_clears_nothing(
    controller: ControllerProcess, peer: EnginePeer
) -> None:
    answer = controller.post("/clear", instance_id=peer.instance_id, location=MEMORY, tokens=[])
    assert answer.status_code == 422
    assert not peer.commands


def test_health_is_zero_for_each_worker(controller: ControllerProcess, peer: EnginePeer) -> None:
    answer = controller.post("/health", instance_id=peer.instance_id).json()
    assert answer["error_codes"] == {"0": 0}
    assert peer.asked(HealthCommand)


def test_query_worker_info_has_the_classic_fields(
    controller: ControllerProcess, peer: EnginePeer
) -> None:
    infos = controller.post("/query_worker_info", instance_id="all").json()["worker_infos"]
    (info,) = [item for item in infos if item["instance_id"] == peer.instance_id]
    assert list(info) == [
        "instance_id",
        "worker_id",
        "ip",
        "port",
        "peer_init_url",
        "registration_time",
        "last_heartbeat_time",
    ]
    assert (info["worker_id"], info["ip"]) == (0, "peerhost")
    assert abs(info["registration_time"] - time.time()) < 60
    none = controller.post(
        "/query_worker_info", instance_id=peer.instance_id, worker_ids=[1]
    ).json()
    assert none["worker_infos"] == []


def test_query_instance_finds_a_host_or_names_the_known(
    controller: ControllerProcess, peer: EnginePeer
) -> None:
    answer = controller.post("/query_instance", event_id="mine", ip="peerhost").json()
    assert answer["event_id"] == "mine"
    assert answer["res"].startswith("peer")
    unknown = controller.post("/query_instance", ip="192.0.2.1")
    assert unknown.status_code == 404
    assert unknown.json()["available"] == ["peerhost"]


def test_check_finish_knows_failures_and_says_so_of_unknown_events(
    controller: ControllerProcess,
) -> None:
    unknown = controller.post("/check_finish", event_id="Pin_0")
    assert unknown.status_code == 404


def test_a_servers_id_means_all_of_its_ranks(controller: ControllerProcess) -> None:
    with controller.peer("server_dp0") as first, controller.peer("server_dp1") as second:
        second.cache(PROMPT)
        body = {"instance_id": "server", "location": MEMORY}
        assert controller.post("/pin", **body, tokens=PROMPT).json()["num_tokens"] == 42
        assert len(first.held) == len(second.held) == 1
        assert controller.post("/health", instance_id="server").json()["error_codes"] == {
            "0": 0,
            "1": 0,
        }
        assert controller.post("/unpin", **body, tokens=PROMPT).json()["num_tokens"] == 42
        assert not first.held
        assert not second.held


def test_every_route_answers_other_methods_with_a_problem(controller: ControllerProcess) -> None:
    answer = controller.client.get("/pin")
    assert answer.status_code == 405
    problem = json.loads(answer.text)
    assert problem["status"] == 405
    assert "GET /schema" in problem["detail"]
    nowhere = controller.client.get("/nowhere")
    assert nowhere.status_code == 404
    assert "GET /schema" in nowhere.json()["detail"]
