"""Pins as resources: versions, preconditions, honest reports."""

from __future__ import annotations

import time

import httpx
import pytest

from lmcache_core.api.messages import PinCommand, UnpinCommand
from lmcache_core.api.pins import OnMissing, Renew
from lmcache_core.keys import EMPTY_SCOPE, tokens_to_bytes
from tests.controller.controller_process import ControllerProcess
from tests.controller.engine_peer import DISK, MEMORY, EnginePeer, eventually

PROMPT = list(range(1, 43))


def put(
    controller: ControllerProcess,
    peer: EnginePeer,
    pin_id: str,
    headers: dict[str, str] | None = None,
    **fields: object,
) -> httpx.Response:
    place = {"instance_id": peer.instance_id, "location": MEMORY}
    body = {"placements": [place], "tokens": PROMPT, **fields}
    return controller.client.put(f"/v1/pins/{pin_id}", json=body, headers=headers)


def test_a_pin_is_made_shown_listed_and_released(
    controller: ControllerProcess, peer: EnginePeer
) -> None:
    peer.cache(PROMPT)
    made = put(controller, peer, "made", owner="me", labels={"team": "a"}, ttl_s=100)
    assert made.status_code == 201, made.text
    body = made.json()
    assert made.headers["etag"] == f'"{body["version"]}"'
    assert (body["state"], body["num_tokens"], body["tokens_asked"]) == ("active", 42, 42)
    assert body["placements"][0]["pinned_bytes"] == 168
    assert abs(body["expires_at"] - time.time() - 100) < 5
    shown = controller.client.get("/v1/pins/made").json()
    assert {**shown, "expires_in_seconds": 0} == {**body, "expires_in_seconds": 0}
    released = controller.client.delete("/v1/pins/made")
    assert (released.status_code, released.json()["state"]) == (200, "released")
    assert not peer.held
    assert controller.client.get("/v1/pins/made").status_code == 404
    assert controller.client.delete("/v1/pins/made").status_code == 404


def test_the_same_content_again_is_safe_and_changes_nothing(
    controller: ControllerProcess, peer: EnginePeer
) -> None:
    peer.cache(PROMPT)
    first = put(controller, peer, "same", ttl_s=100)
    again = put(controller, peer, "same", ttl_s=100)
    assert again.status_code == 200
    assert again.json()["version"] == first.json()["version"]
    assert again.json()["expires_at"] == first.json()["expires_at"]
    controller.client.delete("/v1/pins/same")


def test_the_same_content_again_asks_again_for_what_was_missing(
    controller: ControllerProcess, peer: EnginePeer
) -> None:
    peer.cache(PROMPT[:16])
    assert put(controller, peer, "more").json()["state"] == "partial"
    peer.cache(PROMPT)
    again = put(controller, peer, "more").json()
    assert (again["state"], again["num_tokens"]) == ("active", 42)
    controller.client.delete("/v1/pins/more")


def test_other_content_needs_the_version(controller: ControllerProcess, peer: EnginePeer) -> None:
    peer.cache(PROMPT)
    version = put(controller, peer, "changed").json()["version"]
    conflict = put(controller, peer, "changed", labels={"a": "b"})
    assert conflict.status_code == 409
    assert f'If-Match: "{version}"' in conflict.json()["detail"]
    stale = put(controller, peer, "changed", {"If-Match": '"5"'}, labels={"a": "b"})
    assert stale.status_code == 412
    done = put(controller, peer, "changed", {"If-Match": f'"{version}"'}, labels={"a": "b"})
    assert (done.status_code, done.json()["labels"]) == (200, {"a": "b"})
    assert done.json()["version"] > version
    assert put(controller, peer, "changed", {"If-Match": "*"}).status_code == 200
    assert put(controller, peer, "changed", {"If-None-Match": "*"}).status_code == 412
    gone = controller.client.delete("/v1/pins/changed", headers={"If-Match": f'"{version}"'})
    assert gone.status_code == 412
    assert controller.client.delete("/v1/pins/changed").status_code == 200
    assert put(controller, peer, "changed", {"If-Match": "*"}).status_code == 412
    assert put(controller, peer, "changed", {"If-Match": "x"}).status_code == 422
    assert put(controller, peer, "changed", {"If-None-Match": "x"}).status_code == 422


def test_a_pin_that_moves_is_released_where_it_was(controller: ControllerProcess) -> None:
    with controller.peer("from") as old, controller.peer("to") as new:
        old.cache(PROMPT)
        new.cache(PROMPT)
        put(controller, old, "moving")
        assert put(controller, new, "moving", {"If-Match": "*"}).status_code == 200
        assert list(new.held) == ["moving"]
        eventually(lambda: not old.held)
        controller.client.delete("/v1/pins/moving")


def test_a_pin_of_two_instances_is_made_in_both_or_in_none(controller: ControllerProcess) -> None:
    with controller.peer("one") as one, controller.peer("two") as two:
        one.cache(PROMPT)
        two.cache(PROMPT[:16])
        places = [
            {"instance_id": "one", "location": MEMORY},
            {"instance_id": "two", "location": DISK},
        ]
        two.refusal = ("capacity", {"limit_bytes": 1})
        assert put(controller, one, "pair", placements=places).status_code == 507
        assert controller.client.get("/v1/pins/pair").status_code == 404
        eventually(lambda: not one.held)
        two.refusal = None
        made = put(controller, one, "pair", placements=places)
        assert made.status_code == 201
        states = {p["instance_id"]: p["state"] for p in made.json()["placements"]}
        assert states == {"one": "active", "two": "partial"}
        assert made.json()["state"] == "partial"
        controller.client.delete("/v1/pins/pair")
        assert not one.held
        assert not two.held


def test_a_pin_in_a_server_of_several_ranks_is_in_all_of_them(
    controller: ControllerProcess,
) -> None:
    with (
        controller.peer("server_dp0") as first,
        controller.peer("server_dp1") as second,
        controller.peer("server_dpx") as other,
    ):
        first.cache(PROMPT)
        second.cache(PROMPT[:16])
        places = [{"instance_id": "server", "location": MEMORY}]
        made = put(controller, first, "ranks", placements=places)
        assert made.status_code == 201
        by_rank = {p["instance_id"]: p["num_tokens"] for p in made.json()["placements"]}
        assert by_rank == {"server_dp0": 42, "server_dp1": 16}
        assert made.json()["state"] == "partial"
        assert (len(first.held), len(second.held), len(other.held)) == (1, 1, 0)
        for name, found in (("server", 1), ("server_dp1", 1), ("server_dpx", 0), ("serv", 0)):
            listed = controller.client.get("/v1/pins", params={"instance_id": name}).json()
            assert len(listed["pins"]) == found
            listed = controller.post("/pins", instance_id=name).json()
            assert len(listed["pins"]) == found
        assert controller.client.delete("/v1/pins/ranks").status_code == 200
        assert not first.held
        assert not second.held


def test_two_locations_of_one_instance_are_refused_in_words(
    controller: ControllerProcess, peer: EnginePeer
) -> None:
    places = [{"instance_id": peer.instance_id, "location": name} for name in (MEMORY, DISK)]
    answer = put(controller, peer, "both", placements=places)
    assert answer.status_code == 422
    assert "two pins" in answer.json()["detail"]


@pytest.mark.parametrize(
    "fields",
    [
        {"placements": []},
        {"placements": [{"instance_id": "x"}]},
        {"tokens": []},
        {"ttl_s": 0},
        {"ttl_s": -1},
        {"ttl_s": True},
        {"on_missing": "maybe"},
        {"renew": 1},
        {"labels": {"a": 1}},
        {"owner": ""},
        {"timeout_s": 1e9},
        {"nonsense": 1},
    ],
)
def test_a_wrong_field_is_422_and_named(
    controller: ControllerProcess, peer: EnginePeer, fields: dict[str, object]
) -> None:
    answer = put(controller, peer, "wrong", **fields)
    assert answer.status_code == 422
    assert next(iter(fields)) in answer.json()["detail"]
    assert not peer.commands


@pytest.mark.parametrize("pin_id", ["a%20b", "%C3%A9", "a" * 129, "a%0Ab"])
def test_a_pin_id_that_is_not_fit_for_a_url_is_422(
    controller: ControllerProcess, peer: EnginePeer, pin_id: str
) -> None:
    assert put(controller, peer, pin_id).status_code == 422


def test_renew_and_on_missing_reach_the_engine(
    controller: ControllerProcess, peer: EnginePeer
) -> None:
    made = put(controller, peer, "waiting", renew="on_hit", on_missing="reserve", ttl_s=50)
    assert (made.status_code, made.json()["state"]) == (201, "pending")
    asked = peer.asked(PinCommand)[-1].pin
    assert (asked.renew, asked.on_missing) == (Renew.ON_HIT, OnMissing.RESERVE)
    peer.cache(PROMPT)
    eventually(lambda: controller.client.get("/v1/pins/waiting").json()["state"] == "active")
    controller.client.delete("/v1/pins/waiting")


def test_what_was_pinned_and_is_lost_is_reported_degraded(
    controller: ControllerProcess, peer: EnginePeer
) -> None:
    peer.cache(PROMPT)
    put(controller, peer, "losing")
    tail = peer._keys(tokens_to_bytes(PROMPT), EMPTY_SCOPE)[-1]
    peer.call(lambda: peer.keys[MEMORY].discard(tail))
    shown = eventually(
        lambda: (
            body
            if (body := controller.client.get("/v1/pins/losing").json())["state"] == "degraded"
            else None
        )
    )
    assert (shown["num_tokens"], shown["first_missing"]) == (32, 32)
    controller.client.delete("/v1/pins/losing")


def test_a_pin_expires_and_is_shown_as_expired(
    controller: ControllerProcess, peer: EnginePeer
) -> None:
    peer.cache(PROMPT)
    put(controller, peer, "brief", ttl_s=0.3)
    shown = eventually(
        lambda: (
            body
            if (body := controller.client.get("/v1/pins/brief").json())["state"] == "expired"
            else None
        )
    )
    assert shown["num_tokens"] == 0
    assert controller.client.delete("/v1/pins/brief").status_code == 404
    again = put(controller, peer, "brief", ttl_s=100)
    assert (again.status_code, again.json()["state"]) == (201, "active")
    controller.client.delete("/v1/pins/brief")


def test_a_hit_that_renews_is_followed(controller: ControllerProcess, peer: EnginePeer) -> None:
    peer.cache(PROMPT)
    made = put(controller, peer, "hot", renew="on_hit", ttl_s=1.0).json()
    peer.call(lambda: peer._due.update({"hot": time.monotonic() + 100}))
    eventually(
        lambda: controller.client.get("/v1/pins/hot").json()["expires_at"] > made["expires_at"] + 50
    )
    controller.client.delete("/v1/pins/hot")


def test_pins_are_listed_by_filter_and_page(
    controller: ControllerProcess, peer: EnginePeer
) -> None:
    peer.cache(PROMPT)
    for number in range(5):
        put(controller, peer, f"list{number}", owner=f"o{number % 2}", labels={"n": str(number)})

    def ids(**query: object) -> list[str]:
        answer = controller.client.get(
            "/v1/pins", params={"instance_id": peer.instance_id, **query}
        )
        assert answer.status_code == 200, answer.text
        return [item["pin_id"] for item in answer.json()["pins"]]

    everything = [f"list{number}" for number in range(5)]
    assert ids() == everything
    assert ids(owner="o1") == ["list1", "list3"]
    assert ids(label="n=4") == ["list4"]
    assert ids(state="active", location=MEMORY) == everything
    assert ids(state="expired") == ids(location=DISK) == []
    page = controller.client.get(
        "/v1/pins", params={"instance_id": peer.instance_id, "limit": 2}
    ).json()
    assert page["next"] == "list1"
    assert ids(limit=2, after=page["next"]) == ["list2", "list3"]
    assert ids(limit=2, after="list3") == ["list4"]
    assert controller.client.get("/v1/pins", params={"limit": 0}).status_code == 422
    assert controller.client.get("/v1/pins", params={"state": "odd"}).status_code == 422
    for pin_id in everything:
        controller.client.delete(f"/v1/pins/{pin_id}")


def test_a_release_that_an_engine_does_not_hear_is_made_good(
    controller: ControllerProcess,
) -> None:
    with controller.peer("deaf") as peer:
        peer.cache(PROMPT)
        put(controller, peer, "owed")
        peer.stop(goodbye=True)
        held, versions = peer.held, peer._versions
    before = controller.metric("lmcache_controller_tombstones")
    released = controller.client.delete("/v1/pins/owed")
    assert (released.status_code, released.json()["state"]) == (202, "released")
    assert controller.client.get("/v1/pins/owed").status_code == 404
    assert controller.metric("lmcache_controller_tombstones") == before + 1
    peer = EnginePeer(controller.monitor, "deaf", incarnation=peer.incarnation)
    peer.held, peer._versions = held, versions
    with peer:
        eventually(lambda: not peer.held)
        assert peer.asked(UnpinCommand)[0].pin_id == "owed"
        eventually(lambda: controller.metric("lmcache_controller_tombstones") == before)
        assert controller.client.get("/v1/pins/owed").status_code == 404


def test_a_release_waits_as_long_as_it_is_told_to(
    controller: ControllerProcess, peer: EnginePeer
) -> None:
    peer.cache(PROMPT)
    put(controller, peer, "brief")
    for wrong in ("0", "-1", "301", "soon", "nan"):
        answer = controller.client.delete(f"/v1/pins/brief?timeout_s={wrong}")
        assert answer.status_code == 422, answer.text
        assert "timeout_s" in answer.text
    peer.answering = False
    begun = time.monotonic()
    released = controller.client.delete("/v1/pins/brief?timeout_s=0.2")
    # An engine is waited for ten seconds where nothing is said.
    assert (released.status_code, time.monotonic() - begun < 5) == (202, True)
    peer.answering = True
    eventually(lambda: not peer.held)
