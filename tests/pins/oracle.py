"""What has to be there after a kill, by what was acknowledged before it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from lmcache_backend_local_disk.calls import SYSTEM
from lmcache_backend_local_disk.frame_check import FrameCheck
from lmcache_core.engine.frames.record import is_records_of
from tests.engine.rig import CHUNK_TOKENS
from tests.pins.prompts import keys
from tests.pins.world import DISK, INSTANCE

SLACK_SECONDS = 0.05
"""How far a pin's end may be from where it is looked at."""

PIN_SHARE = 0.8

Facts = dict[str, Any]


RECORDS_DIFFER = "what records take is not what is accounted for"
UNFINISHED = "what was not finished is still there"
FRAMES_DIFFER = "what is accounted for is not what is on the disk"

PASSING = {RECORDS_DIFFER, UNFINISHED, FRAMES_DIFFER}
"""What may be seen of a living engine that is just writing or removing a record, and what makes
room for it; a fault stays."""


class Oracle:
    """Pins that were acknowledged, and what must not come back.

    Attributes:
        held: What was acknowledged of each pin that lives.
        unsure: Pins of which something was asked and not answered.
        acknowledged: Answers that said that something was done.
    """

    def __init__(self) -> None:
        self.held: dict[str, Facts] = {}
        self.unsure: set[str] = set()
        self.acknowledged = 0
        self._engine_since = 0.0

    def heard(self, line: str) -> None:
        """Take what a client was answered."""
        state, pin_id, *rest = line.split(" ", 4)
        if state == "begun":
            self.unsure.add(pin_id)
            return
        method, status, facts = rest[0], int(rest[1]), json.loads(rest[2])
        if method == "DELETE" and status in (200, 202, 404):
            self.held.pop(pin_id, None)
        elif method == "PUT" and status in (200, 201):
            self._forget_memory(facts)
            self.held[pin_id] = facts
        else:
            return  # It may have been done or not; what is found then holds.
        self.acknowledged += 1
        self.unsure.discard(pin_id)

    def living(self, at: float) -> dict[str, Facts]:
        """Pins that are certain to live at a time."""
        return {
            pin_id: facts
            for pin_id, facts in self.held.items()
            if pin_id not in self.unsure
            and (facts["ends"] is None or facts["ends"] > at + SLACK_SECONDS)
        }

    def engine_begins(self, at: float) -> None:
        """What was in the memory of the one before is gone, whenever that is heard of."""
        self._engine_since = at
        for facts in self.held.values():
            self._forget_memory(facts)

    def _forget_memory(self, facts: Facts) -> None:
        if facts["location"] != DISK and facts["said"] < self._engine_since:
            facts["tokens"] = 0

    def faults_of_files(self, folder: Path, at: float) -> list[str]:
        """Look at the disk of an engine that is dead: pinned chunks, and no half ones."""
        wrong = []
        frames = {file.name: file for file in (folder / INSTANCE / "frames").glob("*/*")}
        check = FrameCheck(SYSTEM, direct=False)
        for name, file in frames.items():
            reason = check.reason(-1, str(file), bytes.fromhex(name))
            if reason:
                wrong.append(f"the file of chunk {name[:8]} is damaged: {reason}")
        for pin_id, facts in self.living(at).items():
            if facts["location"] == DISK:
                pinned = keys(facts["prompt"])[: -(-facts["tokens"] // CHUNK_TOKENS)]
                gone = [key.hex()[:8] for key in pinned if key.hex() not in frames]
                if gone:
                    wrong.append(f"pin {pin_id} {facts} has lost the chunks {gone}")
        return wrong

    def faults_of_ledger(self, seen: Facts) -> list[str]:
        """Compare what the ledger lists with what was acknowledged; believe it from then on."""
        listed: dict[str, Facts] = seen["pins"]
        wrong = []
        living = self.living(seen["at"])
        for pin_id, facts in living.items():
            found = listed.get(pin_id)
            if found is None or found["state"] == "expired":
                wrong.append(f"pin {pin_id} {facts} is lost: {found}")
            elif (found["version"], found["prompt"]) != (facts["version"], facts["prompt"]):
                wrong.append(f"pin {pin_id} {facts} has become {found}")
        for pin_id, found in listed.items():
            known = pin_id in self.held or pin_id in self.unsure
            if found["state"] != "expired" and not known:
                wrong.append(f"pin {pin_id} has come back: {found}")
        return wrong

    def faults_of_engine(self, folder: Path, ledger: Facts, engine: Facts, at: float) -> list[str]:
        """Compare what the engine holds with the ledger, the disk and what was acknowledged."""
        wrong = []
        listed = {p: f for p, f in ledger["pins"].items() if f["state"] != "expired"}
        for pin_id, (version, location, _) in engine["pins"].items():
            found = listed.get(pin_id)
            # A change that a kill cut short may not fit; the pin says so and waits, as
            # its engine still holds what it was before.
            waits = found is not None and version < found["version"] and not found["tokens"]
            same = found is not None and (version, location) == (
                found["version"],
                found["location"],
            )
            if not same and not waits:
                wrong.append(f"the engine holds pin {pin_id} at {version}, the ledger {found}")
        for pin_id, facts in listed.items():
            if facts["ends"] is not None and facts["ends"] < at + SLACK_SECONDS:
                continue
            holds = engine["pins"].get(pin_id, (0, "", 0))[2]
            if holds < facts["tokens"]:
                wrong.append(f"pin {pin_id} is reported with {facts['tokens']} of {holds} tokens")
        for pin_id, facts in self.living(at).items():
            holds = engine["pins"].get(pin_id, (0, "", 0))[2]
            if holds < facts["tokens"]:
                wrong.append(f"pin {pin_id} {facts} holds {holds} tokens")
        files = (folder / INSTANCE / "frames").glob("*/*")
        sizes = dict(_sizes(files))
        records = [n for n in sizes if is_records_of(bytes.fromhex(n), INSTANCE)]
        if sum(sizes.pop(name) for name in records) != engine["records"]:
            wrong.append(RECORDS_DIFFER)
        if sizes != engine["frames"]:
            wrong.append(FRAMES_DIFFER)
        if any((folder / INSTANCE / "aside").iterdir()):
            wrong.append(UNFINISHED)
        for name, (pinned, used, capacity) in engine["taken"].items():
            if used > capacity or pinned > capacity * PIN_SHARE:
                wrong.append(f"{name} has {used} and {pinned} pinned of {capacity} bytes")
        if engine["damaged"]:
            wrong.append(f"{engine['damaged']} frames were read that do not verify")
        return wrong

    def believe(self, ledger: Facts) -> None:
        """Go on from what is listed."""
        self.held = {p: f for p, f in ledger["pins"].items() if f["state"] != "expired"}
        self.unsure.clear()


def _sizes(files: Iterable[Path]) -> Iterator[tuple[str, int]]:
    """Names and sizes of files; a pin may end while they are looked at, and its record goes."""
    for file in files:
        with contextlib.suppress(FileNotFoundError):
            yield file.name, file.stat().st_size
