"""Pins whose location is any, over the routes: a real controller and a real engine."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from lmcache_core.cli.main import main
from lmcache_core.config import TierConfig
from tests.controller.controller_process import ControllerProcess
from tests.controller.engine_peer import MEMORY, eventually
from tests.controller.test_durable_pins import shown
from tests.engine.rig import CHUNK_TOKENS, FRAME_BYTES, SLOT_BYTES, Rig
from tests.engine.test_storage_tier import LONG, settle

DISK = "LocalDiskBackend"
NAME = "anywhere"

pytestmark = pytest.mark.usefixtures("quick_syncs")


@contextlib.contextmanager
def engine(controller: ControllerProcess, folder: Path, instance_id: str = NAME) -> Iterator[Rig]:
    tiers = (
        TierConfig(MEMORY, 10 * SLOT_BYTES),
        TierConfig(DISK, 10 * FRAME_BYTES, {"path": str(folder), "scrub_rate": 0}),
    )
    overrides: dict[str, object] = {
        "tiers": tiers,
        "instance_id": instance_id,
        "enable_controller": True,
        "controller_url": controller.monitor,
        "heartbeat_seconds": 0.2,
    }
    with Rig(overrides=overrides) as rig:
        eventually(lambda: controller.state(instance_id) == "live")
        yield rig


def store(rig: Rig, tokens: list[int]) -> None:
    rig.serve(tokens)
    settle(rig)


def press(rig: Rig) -> None:
    """Compute more than any tier has room for."""
    for number in range(12):
        store(rig, [100_000 + number * 100 + n for n in range(CHUNK_TOKENS)])


def put(controller: ControllerProcess, pin_id: str = "kept", **fields: object) -> Any:
    body = {"placements": [{"instance_id": NAME, "location": "any"}], "tokens": LONG, **fields}
    return controller.client.put(f"/v1/pins/{pin_id}", json=body)


def clear(controller: ControllerProcess, location: str) -> int:
    body = {"instance_id": NAME, "location": location, "force": True}
    return int(controller.post("/clear", **body).raise_for_status().json()["num_tokens"])


def test_rule_2_the_last_copy_stays_through_pressure_clears_moves_and_restarts(
    own_controller: ControllerProcess, tmp_path: Path
) -> None:
    controller = own_controller
    with engine(controller, tmp_path) as rig:
        store(rig, LONG)
        plan = {"placements": [{"instance_id": NAME, "location": "any"}], "tokens": LONG}
        planned = controller.post("/v1/pins:plan", **plan).json()["placements"][0]
        made = put(controller)
        assert (made.status_code, made.json()["state"]) == (201, "active")
        (place,) = made.json()["placements"]
        assert (place["location"], place["num_tokens"]) == ("any", len(LONG))
        assert place["pinned_bytes"] == planned["asked_bytes"] == 4 * FRAME_BYTES
        press(rig)
        assert rig.hit(LONG) == len(LONG)
        rig.serve(LONG)
        # What the disk loses is held in host memory, and goes down again with a move.
        assert clear(controller, DISK) >= len(LONG)
        eventually(
            lambda: shown(controller, "kept")["placements"][0]["pinned_bytes"] == 4 * SLOT_BYTES
        )
        assert shown(controller, "kept")["state"] == "active"
        positions = {"old_position": [NAME, MEMORY], "new_position": [NAME, DISK]}
        moved = controller.post("/move", **positions, tokens=LONG)
        assert moved.json()["num_tokens"] == len(LONG), moved.text
        eventually(
            lambda: shown(controller, "kept")["placements"][0]["pinned_bytes"] == 4 * FRAME_BYTES
        )
        controller.restart()
        eventually(lambda: shown(controller, "kept")["state"] == "active")
    with engine(controller, tmp_path) as rig:
        press(rig)
        eventually(lambda: shown(controller, "kept")["state"] == "active")
        assert rig.hit(LONG) == len(LONG)
        clear(controller, MEMORY)
        clear(controller, DISK)
        eventually(lambda: shown(controller, "kept")["state"] == "degraded")
        lost = shown(controller, "kept")
        assert (lost["num_tokens"], lost["placements"][0]["reserved_bytes"]) == (0, 4 * SLOT_BYTES)
        store(rig, LONG)
        eventually(lambda: shown(controller, "kept")["state"] == "active")
        assert controller.client.delete("/v1/pins/kept").status_code == 200
        press(rig)
        assert rig.hit(LONG) == 0


def test_the_classic_routes_and_the_command_line_take_any(
    controller: ControllerProcess, tmp_path: Path
) -> None:
    with engine(controller, tmp_path) as rig:
        store(rig, LONG)
        body = {"instance_id": NAME, "location": "any", "tokens": LONG}
        assert controller.post("/pin", **body).json()["num_tokens"] == len(LONG)
        assert controller.post("/pin", **body).json()["num_tokens"] == len(LONG), "it is one pin"
        for location, listed in (("any", 1), (MEMORY, 0)):
            query = {"location": location, "instance_id": NAME}
            assert len(controller.client.get("/pins", params=query).json()["pins"]) == listed
        assert controller.post("/unpin", **body).json()["num_tokens"] == len(LONG)
        assert controller.post("/unpin", **body).json()["num_tokens"] == 0
        env = {"LMCACHE_CONTROLLER_PORT": controller.url.rpartition(":")[2]}
        tokens = ["--tokens", ",".join(map(str, LONG))]
        where = ["--instance", NAME, "--location", "any"]
        made = CliRunner().invoke(main, ["pin", "mine", *where, *tokens], env=env)
        assert (made.exit_code, "anywhere:any" in made.output) == (0, True), made.output
        planned = CliRunner().invoke(main, ["pin", "--plan", *where, *tokens], env=env)
        assert (planned.exit_code, "anywhere:any" in planned.output) == (0, True), planned.output
        assert CliRunner().invoke(main, ["unpin", "mine"], env=env).exit_code == 0


def test_where_pins_may_be_and_nothing_else_may_any_is_named(
    controller: ControllerProcess, tmp_path: Path
) -> None:
    with engine(controller, tmp_path):
        nowhere = put(
            controller, placements=[{"instance_id": NAME, "location": "LocalDiskBackends"}]
        )
        assert nowhere.status_code == 404
        assert f"available: {MEMORY}, {DISK}, any" in nowhere.json()["detail"]
        for path, body in (
            ("/clear", {"instance_id": NAME, "location": "any"}),
            (
                "/move",
                {
                    "old_position": [NAME, "any"],
                    "new_position": [NAME, DISK],
                    "tokens": LONG,
                },
            ),
        ):
            refused = controller.post(path, **body)
            assert refused.status_code == 404, path
            assert "any" not in refused.json()["detail"].split("available: ")[1]


def test_more_than_all_tiers_may_hold_is_507_with_the_numbers_of_the_one_that_is_short(
    controller: ControllerProcess, tmp_path: Path
) -> None:
    with engine(controller, tmp_path) as rig:
        store(rig, LONG)
        ninth = list(range(9 * CHUNK_TOKENS))
        body = {"tokens": ninth[: len(LONG)] + [n + 5000 for n in ninth], "on_missing": "reserve"}
        refused = put(controller, **body)
        assert refused.status_code == 507
        problem = refused.json()
        assert f"pins of tier {MEMORY}" in problem["detail"]
        assert problem["facts"] == {
            "asked_bytes": 9 * SLOT_BYTES,
            "used_bytes": 0,
            "limit_bytes": 8 * SLOT_BYTES,
        }
        assert controller.client.get("/v1/pins/kept").status_code == 404


def test_a_namespace_holds_the_last_copy_in_each_instance_and_in_those_that_join(
    own_controller: ControllerProcess, tmp_path: Path
) -> None:
    controller = own_controller
    with engine(controller, tmp_path / "one", "one") as one:
        store(one, LONG)
        everywhere = [{"namespace": "rig", "location": "any"}]
        made = put(controller, placements=everywhere, on_missing="reserve")
        assert (made.status_code, made.json()["state"]) == (201, "active")
        with engine(controller, tmp_path / "two", "two") as two:
            eventually(lambda: len(shown(controller, "kept")["placements"]) == 2)
            eventually(lambda: shown(controller, "kept")["state"] == "pending")
            store(two, LONG)
            eventually(lambda: shown(controller, "kept")["state"] == "active")
            press(two)
            assert two.hit(LONG) == len(LONG)
