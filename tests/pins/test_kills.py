"""Engines and controllers that are killed: pins that were acknowledged are there afterwards."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys

import pytest

from lmcache_backend_local_disk.calls import SYSTEM
from tests.pins.engine_child import engine_has, make_engine
from tests.pins.oracle import Oracle
from tests.pins.prompts import keys, prompt
from tests.pins.world import DISK, INSTANCE, MEMORY

KILLS = int(os.environ.get("LMCACHE_TEST_PIN_KILLS", "50"))


@pytest.mark.slow
def test_after_every_kill_pins_are_what_was_acknowledged(record_property):
    command = [sys.executable, "-m", "tests.pins.kill_run", "--kills", str(KILLS), "--json"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert run.returncode == 0, run.stderr
    figures = json.loads(run.stdout)
    assert figures["kills"] >= KILLS
    assert figures["random"] >= KILLS // 10
    assert min(figures[f"of_{who}"] for who in ("engine", "controller", "both")) >= KILLS // 10
    assert figures["places"] >= 25
    assert figures["places_killed_at"] >= 8, figures["not_killed_at"]
    assert figures["acknowledged"] >= KILLS
    record_property("seed", figures["seed"])


NOW = 1_800_000_000.0
PIN = {
    "version": 5,
    "location": DISK,
    "prompt": 0,
    "tokens": 32,
    "ends": None,
    "state": "active",
    "said": NOW,
}


class Scene:
    """One pin that was acknowledged and holds, one that was released, and who says what."""

    def __init__(self, folder, engine):
        self.folder = folder
        self.oracle = Oracle()
        for line in (
            "begun kept",
            f"done kept PUT 201 {json.dumps(PIN)}",
            "begun gone",
            f"done gone PUT 201 {json.dumps(PIN)}",
            "begun gone",
            "done gone DELETE 200 null",
        ):
            self.oracle.heard(line)
        self.ledger = {"pins": {"kept": copy.deepcopy(PIN)}, "at": NOW}
        self.engine = {**engine, "pins": {"kept": [5, DISK, 32]}}

    def file(self, number):
        name = keys(0)[number].hex()
        return self.folder / INSTANCE / "frames" / name[:2] / name

    def faults(self):
        oracle = self.oracle
        found = oracle.faults_of_files(self.folder, NOW)
        found += oracle.faults_of_ledger(self.ledger)
        found += oracle.faults_of_engine(self.folder, self.ledger, self.engine, NOW)
        return " ".join(found)


@pytest.fixture
def scene(tmp_path):
    with make_engine(tmp_path, SYSTEM, None) as rig:
        rig.serve(prompt(0))
        return Scene(tmp_path, engine_has(rig))


def test_the_oracle_has_nothing_to_say_of_what_is_right(scene):
    assert scene.faults() == ""


def test_what_was_not_answered_may_be_either(scene):
    scene.oracle.heard("begun kept")
    scene.oracle.heard("done kept PUT 504 null")
    for version in (5, 6):
        scene.ledger["pins"]["kept"]["version"] = scene.engine["pins"]["kept"][0] = version
        assert scene.faults() == ""
    scene.ledger["pins"] = scene.engine["pins"] = {}
    assert scene.faults() == ""


def test_what_has_ended_need_not_be_there(scene):
    scene.oracle.held["kept"]["ends"] = NOW - 1
    scene.ledger["pins"]["kept"]["state"] = "expired"
    scene.engine["pins"] = {}
    assert scene.faults() == ""
    scene.oracle.held["kept"]["ends"] = NOW + 1
    assert "kept" in scene.faults()


def test_what_was_in_memory_is_gone_with_its_engine_however_late_that_is_heard_of(scene):
    in_memory = {**PIN, "location": MEMORY}
    scene.oracle.engine_begins(NOW + 1)
    for said, tokens in ((NOW, 0), (NOW + 2, 32)):
        scene.oracle.heard(f"done kept PUT 200 {json.dumps({**in_memory, 'said': said})}")
        assert scene.oracle.held["kept"]["tokens"] == tokens


SPOILT = {
    "has lost the chunks": lambda scene: scene.file(1).unlink(),
    "is damaged": lambda scene: scene.file(1).write_bytes(b"no frame"),
    "is lost": lambda scene: scene.ledger["pins"].clear(),
    "has become": lambda scene: scene.ledger["pins"]["kept"].update(version=4),
    "has come back": lambda scene: scene.ledger["pins"].update(gone=PIN),
    "the engine holds pin gone": lambda scene: scene.engine["pins"].update(gone=[5, DISK, 32]),
    "is reported with 32 of 16": lambda scene: scene.engine["pins"].update(kept=[5, DISK, 16]),
    "holds 0 tokens": lambda scene: scene.engine["pins"].clear(),
    "accounted for": lambda scene: scene.engine["frames"].popitem(),
    "what records take": lambda scene: scene.engine.update(records=1),
    "not finished": lambda scene: (scene.folder / INSTANCE / "aside" / "left").touch(),
    "9 pinned of 10": lambda scene: scene.engine["taken"].update({MEMORY: [9, 9, 10]}),
    "do not verify": lambda scene: scene.engine.update(damaged=1),
}


@pytest.mark.parametrize("fault", SPOILT)
def test_the_oracle_sees_what_is_wrong(scene, fault):
    SPOILT[fault](scene)
    assert fault in scene.faults()
