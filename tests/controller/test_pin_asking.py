"""How a pin can be asked for: by text, for a namespace, planned, amended."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import msgspec
import pytest

from lmcache_core.api.messages import PinCommand, UnpinCommand
from tests.controller.controller_process import ControllerProcess
from tests.controller.engine_peer import DISK, MEMORY, NAMESPACE, EnginePeer, eventually
from tests.controller.test_with_engine import rig

PROMPT = list(range(1, 43))


class Tokenize(BaseHTTPRequestHandler):
    """vLLM's ``/tokenize``: a token for each character."""

    questions: list[dict[str, Any]]

    def do_POST(self) -> None:
        question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.questions.append(question)
        if question.get("prompt") == "slow":
            self.server.stop_slow.wait(10)  # type: ignore[attr-defined]
        if question.get("prompt") == "broken":
            self._answer(500, {"error": {"message": "no"}})
        elif "messages" in question and question["messages"][0].get("role") != "system":
            self._answer(400, {"error": {"message": "unknown role"}})
        else:
            text = question.get("prompt") or question["messages"][0]["content"]
            self._answer(200, {"tokens": [ord(letter) for letter in text], "count": len(text)})

    def _answer(self, status: int, answer: dict[str, Any]) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def serving() -> Iterator[str]:
    Tokenize.questions = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Tokenize) as server:
        server.stop_slow = threading.Event()  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.stop_slow.set()  # type: ignore[attr-defined]
        server.shutdown()
        thread.join()


@pytest.fixture
def chatty(controller: ControllerProcess, serving: str) -> Iterator[EnginePeer]:
    with controller.peer("chatty", serving_url=serving) as peer:
        yield peer


def post(controller: ControllerProcess, peer: EnginePeer, **fields: object) -> httpx.Response:
    place = {"instance_id": peer.instance_id, "location": MEMORY}
    return controller.post("/v1/pins", **{"placements": [place], **fields})


# -- by text ----------------------------------------------------------------


@pytest.mark.parametrize(
    "what",
    [{"prompt": "hello world"}, {"messages": [{"role": "system", "content": "hello world"}]}],
)
def test_a_pin_by_text_is_a_pin_by_the_tokens_the_server_makes_of_it(
    controller: ControllerProcess, chatty: EnginePeer, what: dict[str, Any]
) -> None:
    tokens = [ord(letter) for letter in "hello world"]
    chatty.cache(tokens)
    made = post(controller, chatty, **what).json()
    assert (made["state"], made["num_tokens"]) == ("active", 11)
    asked = Tokenize.questions[-1]
    assert asked == (what if "prompt" in what else {**what, "add_generation_prompt": False})
    base = {"instance_id": "chatty", "location": MEMORY}
    by_text = controller.post("/pin", **base, **what).json()
    assert by_text["num_tokens"] == 11
    looked_up = controller.post("/lookup", **what).json()["layout_info"]
    assert looked_up["chatty"] == [MEMORY, 11]
    assert controller.post("/unpin", **base, tokens=tokens).json()["num_tokens"] == 11
    controller.client.delete(f"/v1/pins/{made['pin_id']}")


def test_who_can_tokenise_nothing_says_so(controller: ControllerProcess, peer: EnginePeer) -> None:
    answer = post(controller, peer, prompt="hello")
    assert answer.status_code == 422
    assert "serving_url" in answer.json()["detail"]
    assert "give tokens" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("what", "status", "words"),
    [
        ({"messages": [{"role": "odd", "content": "x"}]}, 422, "unknown role"),
        ({"prompt": "broken"}, 503, "500 no"),
        ({"prompt": "slow", "timeout_s": 0.3}, 504, "/tokenize"),
        ({"prompt": "a", "tokens": [1]}, 422, "tokens and prompt"),
        ({}, 422, "one of tokens, prompt and messages"),
        ({"prompt": ""}, 422, "prompt"),
        ({"messages": []}, 422, "messages"),
    ],
)
def test_a_text_that_is_not_tokenised_is_a_problem_in_words(
    controller: ControllerProcess,
    chatty: EnginePeer,
    what: dict[str, Any],
    status: int,
    words: str,
) -> None:
    answer = post(controller, chatty, **what)
    assert answer.status_code == status, answer.text
    assert words in answer.json()["detail"]
    assert not chatty.asked(PinCommand)


def test_a_server_that_is_not_there_is_503(controller: ControllerProcess) -> None:
    with controller.peer("mute", serving_url="http://127.0.0.1:1") as peer:
        answer = post(controller, peer, prompt="x")
    assert answer.status_code == 503
    assert "Connection refused" in answer.json()["detail"]


# -- under a new name -------------------------------------------------------


def test_a_posted_pin_has_a_name_of_its_own(
    controller: ControllerProcess, peer: EnginePeer
) -> None:
    peer.cache(PROMPT)
    first, second = (post(controller, peer, tokens=PROMPT, ttl_s=50) for _ in range(2))
    assert first.status_code == second.status_code == 201
    assert first.json()["pin_id"] != second.json()["pin_id"]
    assert first.headers["location"] == f"/v1/pins/{first.json()['pin_id']}"
    for made in (first, second):
        shown = controller.client.get(made.headers["location"])
        assert shown.headers["etag"] == made.headers["etag"]
        assert controller.client.delete(made.headers["location"]).status_code == 200


# -- amended ----------------------------------------------------------------


def test_labels_are_changed_and_the_end_is_not(
    controller: ControllerProcess, peer: EnginePeer
) -> None:
    peer.cache(PROMPT)
    made = post(controller, peer, tokens=PROMPT, ttl_s=100, labels={"a": "b"})
    path, old = made.headers["location"], made.json()
    answer = controller.client.patch(path, json={"labels": {"c": "d"}})
    new = answer.json()
    assert answer.status_code == 200, answer.text
    assert (new["labels"], new["state"], new["ttl_s"]) == ({"c": "d"}, "active", 100)
    assert new["expires_at"] == old["expires_at"]
    assert new["version"] > old["version"]
    assert answer.headers["etag"] == f'"{new["version"]}"'
    held = peer.held[old["pin_id"]]
    assert (held.labels, held.version) == ({"c": "d"}, new["version"])
    assert 90 < held.ttl_seconds < 100
    controller.client.delete(path)


def test_a_time_to_live_is_started_anew_changed_and_taken_away(
    controller: ControllerProcess, peer: EnginePeer
) -> None:
    peer.cache(PROMPT)
    made = post(controller, peer, tokens=PROMPT, ttl_s=100)
    path = made.headers["location"]
    longer = controller.client.patch(path, json={"ttl_s": 500}).json()
    assert 300 < longer["expires_at"] - made.json()["expires_at"] < 500
    assert longer["ttl_s"] == 500
    endless = controller.client.patch(path, json={"ttl_s": None}).json()
    assert (endless["ttl_s"], endless["expires_at"]) == (None, None)
    assert peer.held[endless["pin_id"]].ttl_seconds is None
    controller.client.delete(path)


def test_amending_needs_the_version_only_where_one_is_given(
    controller: ControllerProcess, peer: EnginePeer
) -> None:
    peer.cache(PROMPT)
    made = post(controller, peer, tokens=PROMPT)
    path = made.headers["location"]
    for match, status in (('"5"', 412), (made.headers["etag"], 200), ("*", 200)):
        answer = controller.client.patch(path, json={"labels": {}}, headers={"If-Match": match})
        assert answer.status_code == status
    assert controller.client.patch(path, json={"tokens": [1]}).status_code == 422
    assert controller.client.patch(path, json={"ttl_s": 0}).status_code == 422
    controller.client.delete(path)
    assert controller.client.patch(path, json={"labels": {}}).status_code == 404


# -- for a namespace --------------------------------------------------------

MODEL = msgspec.structs.replace(NAMESPACE, model="fleet")
WAYS = [msgspec.structs.replace(NAMESPACE, model="ways", weights=name) for name in ("00", "11")]


def fleet(controller: ControllerProcess, pin_id: str, name: str = "fleet", **fields: object) -> Any:
    body = {"placements": [{"namespace": name, "location": MEMORY}], "tokens": PROMPT, **fields}
    return controller.client.put(f"/v1/pins/{pin_id}", json=body)


def placed(controller: ControllerProcess, pin_id: str) -> dict[str, str]:
    shown = controller.client.get(f"/v1/pins/{pin_id}").json()
    return {place["instance_id"]: place["state"] for place in shown["placements"]}


def test_rule_2_a_namespace_holds_for_who_serves_it_and_who_joins_later(
    own_controller: ControllerProcess,
) -> None:
    with (
        own_controller.peer("pod-a", namespace=MODEL) as first,
        own_controller.peer("stranger") as stranger,
    ):
        first.cache(PROMPT)
        made = fleet(own_controller, "fleet")
        assert made.status_code == 201, made.text
        assert placed(own_controller, "fleet") == {"pod-a": "active"}
        with own_controller.peer("pod-b", namespace=MODEL) as second:
            second.cache(PROMPT)
            eventually(
                lambda: placed(own_controller, "fleet") == {"pod-a": "active", "pod-b": "active"}
            )
            assert second.held["fleet"].version == made.json()["version"]
            own_controller.kill()
            own_controller.start()
            eventually(
                lambda: placed(own_controller, "fleet") == {"pod-a": "active", "pod-b": "active"}
            )
        # A pod that went does not make the pin any less true.
        eventually(lambda: placed(own_controller, "fleet") == {"pod-a": "active"})
        assert own_controller.client.get("/v1/pins/fleet").json()["state"] == "active"
        assert not stranger.asked(PinCommand)
        released = own_controller.client.delete("/v1/pins/fleet")
        assert (released.status_code, first.held) == (200, {})
        # The pod that was away for the release lets go when it comes back.
        second = EnginePeer(
            own_controller.monitor,
            "pod-b",
            namespace=MODEL,
            incarnation=second.incarnation,
            held=second.held,
        )
        with second:
            eventually(lambda: not second.held)
            assert second.asked(UnpinCommand)
            assert own_controller.client.get("/v1/pins/fleet").status_code == 404


def test_a_namespace_that_nobody_serves_any_more_is_pending(controller: ControllerProcess) -> None:
    with controller.peer("pod-c", namespace=MODEL) as pod:
        pod.cache(PROMPT)
        assert fleet(controller, "alone").json()["state"] == "active"
    shown = eventually(
        lambda: (
            body
            if (body := controller.client.get("/v1/pins/alone").json())["state"] == "pending"
            else None
        )
    )
    assert shown["reason"] == "no live instance serves its namespace"
    assert controller.client.delete("/v1/pins/alone").status_code == 200


def test_a_model_served_in_two_ways_has_to_be_named_by_identity(
    controller: ControllerProcess,
) -> None:
    with (
        controller.peer("way-1", namespace=WAYS[0]) as one,
        controller.peer("way-2", namespace=WAYS[1]) as two,
    ):
        two.cache(PROMPT)
        answer = fleet(controller, "ways", "ways")
        assert answer.status_code == 409
        identity = controller.instance("way-2")["namespace_identity"]
        assert identity in answer.json()["detail"]
        made = fleet(controller, "ways", identity).json()
        assert placed(controller, "ways") == {"way-2": "active"}
        assert made["namespaces"] == [{"namespace_identity": identity, "location": MEMORY}]
        assert not one.asked(PinCommand)
        controller.client.delete("/v1/pins/ways")


def test_a_wrong_placement_is_said(controller: ControllerProcess) -> None:
    with controller.peer("pod-d", namespace=MODEL):
        unknown = fleet(controller, "wrong", "nobody")
        assert unknown.status_code == 404
        assert "fleet" in unknown.json()["available"]
        for place in (
            {"location": MEMORY},
            {"location": MEMORY, "namespace": "fleet", "instance_id": "pod-d"},
        ):
            answer = controller.post("/v1/pins", placements=[place], tokens=[1])
            assert answer.status_code == 422
            assert "instance_id or namespace" in answer.json()["detail"]
        both = [{"namespace": "fleet", "location": name} for name in (MEMORY, DISK)]
        answer = controller.post("/v1/pins", placements=both, tokens=[1])
        assert answer.status_code == 422
        nowhere = [{"namespace": "fleet", "location": "nowhere"}]
        assert controller.post("/v1/pins", placements=nowhere, tokens=[1]).status_code == 404


# -- planned ----------------------------------------------------------------


def test_rule_6_a_plan_says_what_a_pin_would_cost_and_the_pin_costs_that(
    controller: ControllerProcess,
) -> None:
    with rig(controller, "planned", chunks=8) as engine:
        eventually(lambda: controller.state("planned") == "live")
        engine.serve(PROMPT)
        body = {
            "placements": [{"instance_id": "planned", "location": MEMORY}],
            "tokens": PROMPT,
        }
        plan = controller.post("/v1/pins:plan", **body).json()
        (place,) = plan["placements"]
        assert plan["fits"] is place["fits"] is True
        assert (plan["tokens_asked"], place["cached_tokens"]) == (42, 42)
        assert controller.client.get("/v1/pins/planned").status_code == 404
        made = controller.client.put("/v1/pins/planned", json=body).json()
        assert made["placements"][0]["pinned_bytes"] == place["asked_bytes"] > 0
        again = controller.post("/v1/pins:plan", **body, pin_id="planned").json()["placements"][0]
        assert (again["asked_bytes"], again["owner_bytes"]) == (0, 0)
        assert again["pinned_bytes"] == place["asked_bytes"]
        other = controller.post("/v1/pins:plan", **body).json()["placements"][0]
        assert other["owner_bytes"] == other["charged_bytes"] == place["asked_bytes"]
        # Nine chunks of a tier that has eight, of which pins may take four fifths.
        much = {**body, "tokens": list(range(16 * 9)), "on_missing": "reserve"}
        refused = controller.post("/v1/pins:plan", **much).json()
        assert refused["fits"] is False
        (place,) = refused["placements"]
        assert place["pinned_bytes"] + place["asked_bytes"] > place["pin_limit_bytes"]
        assert "more than they may" in place["reason"]
        answer = controller.client.put("/v1/pins/much", json=much)
        assert answer.status_code == 507
        facts = answer.json()["facts"]
        assert facts == {
            "asked_bytes": place["asked_bytes"],
            "used_bytes": place["pinned_bytes"],
            "limit_bytes": place["pin_limit_bytes"],
        }
        fail = controller.post("/v1/pins:plan", **{**much, "on_missing": "fail"}).json()
        assert fail["fits"] is False
        assert "0 of 144 tokens" in fail["placements"][0]["reason"]
        controller.client.delete("/v1/pins/planned")
