"""Registration, incarnations, silence, gaps, garbage."""

from __future__ import annotations

import msgspec
import pytest

from lmcache_core.api.messages import Events, Heartbeat, PinCommand, Register, Reply
from lmcache_core.keys import EMPTY_SCOPE, tokens_to_bytes
from tests.controller.controller_process import ControllerProcess
from tests.controller.engine_peer import MEMORY, NAMESPACE, EnginePeer, eventually

PROMPT = list(range(1, 43))


def looked_up(controller: ControllerProcess, instance_id: str) -> list[object] | None:
    answer = controller.post("/lookup", tokens=PROMPT, timeout_s=0.05)
    found: list[object] | None = answer.json()["layout_info"].get(instance_id)
    return found


def pinned(controller: ControllerProcess, instance_id: str) -> int:
    body = {"instance_id": instance_id, "location": MEMORY, "tokens": PROMPT}
    answer = controller.post("/pin", **body)
    assert answer.status_code == 200, answer.text
    return int(answer.json()["num_tokens"])


def test_an_engine_is_shown_as_it_registered(
    controller: ControllerProcess, peer: EnginePeer
) -> None:
    shown = controller.instance(peer.instance_id)
    assert shown["state"] == "live"
    assert shown["incarnation"] == peer.incarnation
    assert shown["namespace_digest"] == NAMESPACE.digest().hex()
    assert [tier["location"] for tier in shown["tiers"]] == list(peer.locations)
    eventually(lambda: controller.instance(peer.instance_id)["counters"] == {"hit_tokens": 3})
    listed = controller.client.get("/v1/instances").json()["instances"]
    assert peer.instance_id in [item["instance_id"] for item in listed]
    unknown = controller.client.get("/v1/instances/nobody")
    assert unknown.status_code == 404


def test_an_engine_that_says_goodbye_is_stopped(controller: ControllerProcess) -> None:
    with controller.peer("leaving") as peer:
        peer.cache(PROMPT)
        assert looked_up(controller, "leaving")
    eventually(lambda: controller.state("leaving") == "stopped")
    assert looked_up(controller, "leaving") is None
    answer = controller.post("/pin", instance_id="leaving", location=MEMORY, tokens=[1])
    assert answer.status_code == 503
    assert "has stopped" in answer.json()["detail"]


def test_an_engine_that_falls_silent_is_dropped_and_comes_back_by_itself(
    controller: ControllerProcess, peer: EnginePeer
) -> None:
    peer.cache(PROMPT)
    assert pinned(controller, peer.instance_id) == 42
    peer.pause()
    eventually(lambda: controller.state(peer.instance_id) == "silent")
    assert looked_up(controller, peer.instance_id) is None
    (shown,) = controller.post("/pins", instance_id=peer.instance_id).json()["pins"]
    assert (shown["state"], shown["num_tokens"]) == ("pending", 0)
    peer.resume()
    eventually(lambda: controller.state(peer.instance_id) == "live")
    assert eventually(lambda: looked_up(controller, peer.instance_id)) == [MEMORY, 42]
    (shown,) = controller.post("/pins", instance_id=peer.instance_id).json()["pins"]
    assert (shown["state"], shown["num_tokens"]) == ("active", 42)


def test_of_two_live_engines_the_first_keeps_the_id(controller: ControllerProcess) -> None:
    with controller.peer("twice") as first:
        second = controller.peer("twice")
        eventually(lambda: len(second.refused) >= 2)
        assert "lmcache_instance_id" in second.refused[0]
        assert not second.welcomes
        assert controller.instance("twice")["incarnation"] == first.incarnation
        first.stop()
        second.wait_welcome()
        assert controller.instance("twice")["incarnation"] == second.incarnation
        second.stop()


def test_a_killed_engines_successor_takes_its_place_at_once(
    controller: ControllerProcess,
) -> None:
    first = controller.peer("heir", heartbeat_seconds=30)
    first.wait_welcome()
    first.cache(PROMPT)
    assert pinned(controller, "heir") == 42
    first.stop(goodbye=False)
    with controller.peer("heir", heartbeat_seconds=30) as second:
        assert controller.instance("heir")["incarnation"] == second.incarnation
        assert looked_up(controller, "heir") is None
        second.cache(PROMPT)
        assert looked_up(controller, "heir") == [MEMORY, 42]


def test_a_restarted_engine_is_asked_for_its_pins_again(controller: ControllerProcess) -> None:
    with controller.peer("restarted") as first:
        first.cache(PROMPT[:32])
        assert pinned(controller, "restarted") == 32
    with controller.peer("restarted") as second:
        (asked,) = eventually(lambda: second.asked(PinCommand))
        # What it held is reserved; the ten tokens it never held are not.
        assert asked.pin.on_missing.value == "reserve"
        assert len(asked.pin.tokens) == 32 * 4
        shown = controller.post("/pins", instance_id="restarted").json()["pins"][0]
        assert (shown["state"], shown["num_tokens"]) == ("pending", 0)
        second.cache(PROMPT[:32])
        eventually(
            lambda: (
                controller.post("/pins", instance_id="restarted").json()["pins"][0]["num_tokens"]
                == 32
            )
        )
        shown = controller.post("/pins", instance_id="restarted").json()["pins"][0]
        assert (shown["state"], shown["tokens_asked"]) == ("partial", 42)
        controller.post("/unpin", instance_id="restarted", location=MEMORY, tokens=PROMPT)


def test_an_engine_of_another_model_under_the_id_marks_nothing(
    controller: ControllerProcess,
) -> None:
    with controller.peer("changed") as first:
        first.cache(PROMPT)
        assert pinned(controller, "changed") == 42
    other = msgspec.structs.replace(NAMESPACE, model="other", weights="11")
    with controller.peer("changed", namespace=other) as second:
        controller.post("/health", instance_id="changed")
        assert not second.asked(PinCommand)
        (shown,) = controller.post("/pins", instance_id="changed").json()["pins"]
        assert (shown["state"], shown["num_tokens"]) == ("pending", 0)
        assert "other" in shown["reason"]
    with controller.peer("changed") as third:
        eventually(lambda: third.asked(PinCommand))
        (shown,) = controller.post("/pins", instance_id="changed").json()["pins"]
        controller.post("/unpin", pin_id=shown["pin_id"])


def test_a_raised_epoch_keeps_the_pin_and_changes_the_keys(controller: ControllerProcess) -> None:
    with controller.peer("epoch") as peer:
        peer.cache(PROMPT)
        assert pinned(controller, "epoch") == 42
        raised = msgspec.structs.replace(NAMESPACE, weights_epoch=1)

        def change() -> None:
            peer.namespace = raised
            peer._welcomed = False

        peer.call(change)
        peer.wait_welcome(2)
        assert looked_up(controller, "epoch") is None
        assert controller.instance("epoch")["namespace"]["weights_epoch"] == 1
        peer.cache(PROMPT)
        assert looked_up(controller, "epoch") == [MEMORY, 42]
        assert pinned(controller, "epoch") == 42
        assert len(peer.held) == 1
        controller.post("/unpin", instance_id="epoch", location=MEMORY, tokens=PROMPT)


def test_a_gap_in_the_events_is_healed_by_a_snapshot(
    controller: ControllerProcess, peer: EnginePeer
) -> None:
    before = peer.snapshots
    peer.cache(PROMPT[:16])
    peer.skip_event()
    peer.cache(PROMPT)
    eventually(lambda: peer.snapshots > before)
    assert eventually(lambda: looked_up(controller, peer.instance_id)) == [MEMORY, 42]


def test_a_gap_at_the_end_is_seen_by_the_next_heartbeat(
    controller: ControllerProcess, peer: EnginePeer
) -> None:
    before = peer.snapshots
    keys = peer._keys(tokens_to_bytes(PROMPT), EMPTY_SCOPE)
    peer.call(lambda: peer.keys[MEMORY].update(keys))
    peer.skip_event()
    eventually(lambda: peer.snapshots > before)
    assert eventually(lambda: looked_up(controller, peer.instance_id)) == [MEMORY, 42]


def test_events_of_nonsense_are_healed_too(controller: ControllerProcess, peer: EnginePeer) -> None:
    peer.cache(PROMPT)
    before = peer.snapshots
    peer.call(lambda: peer._send_events(MEMORY, admitted=b"short"))
    eventually(lambda: peer.snapshots > before)
    before = peer.snapshots
    peer.call(lambda: peer._send_events("NoSuchTier", admitted=bytes(32)))
    eventually(lambda: peer.snapshots > before)
    assert eventually(lambda: looked_up(controller, peer.instance_id)) == [MEMORY, 42]


def test_garbage_is_counted_and_costs_nothing_else(
    controller: ControllerProcess, peer: EnginePeer
) -> None:
    malformed = controller.metric("lmcache_controller_link_malformed_total")
    peer.cache(PROMPT)
    for frame in (b"", b"\x01garbage", b"\x07\x80", b"\x01" + b"\x91" * 3000):
        peer.send_raw(frame)
    peer.send_raw(b"two", b"parts")
    peer.send(Reply(instance_id=peer.instance_id, incarnation=peer.incarnation, request_id="?"))
    assert pinned(controller, peer.instance_id) == 42
    assert controller.metric("lmcache_controller_link_malformed_total") == malformed + 5


def test_who_was_never_registered_is_asked_to(controller: ControllerProcess) -> None:
    with controller.peer("stranger") as peer:
        before = peer.identified
        for message in (
            Heartbeat(instance_id="other", incarnation=1, sequence=0),
            Events(instance_id="stranger", incarnation=1, sequence=1, location=MEMORY),
        ):
            peer.send(message)
            before += 1
            eventually(lambda wanted=before: peer.identified >= wanted)
            eventually(lambda: peer._welcomed)


def test_an_engine_whose_pins_got_lost_on_their_way_names_them_again(
    controller: ControllerProcess, peer: EnginePeer
) -> None:
    peer.cache(PROMPT)
    assert pinned(controller, peer.instance_id) == 42
    (pin_id,) = peer.held
    asked = len(peer.asked(PinCommand))
    peer.naming = False
    peer.send(Register(**peer.introduction()))
    welcomes = peer.welcomes
    peer.wait_welcome(welcomes + 1)
    # What it holds is not known, and it is not asked for all of it anew.
    eventually(lambda: controller.client.get(f"/v1/pins/{pin_id}").json()["state"] == "pending")
    identified = peer.identified
    eventually(lambda: peer.identified > identified)
    peer.naming = True
    eventually(lambda: controller.client.get(f"/v1/pins/{pin_id}").json()["state"] == "active")
    assert len(peer.asked(PinCommand)) == asked
    controller.client.delete(f"/v1/pins/{pin_id}").raise_for_status()


def test_a_reply_of_another_incarnation_answers_nothing(
    controller: ControllerProcess, peer: EnginePeer
) -> None:
    peer.cache(PROMPT)
    forged = []

    def forge(command: object) -> None:
        if isinstance(command, PinCommand) and not forged:
            forged.append(command)
            peer.link.send(
                Reply(
                    instance_id=peer.instance_id,
                    incarnation=peer.incarnation - 1,
                    request_id=command.request_id,
                    num_tokens=7,
                )
            )

    peer.before_reply = forge
    assert pinned(controller, peer.instance_id) == 42
    assert forged


@pytest.mark.parametrize("beat", [float("nan"), float("inf"), -1.0, 0.0])
def test_a_heartbeat_interval_that_is_none_does_no_harm(
    controller: ControllerProcess, beat: float
) -> None:
    peer = controller.peer("odd", heartbeat_seconds=beat)
    peer.wait_welcome()
    assert 0 < controller.instance("odd")["heartbeat_seconds"] <= 60
    assert controller.client.get("/metrics").status_code == 200
    peer.stop()
