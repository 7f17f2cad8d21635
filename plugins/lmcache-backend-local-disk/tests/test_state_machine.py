"""Whatever is done in whatever order, the backend agrees with a plain model and with the files."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from lmcache_core.api import Deadline, PutStatus
from lmcache_core.testing.material import aligned_buffer, sample_frame, sample_key

NUMBERS = st.integers(0, 5)
SIZES = st.sampled_from((1, 100, 4096, 5000, 8192))
LARGEST = 8192
MEMORY = Path("/dev/shm")
"""Where folders are made sooner than on a disk."""


class DiskMachine(RuleBasedStateMachine):
    """The model is the bytes of each frame as a reader has to see them."""

    def __init__(self, make_disk: Callable[[Path], Any]) -> None:
        super().__init__()
        self.folder = Path(
            tempfile.mkdtemp(prefix="lmcache-disk-", dir=MEMORY if MEMORY.is_dir() else None)
        )
        self.disk = make_disk(self.folder)
        self.model: dict[int, bytes] = {}

    def teardown(self) -> None:
        self.disk.close()
        shutil.rmtree(self.folder)

    @rule(number=NUMBERS, other=NUMBERS, nbytes=SIZES)
    def put(self, number: int, other: int, nbytes: int) -> None:
        keys = [sample_key(number), sample_key(other)]
        frames = [sample_frame(number, nbytes), sample_frame(other, nbytes)]
        statuses = self.disk.backend.put(keys, frames, Deadline(30))
        for n, frame, status in zip((number, other), frames, statuses, strict=True):
            assert status is (PutStatus.PRESENT if n in self.model else PutStatus.STORED)
            self.model.setdefault(n, bytes(frame))

    @rule(number=NUMBERS, room=SIZES)
    def get(self, number: int, room: int) -> None:
        frame = self.model.get(number)
        expected = None if frame is None or len(frame) > room else frame
        assert self.disk.get(number, room) == expected

    @rule()
    def get_all(self) -> None:
        buffers = [aligned_buffer(LARGEST) for _ in range(6)]
        keys = [sample_key(number) for number in range(6)]
        lengths = self.disk.backend.get(keys, buffers, Deadline(30))
        for number, (length, buffer) in enumerate(zip(lengths, buffers, strict=True)):
            read = None if length is None else bytes(buffer[:length])
            assert read == self.model.get(number)

    @rule(number=NUMBERS)
    def stat(self, number: int) -> None:
        frame = self.model.get(number)
        assert self.disk.stat(number) == (None if frame is None else len(frame))

    @rule(number=NUMBERS)
    def remove(self, number: int) -> None:
        assert self.disk.remove(number) is (self.model.pop(number, None) is not None)

    @rule(number=NUMBERS)
    def quarantine(self, number: int) -> None:
        assert self.disk.quarantine(number) is (self.model.pop(number, None) is not None)

    @rule(number=NUMBERS)
    def vanish(self, number: int) -> None:
        if self.model.pop(number, None) is not None:
            self.disk.file(number).unlink()
            assert self.disk.get(number) is None

    @precondition(lambda self: self.model)
    @rule(data=st.data(), nbytes=st.integers(0, LARGEST))
    def truncate(self, data: st.DataObject, nbytes: int) -> None:
        number = data.draw(st.sampled_from(sorted(self.model)))
        frame = self.model[number][:nbytes]
        os.truncate(self.disk.file(number), len(frame))
        self.model[number] = frame
        self.disk.stat(number)

    @rule()
    def restart(self) -> None:
        self.disk.reopen()

    @rule()
    def restart_after_a_crash(self) -> None:
        (self.disk.root / "aside" / "99").write_bytes(b"half")
        self.disk.reopen()

    @invariant()
    def everything_agrees(self) -> None:
        lengths = {number: len(frame) for number, frame in self.model.items()}
        assert self.disk.backend.usage() == (sum(lengths.values()), len(lengths))
        expected = sorted((sample_key(number), nbytes) for number, nbytes in lengths.items())
        assert sorted(self.disk.backend.scan()) == expected
        self.disk.assert_exact()


def test_the_backend_agrees_with_the_model(make_disk: Callable[[Path], Any]) -> None:
    run_state_machine_as_test(
        lambda: DiskMachine(make_disk),
        settings=settings(max_examples=10, stateful_step_count=25, deadline=None),
    )
