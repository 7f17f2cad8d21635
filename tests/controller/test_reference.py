"""What the reference shows is true: every command runs, every name is there."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lmcache_core.config.controller import ControllerConfig
from tests.controller.controller_process import ControllerProcess
from tests.controller.engine_peer import eventually
from tests.controller.test_openapi import OPERATIONS
from tests.engine.rig import Rig

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
ROUTES = (REFERENCE / "routes.md").read_text()
METRICS = (REFERENCE / "metrics.md").read_text()
EXAMPLES = re.findall(r"```console\n\$ (.*)\n(.*)\n```", ROUTES)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControllerProcess]:
    log = tmp_path_factory.mktemp("reference") / "log"
    with ControllerProcess(log) as controller:
        overrides: dict[str, object] = {
            "enable_controller": True,
            "controller_url": controller.monitor,
            "heartbeat_seconds": 0.3,
        }
        with Rig(overrides=overrides) as engine:
            engine.serve(list(range(1, 13)))
            eventually(lambda: controller.state("lmcache_default_instance") == "live")
            yield controller


def shape(value: Any, within: str = "") -> Any:
    """A value with what differs from run to run left out."""
    if isinstance(value, dict):
        return {key: shape(item, key) for key, item in value.items()}
    if isinstance(value, list):
        return [shape(item) for item in value]
    if within in {"event_id", "ip"}:
        return str(value).partition("_")[0] if within == "event_id" else "host"
    if within.endswith(("_at", "_time", "_bytes", "_seconds")) or within == "version":
        return "number"
    return value


@pytest.mark.skipif(shutil.which("curl") is None, reason="the examples need curl")
@pytest.mark.parametrize(("command", "shown"), EXAMPLES, ids=[c for c, _ in EXAMPLES])
def test_every_command_answers_what_is_shown(
    served: ControllerProcess, command: str, shown: str
) -> None:
    command = command.replace("localhost:9000", served.url.removeprefix("http://"))
    answer = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=True, timeout=30
    ).stdout
    if not shown.endswith("}"):
        assert answer == shown
        return
    assert shape(json.loads(answer)) == shape(json.loads(shown))


def test_every_route_is_described() -> None:
    assert len(EXAMPLES) > 12
    for path, methods in OPERATIONS.items():
        for method in methods:
            assert f"`{method.upper()} {path}`" in ROUTES, (method, path)


def test_every_configuration_key_is_described() -> None:
    section = ROUTES.partition("## Configuration")[2]
    for field in msgspec.structs.fields(ControllerConfig):
        assert f"`{field.name}`" in section


def test_every_metric_is_described_and_every_described_metric_exists(
    served: ControllerProcess,
) -> None:
    served.post("/health", instance_id="lmcache_default_instance")
    answer = served.client.get("/metrics")
    # Prometheus 3 refuses what it cannot parse, a parameter that is there twice for one.
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    text = answer.text
    names = {re.split(r"[{ ]", line)[0] for line in text.splitlines() if line[0] != "#"}
    described = set(re.findall(r"^\| `(lmcache_controller_\w+)`", METRICS, re.MULTILINE))
    assert names == described
    for line in text.splitlines():
        labels = set(re.findall(r'[{,](\w+)="', line))
        name = re.split(r"[{ ]", line)[0]
        if line[0] == "#" or not labels:
            continue
        (row,) = [r for r in METRICS.splitlines() if r.startswith(f"| `{name}`")]
        assert labels == set(re.findall(r"`(\w+)`", row.split("|")[3])), line
