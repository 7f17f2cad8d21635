"""Where a controller's ledger is: shared, damaged, absent, full, away."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.controller.controller_process import ControllerProcess, clean_environment
from tests.controller.engine_peer import eventually
from tests.controller.test_durable_pins import PROMPT, put


def test_two_controllers_do_not_share_a_ledger(
    own_controller: ControllerProcess, tmp_path: Path
) -> None:
    with pytest.raises(AssertionError, match="in use by another controller"):
        ControllerProcess(tmp_path / "log", "--ledger", str(own_controller.ledger))


def test_a_damaged_ledger_is_one_sentence_at_the_start(tmp_path: Path) -> None:
    ledger = tmp_path / "pins.sqlite"
    ledger.write_bytes(b"no pins " * 4096)
    with pytest.raises(AssertionError, match=r"Error: the pin ledger .* is damaged: ") as failure:
        ControllerProcess(tmp_path / "log")
    assert "Traceback" not in str(failure.value)


def test_without_a_ledger_pins_are_in_memory_alone(tmp_path: Path) -> None:
    with ControllerProcess(tmp_path / "log", "--ledger", "none") as controller:
        with controller.peer() as peer:
            peer.cache(PROMPT)
            assert put(controller, peer, "mine").status_code == 201
        assert not controller.ledger.exists()
        controller.restart()
        assert controller.client.get("/v1/pins/mine").status_code == 404


def test_the_default_ledger_is_in_the_users_state_folder(tmp_path: Path) -> None:
    environ = {**clean_environment(), "XDG_STATE_HOME": str(tmp_path / "state")}
    controller = ControllerProcess(tmp_path / "log", environ=environ)
    with controller:
        controller.kill()
        del controller.environ["LMCACHE_CONTROLLER_LEDGER"]
        controller.start()
        assert (tmp_path / "state" / "lmcache" / "pins.sqlite").exists()


def test_a_ledger_that_cannot_be_written_refuses_and_recovers(
    own_controller: ControllerProcess,
) -> None:
    with own_controller.peer() as peer:
        peer.cache(PROMPT)
        assert put(own_controller, peer, "before").status_code == 201
        aside = own_controller.ledger.with_name("aside")
        own_controller.ledger.rename(aside)
        refused = put(own_controller, peer, "during")
        assert refused.status_code == 503
        assert refused.json()["type"] == "urn:lmcache:problem:ledger-unavailable"
        assert own_controller.client.get("/readyz").status_code == 503
        assert own_controller.client.get("/v1/pins/during").status_code == 404
        assert own_controller.client.delete("/v1/pins/before").status_code == 503
        aside.rename(own_controller.ledger)
        eventually(lambda: own_controller.client.get("/readyz").status_code == 200)
        assert put(own_controller, peer, "during").status_code == 201
        own_controller.restart()
        ids = [pin["pin_id"] for pin in own_controller.client.get("/v1/pins").json()["pins"]]
        assert ids == ["during"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 512 KiB."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k,mode=700", "tmpfs", str(place)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system may be mounted here")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True, timeout=30)


def test_a_full_disk_refuses_with_507_and_loses_nothing(tmp_path: Path, small_disk: Path) -> None:
    ledger = small_disk / "pins.sqlite"
    filler = small_disk / "filler"
    filler.write_bytes(bytes(128 << 10))
    with (
        ControllerProcess(tmp_path / "log", "--ledger", str(ledger)) as controller,
        controller.peer() as peer,
    ):
        tokens = list(range(5000))
        acknowledged = set()
        statuses = set()
        for number in range(60):
            answer = put(controller, peer, f"pin{number}", tokens=[number, *tokens])
            statuses.add(answer.status_code)
            if answer.is_success:
                acknowledged.add(f"pin{number}")
        assert statuses == {201, 507}
        assert "is full; make room" in answer.json()["detail"]
        assert len(acknowledged) > 3
        filler.unlink()
        eventually(lambda: put(controller, peer, "last").status_code == 201)
        controller.restart()
        listed = controller.client.get("/v1/pins").json()["pins"]
        assert acknowledged | {"last"} <= {pin["pin_id"] for pin in listed}
