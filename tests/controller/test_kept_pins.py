"""Pins that an engine keeps with its disk, and the controllers that it meets."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from lmcache_backend_local_disk.disk import Disk
from lmcache_core.cli.main import main
from lmcache_core.config import TierConfig
from tests.controller.controller_process import ControllerProcess
from tests.controller.engine_peer import eventually
from tests.controller.test_durable_pins import shown
from tests.engine.rig import FRAME_BYTES, SLOT_BYTES, Rig
from tests.engine.test_storage_tier import LONG, flood, settle

DISK = "LocalDiskBackend"


@pytest.fixture(autouse=True)
def syncs(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Lets syncs through, which wait for all that the machine writes."""
    go = threading.Event()
    go.set()
    monkeypatch.setattr(Disk, "sync", lambda *_, **__: go.wait(20))
    return go


@contextlib.contextmanager
def engine(controller: ControllerProcess, folder: Path) -> Iterator[Rig]:
    tiers = (
        TierConfig("LocalCPUBackend", 8 * SLOT_BYTES),
        TierConfig(DISK, 12 * FRAME_BYTES, {"path": str(folder)}),
    )
    overrides: dict[str, object] = {
        "tiers": tiers,
        "instance_id": "real",
        "enable_controller": True,
        "controller_url": controller.monitor,
        "heartbeat_seconds": 0.2,
    }
    with Rig(overrides=overrides) as rig:
        yield rig


def put(controller: ControllerProcess, pin_id: str = "kept", **fields: object) -> Any:
    place = {"instance_id": "real", "location": DISK}
    return controller.client.put(
        f"/v1/pins/{pin_id}", json={"placements": [place], "tokens": LONG, **fields}
    )


def cached(controller: ControllerProcess, rig: Rig) -> None:
    eventually(lambda: controller.state("real") == "live")
    rig.serve(LONG)
    settle(rig)


def lmcache(controller: ControllerProcess, *arguments: str) -> Result:
    return CliRunner().invoke(main, [*arguments, "--url", controller.url])


def holds(rig: Rig, pin_id: str = "kept") -> bool:
    with rig.engine.tiers.lock:
        return rig.engine.tiers.pins.report(pin_id) is not None


def test_rule_7_a_pin_is_answered_once_its_engine_has_made_it_durable(
    own_controller: ControllerProcess, tmp_path: Path, syncs: threading.Event
) -> None:
    with engine(own_controller, tmp_path) as rig, ThreadPoolExecutor(1) as pool:
        cached(own_controller, rig)
        syncs.clear()
        answer = pool.submit(put, own_controller)
        eventually(lambda: holds(rig))
        own_controller.post("/health", instance_id="real").raise_for_status()
        assert shown(own_controller, "kept")["state"] == "pending"
        assert not answer.done()
        syncs.set()
        made = answer.result()
        assert (made.status_code, made.json()["state"]) == (201, "active")
        syncs.clear()
        answer = pool.submit(own_controller.client.delete, "/v1/pins/kept")
        eventually(lambda: not holds(rig))
        own_controller.post("/health", instance_id="real").raise_for_status()
        assert not answer.done()
        syncs.set()
        assert answer.result().status_code == 200


def test_what_is_not_durable_in_time_is_answered_with_504_and_undone(
    own_controller: ControllerProcess, tmp_path: Path, syncs: threading.Event
) -> None:
    with engine(own_controller, tmp_path) as rig:
        cached(own_controller, rig)
        syncs.clear()
        late = put(own_controller, timeout_s=0.5)
        assert late.status_code == 504
        syncs.set()
        eventually(lambda: not holds(rig))
        assert own_controller.client.get("/v1/pins/kept").status_code == 404
        assert put(own_controller).status_code == 201


def test_a_restarted_engine_keeps_its_pin_while_no_controller_is_there(
    own_controller: ControllerProcess, tmp_path: Path
) -> None:
    with engine(own_controller, tmp_path) as rig:
        cached(own_controller, rig)
        made = put(own_controller, ttl_s=500).json()
        assert put(own_controller, "brief").status_code == 201
        eventually(lambda: own_controller.state("real") == "live")
    assert own_controller.client.delete("/v1/pins/brief").status_code == 202
    own_controller.kill()
    with engine(own_controller, tmp_path) as rig:
        flood(rig, chunks=30)
        settle(rig)
        assert rig.hit(LONG) == len(LONG)
        own_controller.start()
        eventually(lambda: shown(own_controller, "kept")["state"] == "active")
        assert shown(own_controller, "kept")["version"] == made["version"]
        # What was released meanwhile is let go of, for good.
        eventually(lambda: not holds(rig, "brief"))
        eventually(lambda: own_controller.metric("lmcache_controller_tombstones") == 0)
    with engine(own_controller, tmp_path) as rig:
        assert holds(rig)
        assert not holds(rig, "brief")


def test_rule_9_a_new_ledger_takes_pins_over_and_another_one_is_refused_until_it_adopts(
    own_controller: ControllerProcess, tmp_path: Path
) -> None:
    with engine(own_controller, tmp_path) as rig:
        cached(own_controller, rig)
        assert put(own_controller).status_code == 201
    folder = tmp_path / "another"
    folder.mkdir()
    with ControllerProcess(folder / "log") as other:
        with other.peer() as peer:
            peer.cache(list(range(10)))
            assert other.client.put(
                "/v1/pins/its",
                json={
                    "placements": [{"instance_id": "peer", "location": "LocalCPUBackend"}],
                    "tokens": list(range(10)),
                },
            ).is_success
        other.restart()
        with other.peer("slow", ledger_id="its", heartbeat_seconds=60) as peer:
            peer.pause()
            late = lmcache(other, "adopt", "slow", "--timeout", "0.2")
            assert late.exit_code == 2
            assert "has not registered again in 0.2 s" in late.stderr
            peer.resume()
            assert lmcache(other, "adopt", "slow").exit_code == 0
        with (
            other.peer("pair_dp0", ledger_id="its") as first,
            other.peer("pair_dp1", ledger_id="its") as second,
        ):
            ranks = [first.instance_id, second.instance_id]
            assert [other.instance(rank)["other_ledger"] for rank in ranks] == ["its", "its"]
            both = lmcache(other, "adopt", "pair")
            assert [line.split()[0] for line in both.stdout.splitlines()[1:]] == ranks
            assert [other.instance(rank)["other_ledger"] for rank in ranks] == [None, None]
        with engine(other, tmp_path) as rig:
            eventually(lambda: other.state("real") == "live")
            assert len(other.instance("real")["other_ledger"]) == 32
            assert other.client.get("/v1/pins/kept").status_code == 404
            refused = put(other, "mine")
            assert refused.status_code == 409
            assert "/v1/instances/ID/adopt" in refused.json()["detail"]
            assert not holds(rig, "mine")
            adopted = lmcache(other, "adopt", "real")
            assert adopted.exit_code == 0, adopted.output
            assert adopted.stdout.splitlines()[1].split()[:2] == ["real", "live"]
            assert other.instance("real")["other_ledger"] is None
            eventually(lambda: other.client.get("/v1/pins/kept").status_code == 200)
            assert put(other, "mine").status_code == 201
            assert other.post("/v1/instances/nobody/adopt").status_code == 404
        # It serves that one from now on, over restarts of both.
        other.restart()
        with engine(other, tmp_path):
            eventually(lambda: shown(other, "kept")["state"] == "active")
    new = tmp_path / "new"
    new.mkdir()
    with ControllerProcess(new / "log") as fresh, engine(fresh, tmp_path):
        eventually(lambda: fresh.client.get("/v1/pins/kept").status_code == 200)
        assert fresh.client.delete("/v1/pins/kept").status_code == 200
