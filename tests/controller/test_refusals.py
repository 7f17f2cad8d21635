"""What is wrong with a request is named, in a problem of this project's and one line that helps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from tests.controller.controller_process import ControllerProcess
from tests.controller.engine_peer import MEMORY, EnginePeer
from tests.controller.test_openapi import OPERATIONS

COUNT = "an integer, at least 1 and at most 1000"
SECONDS = "a number, above 0 and at most 300"
SYSTEM = {"/healthz", "/metrics", "/readyz"}
EACH = [(method, path) for path, methods in OPERATIONS.items() for method in methods]
WITH_BODY = [
    (method, path)
    for method, path in EACH
    if method in {"patch", "post", "put"} and not path.endswith("adopt")
]


def ask(
    controller: ControllerProcess, method: str, path: str, **options: Any
) -> tuple[httpx.Response, str]:
    path = path.replace("{pin_id}", "a").replace("{instance_id}", "a").replace("{event_id}", "a")
    answer = controller.client.request(method, path, **options)
    return answer, answer.text


def refused(answer: httpx.Response, status: int, name: str, *said: str) -> Mapping[str, Any]:
    """The problem document of an answer, once it is what it should be."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert problem["type"] == f"urn:lmcache:problem:{name}"
    assert "\n" not in problem["detail"]
    for part in said:
        assert part in problem["detail"]
    return problem


@pytest.mark.parametrize(
    ("method", "path"), [each for each in WITH_BODY if each != ("post", "/pins")]
)
def test_an_empty_body_is_told_what_to_send(
    controller: ControllerProcess, method: str, path: str
) -> None:
    answer, _ = ask(controller, method, path)
    refused(answer, 400, "malformed-body", "the body is empty", "send a JSON object")


def test_an_empty_body_is_told_which_fields_there_are(controller: ControllerProcess) -> None:
    answer, _ = ask(controller, "POST", "/pin")
    refused(answer, 400, "malformed-body", "with instance_id, location")
    answer, _ = ask(controller, "PATCH", "/v1/pins/a")
    refused(answer, 400, "malformed-body", "{} at least", "ttl_s, renew, labels, timeout_s")


@pytest.mark.parametrize(
    "body", ["{", "nonsense", " ", '{"ip":"a"}}', "\xff", '{"i":', '{"i":' + "[" * 100_000]
)
def test_what_is_no_json_is_told_what_to_send(controller: ControllerProcess, body: str) -> None:
    answer, _ = ask(controller, "POST", "/query_instance", content=body.encode("latin-1"))
    refused(answer, 400, "malformed-body", "the body is no JSON", "send a JSON object")


@pytest.mark.parametrize(
    "said",
    ["application/msgpack", "multipart/form-data; boundary=x", "application/xml", "nonsense;;"],
)
def test_a_body_of_another_type_is_told_which_is_taken(
    controller: ControllerProcess, said: str
) -> None:
    answer, _ = ask(
        controller, "POST", "/pin", content=b"\x81\xa2ip", headers={"Content-Type": said}
    )
    kind = said.partition(";")[0]
    refused(answer, 415, "unsupported-media-type", kind, "application/json")


@pytest.mark.parametrize("said", ["application/x-www-form-urlencoded", "text/plain", "text/xml"])
def test_json_is_read_whatever_a_client_calls_it(
    controller: ControllerProcess, peer: EnginePeer, said: str
) -> None:
    answer, _ = ask(
        controller,
        "POST",
        "/health",
        content=f'{{"instance_id": "{peer.instance_id}"}}',
        headers={"Content-Type": said},
    )
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(("method", "path"), [each for each in EACH if each not in WITH_BODY])
def test_a_body_that_nobody_reads_is_refused(
    controller: ControllerProcess, method: str, path: str
) -> None:
    answer, text = ask(controller, method, path, content=b'{"timeout_s": 3}')
    if path in SYSTEM:
        assert answer.status_code == 200, text
        return
    problem = refused(answer, 400, "malformed-body", "takes no body")
    assert ("its query takes" in problem["detail"]) == (
        method == "delete" or path in {"/pins", "/v1/pins", "/v1/jobs"}
    )
    for empty in (b"{}", b"null", b" "):
        assert ask(controller, method, path, content=empty)[0].status_code != 400


@pytest.mark.parametrize(("method", "path"), EACH)
def test_an_unknown_query_parameter_is_refused(
    controller: ControllerProcess, method: str, path: str
) -> None:
    answer, text = ask(controller, method, f"{path}?nonsense=1")
    if path in SYSTEM:
        # What asks for these is set up for many services, and there is nothing to miss.
        assert answer.status_code == 200, text
    else:
        refused(answer, 422, "invalid-field", "'nonsense'")


def test_a_parameter_that_is_misspelt_is_told_which_there_are(
    controller: ControllerProcess, peer: EnginePeer
) -> None:
    tokens = list(range(8))
    peer.cache(tokens)
    made = controller.client.put(
        "/v1/pins/misspelt",
        json={
            "placements": [{"instance_id": peer.instance_id, "location": MEMORY}],
            "tokens": tokens,
        },
    )
    assert made.status_code == 201
    answer, _ = ask(controller, "DELETE", "/v1/pins/misspelt?timout_s=3")
    problem = refused(answer, 422, "invalid-field", "'timout_s'", "did you mean 'timeout_s'")
    assert problem["available"] == ["timeout_s"]
    assert peer.held, "nothing was released"
    answer, _ = ask(controller, "DELETE", "/v1/pins/misspelt?timeout_s=3")
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("GET /v1/pins?limit=x", ("limit: ", "'x'", COUNT)),
        ("GET /v1/pins?limit=0", ("limit: ", "'0'", COUNT)),
        (
            "GET /v1/jobs?limit=1001",
            ("limit: ", "'1001'", COUNT),
        ),
        ("GET /v1/pins?state=foo", ("state: ", "'foo'", "active, partial, pending, degraded")),
        ("GET /v1/jobs?state=", ("state: ", "''", "running, done, failed, unknown")),
        ("GET /v1/pins?label=foo", ("label: ", "'foo'", "key=value")),
        ("GET /v1/pins?owner=a&owner=b", ("owner: ", "twice")),
        (
            "DELETE /v1/pins/a?timeout_s=abc",
            ("timeout_s: ", "'abc'", SECONDS),
        ),
        (
            "DELETE /v1/pins/a?timeout_s=nan",
            ("timeout_s: ", "'nan'", SECONDS),
        ),
        (
            "DELETE /v1/pins/a?timeout_s=301",
            ("timeout_s: ", "'301'", SECONDS),
        ),
    ],
)
def test_a_parameter_of_a_wrong_value_is_told_what_it_takes(
    controller: ControllerProcess, asked: str, said: tuple[str, ...]
) -> None:
    method, _, path = asked.partition(" ")
    answer, _ = ask(controller, method, path)
    refused(answer, 422, "invalid-field", *said)


def test_a_field_of_a_wrong_value_is_told_which_there_are(controller: ControllerProcess) -> None:
    answer = controller.post("/pin", instance_id="a", location="b", tokens=[1], on_missing="maybe")
    refused(answer, 422, "invalid-field", "on_missing: ", "'maybe'", "fail, partial, reserve")


def test_a_body_too_large_is_told_the_bound(controller: ControllerProcess) -> None:
    answer, _ = ask(controller, "POST", "/pin", content=b" " * (17 << 20))
    assert answer.status_code == 413
    assert "max_body_bytes" in answer.json()["detail"]


LONG = "ab" * 100_000


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/unpin", {"pin_id": LONG}),
        ("/unpin", {"event_id": LONG}),
        ("/check_finish", {"event_id": LONG}),
        ("/query_instance", {"ip": LONG}),
        ("/pin", {"instance_id": LONG}),
        ("/pin", {LONG: 1}),
        ("/pin", {str(number): 1 for number in range(10_000)}),
        ("/v1/pins:warm", {"state": LONG}),
        ("/v1/pins:warm", {"adapters": {LONG: ""}}),
    ],
)
def test_what_is_refused_is_not_said_again_at_its_length(
    controller: ControllerProcess, path: str, body: dict[str, object]
) -> None:
    answer = controller.post(path, **body)
    assert answer.status_code == 422, answer.text[:500]
    assert len(answer.content) < 2000
