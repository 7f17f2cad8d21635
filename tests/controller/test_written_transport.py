"""A transport that ``lmcache plugins new`` has written carries a controller and a real engine."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lmcache_core.cli.plugins.distribution import NewDistribution
from tests.controller.controller_process import ControllerProcess
from tests.controller.engine_peer import eventually
from tests.engine.rig import Rig


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path with the transport, as an installation leaves it."""
    plugin = NewDistribution("transport", "pipe")
    plugin.write(tmp_path / "project")
    site = tmp_path / "project" / "src"
    info = site / "lmcache_transport_pipe-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {plugin.distribution}\nVersion: 0.1.0\n"
    )
    (info / "entry_points.txt").write_text(f"[lmcache_core]\npipe = {plugin.module}.plugin\n")
    monkeypatch.syspath_prepend(str(site))
    yield site
    for name in [name for name in sys.modules if name.startswith(plugin.module)]:
        del sys.modules[name]


def test_an_engine_is_managed_over_it(site: Path, tmp_path: Path) -> None:
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
    flags = ("--monitor-host", "pipe://127.0.0.1")
    with ControllerProcess(tmp_path / "log", *flags, environ={"PYTHONPATH": path}) as controller:
        overrides: dict[str, object] = {
            "enable_controller": True,
            "controller_url": controller.monitor.replace("tcp://", "pipe://"),
            "heartbeat_seconds": 0.3,
        }
        with Rig(overrides=overrides) as engine:
            eventually(lambda: controller.state("lmcache_default_instance") == "live")
            engine.serve(list(range(12)))
            body = {"instance_id": "lmcache_default_instance", "location": "LocalCPUBackend"}
            answer = controller.post("/pin", tokens=list(range(12)), **body)
            assert answer.json()["num_tokens"] == 12, answer.text
        eventually(lambda: controller.state("lmcache_default_instance") == "stopped")
