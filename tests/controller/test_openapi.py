"""The schema is served, complete, and true under generated requests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.schemas import OpenApiSchema

from tests.controller.controller_process import ControllerProcess

OPERATIONS = {
    "/check_finish": ["post"],
    "/clear": ["post"],
    "/compress": ["post"],
    "/decompress": ["post"],
    "/health": ["post"],
    "/healthz": ["get"],
    "/lookup": ["post"],
    "/move": ["post"],
    "/metrics": ["get"],
    "/pin": ["post"],
    "/pins": ["get", "post"],
    "/plugins": ["get"],
    "/query_instance": ["post"],
    "/query_worker_info": ["post"],
    "/readyz": ["get"],
    "/unpin": ["post"],
    "/v1/instances": ["get"],
    "/v1/instances/{instance_id}": ["get"],
    "/v1/instances/{instance_id}/adopt": ["post"],
    "/v1/jobs": ["get"],
    "/v1/jobs/{event_id}": ["get"],
    "/v1/pins": ["get", "post"],
    "/v1/pins/{pin_id}": ["delete", "get", "patch", "put"],
    "/v1/pins:plan": ["post"],
    "/v1/pins:warm": ["post"],
}
AWAY = {503, 504, 507}
"""What a caller may be answered who has made no mistake."""


@pytest.fixture(scope="module")
def schema(controller: ControllerProcess) -> Iterator[OpenApiSchema]:
    with controller.peer("0") as peer:
        # Generated requests find an engine of this id now and then.
        peer.cache([0])
        yield schemathesis.openapi.from_url(f"{controller.url}/schema/openapi.json")


def test_every_route_is_in_the_schema_and_no_other(controller: ControllerProcess) -> None:
    paths = controller.client.get("/schema/openapi.json").json()["paths"]
    assert {path: sorted(paths[path]) for path in paths} == OPERATIONS
    assert controller.client.get("/schema").json()["paths"] == paths


def test_what_is_refused_is_a_problem_in_the_schema(controller: ControllerProcess) -> None:
    paths = controller.client.get("/schema/openapi.json").json()["paths"]
    for path, operations in paths.items():
        for method, operation in operations.items():
            refusals = {
                status: list(answer["content"])
                for status, answer in operation["responses"].items()
                if int(status) >= 400
            }
            assert set(map(tuple, refusals.values())) <= {("application/problem+json",)}, path
            system = operation["tags"] == ["system"]
            assert system or {"400", "413", "422"} <= refusals.keys(), (method, path)
            assert ("415" in refusals) == ("requestBody" in operation), (method, path)


EACH = [(path, method) for path, names in OPERATIONS.items() for method in names]
WITH_FIELDS = [
    (path, method)
    for path, method in EACH
    if (method in {"patch", "post", "put"} or path.endswith(("pins", "jobs")))
    and not path.endswith("adopt")  # It has nothing but the instance's name.
]


@pytest.mark.parametrize(
    ("path", "method", "mode"),
    [
        *((*each, GenerationMode.POSITIVE) for each in EACH),
        *((*each, GenerationMode.NEGATIVE) for each in WITH_FIELDS),
    ],
)
def test_no_generated_request_is_a_failure_of_the_controllers(
    schema: OpenApiSchema, path: str, method: str, mode: GenerationMode
) -> None:
    operation = schema[path][method]
    documented = operation.definition.raw["responses"]

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    def run(case: schemathesis.Case) -> None:
        response = case.call(timeout=30)
        if response.status_code in AWAY:
            assert str(response.status_code) in documented, response.text
        else:
            assert response.status_code < 500, response.text
        if response.status_code >= 400:
            assert str(response.status_code) in documented, response.text
            assert response.headers["content-type"] == ["application/problem+json"]

    run()
