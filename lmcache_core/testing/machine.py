"""Whatever is done in whatever order, a backend agrees with a plain dictionary."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import Any, Concatenate, ParamSpec

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir, storage_directory
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from lmcache_core.api import Capability, PutStatus, StorageBackend
from lmcache_core.testing.calls import OpenBackends, soon
from lmcache_core.testing.material import aligned_buffers, sample_frame, sample_key

KEYS = 5
"""So few that calls meet each other's keys."""

STEPS = (4, 10, 40)
"""How many calls are made one after the other."""

SIZES = (1, 100, 4095, 4096)
NUMBERS = st.integers(0, KEYS - 1)
SEVERAL = st.lists(NUMBERS, min_size=1, max_size=KEYS, unique=True)

Arguments = ParamSpec("Arguments")


class Watch:
    """Ends the run when its time is up, unless a fault was found, which is then shown again.

    Args:
        seconds: How long to look for a fault.
    """

    def __init__(self, seconds: float) -> None:
        self._until = time.monotonic() + seconds
        self.found = False

    @property
    def is_up(self) -> bool:
        """Whether there is nothing more to do."""
        return not self.found and time.monotonic() >= self._until


def step(
    **strategies: Any,  # noqa: ANN401 - a strategy of anything
) -> Callable[
    [Callable[Concatenate[StorageMachine, Arguments], None]],
    Callable[Concatenate[StorageMachine, Arguments], None],
]:
    """Make a rule that does nothing when the machine's time is up."""

    def make(
        function: Callable[Concatenate[StorageMachine, Arguments], None],
    ) -> Callable[Concatenate[StorageMachine, Arguments], None]:
        @functools.wraps(function)
        def run(self: StorageMachine, *args: Arguments.args, **kwargs: Arguments.kwargs) -> None:
            if self.watch.is_up:
                return
            try:
                function(self, *args, **kwargs)
            except Exception:
                self.watch.found = True
                raise

        made: Callable[Concatenate[StorageMachine, Arguments], None] = rule(**strategies)(run)  # type: ignore[no-untyped-call]
        return made

    return make


class StorageMachine(RuleBasedStateMachine):
    """One backend, or two over one store, beside a dictionary of what has to be there.

    Args:
        backends: Makes and opens backends over one store, which is empty.
        capabilities: What the backend declares.
        watch: The time that is left.
    """

    def __init__(self, backends: OpenBackends, capabilities: Capability, watch: Watch) -> None:
        super().__init__()
        self.watch = watch
        self._backends = backends
        self._can = capabilities
        self._model: dict[int, bytes] = {}
        self._protected: set[int] = set()
        self._backend = backends.open()
        shared = Capability.SHARED in capabilities
        self._other = backends.open() if shared else self._backend

    def teardown(self) -> None:
        """Leave the store as empty as it was."""
        keys = [sample_key(number) for number in range(KEYS)]
        if self._protected:
            self._backend.protect(keys, False, soon())  # noqa: FBT003
        self._backend.remove(keys, soon())
        self._backends.close_all()

    @step(numbers=SEVERAL, version=st.integers(0, 2), nbytes=st.sampled_from(SIZES))
    def put(self, numbers: list[int], version: int, nbytes: int) -> None:
        frames = [sample_frame(KEYS * version + number, nbytes) for number in numbers]
        keys = [sample_key(number) for number in numbers]
        statuses = self._backend.put(keys, frames, soon())
        assert len(statuses) == len(keys)
        for number, frame, status in zip(numbers, frames, statuses, strict=True):
            if status is PutStatus.STORED and self._may_have_gone(number):
                self._model.pop(number, None)
            there = number in self._model
            assert status is (PutStatus.PRESENT if there else PutStatus.STORED)
            self._model.setdefault(number, bytes(frame))

    @step(numbers=SEVERAL, version=st.integers(3, 5), nbytes=st.sampled_from(SIZES))
    def replace(self, numbers: list[int], version: int, nbytes: int) -> None:
        if Capability.REPLACE not in self._can:
            return
        frames = [sample_frame(KEYS * version + number, nbytes) for number in numbers]
        keys = [sample_key(number) for number in numbers]
        replaced = self._backend.replace(keys, frames, soon())
        self._note_gone(numbers, [was or None for was in replaced])
        assert replaced == [number in self._model for number in numbers]
        for number, frame in zip(numbers, frames, strict=True):
            if number in self._model:
                self._model[number] = bytes(frame)

    @step(numbers=SEVERAL, room=st.sampled_from(SIZES))
    def get(self, numbers: list[int], room: int) -> None:
        self._get(self._backend, numbers, room)

    @step(numbers=SEVERAL)
    def get_through_another_engine(self, numbers: list[int]) -> None:
        self._get(self._other, numbers, max(SIZES))

    @step(numbers=SEVERAL)
    def stat(self, numbers: list[int]) -> None:
        lengths = self._backend.stat([sample_key(number) for number in numbers], soon())
        self._note_gone(numbers, lengths)
        assert lengths == [self._length(number) for number in numbers]

    @step(numbers=SEVERAL)
    def remove(self, numbers: list[int]) -> None:
        there = self._backend.remove([sample_key(number) for number in numbers], soon())
        self._note_gone(numbers, [was or None for was in there])
        assert there == [number in self._model for number in numbers]
        self._forget(numbers)

    @step(numbers=SEVERAL)
    def remove_through_another_engine(self, numbers: list[int]) -> None:
        self._other.remove([sample_key(number) for number in numbers], soon())
        self._forget(numbers)

    @step(numbers=SEVERAL)
    def quarantine(self, numbers: list[int]) -> None:
        keys = [sample_key(number) for number in numbers]
        there = self._backend.quarantine(keys, ["a check"] * len(keys), soon())
        self._note_gone(numbers, [was or None for was in there])
        assert there == [number in self._model for number in numbers]
        self._forget(numbers)

    @step()
    def reopen(self) -> None:
        if Capability.DURABLE not in self._can:
            return
        if Capability.SYNC in self._can:
            self._backend.sync(soon())
        self._backends.close_all()
        self._backend = self._backends.open()
        shared = Capability.SHARED in self._can
        self._other = self._backends.open() if shared else self._backend

    @step(numbers=SEVERAL, protected=st.booleans())
    def protect(self, numbers: list[int], protected: bool) -> None:
        if Capability.PROTECT not in self._can:
            return
        keys = [sample_key(number) for number in numbers]
        held = self._backend.protect(keys, protected, soon())
        assert len(held) == len(keys)
        for number, holds in zip(numbers, held, strict=True):
            if not protected:
                self._protected.discard(number)
            elif number in self._model and holds:
                self._protected.add(number)
            elif not self._may_have_gone(number):
                assert holds is (number in self._model)

    @step()
    def scan(self) -> None:
        if Capability.SCAN not in self._can:
            return
        found = dict(self._backend.scan())
        self._note_gone(range(KEYS), [found.get(sample_key(number)) for number in range(KEYS)])
        assert found == {sample_key(number): len(frame) for number, frame in self._model.items()}

    @step()
    def usage(self) -> None:
        if Capability.USAGE not in self._can or Capability.SELF_EVICTING in self._can:
            return
        frames = self._model.values()
        assert self._backend.usage() == (sum(map(len, frames)), len(frames))

    def _get(self, backend: StorageBackend, numbers: list[int], room: int) -> None:
        buffers = aligned_buffers(len(numbers), room)
        lengths = backend.get([sample_key(number) for number in numbers], buffers, soon())
        if room == max(SIZES):
            self._note_gone(numbers, lengths)
        expected = []
        for number, length, buffer in zip(numbers, lengths, buffers, strict=True):
            frame = self._model.get(number)
            expected.append(None if frame is None or len(frame) > room else len(frame))
            if length is not None and expected[-1] == length:
                assert bytes(buffer[:length]) == frame
        if Capability.SELF_EVICTING not in self._can or room == max(SIZES):
            assert lengths == expected

    def _length(self, number: int) -> int | None:
        frame = self._model.get(number)
        return None if frame is None else len(frame)

    def _may_have_gone(self, number: int) -> bool:
        return Capability.SELF_EVICTING in self._can and number not in self._protected

    def _note_gone(self, numbers: range | list[int], found: list[int | None]) -> None:
        """Take what a store may have dropped by itself out of the model."""
        for number, there in zip(numbers, found, strict=True):
            if there is None and self._may_have_gone(number):
                self._model.pop(number, None)

    def _forget(self, numbers: list[int]) -> None:
        for number in numbers:
            self._model.pop(number, None)
            self._protected.discard(number)


def run_machine(backends: OpenBackends, capabilities: Capability, seconds: float) -> None:
    """Look for an order of calls after which a backend and a dictionary differ.

    Short orders are tried first, so that what fails is short without being
    made so, which can take minutes.

    Args:
        backends: Makes and opens backends over one store, which is empty.
        capabilities: What the backend declares.
        seconds: How long to look.
    """
    watch = Watch(seconds)
    with nothing_left_behind():
        for steps in STEPS:
            run_state_machine_as_test(
                lambda: StorageMachine(backends, capabilities, watch),  # type: ignore[arg-type] # any factory will do
                settings=settings(
                    max_examples=40,
                    stateful_step_count=steps,
                    deadline=None,
                    database=None,
                    derandomize=True,
                    phases=(Phase.generate,),
                    suppress_health_check=list(HealthCheck),
                ),
            )


@contextmanager
def nothing_left_behind() -> Iterator[None]:
    """Let hypothesis keep its notes in a folder that goes, not in the author's."""
    before = storage_directory(intent_to_write=False).path
    with TemporaryDirectory(prefix="lmcache-kit-") as folder:
        set_hypothesis_home_dir(folder)
        try:
            yield
        finally:
            set_hypothesis_home_dir(before)
