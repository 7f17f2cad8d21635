"""Backends with a fault, for tests of what stands above a backend.

A fault is planted between a backend and its caller, in the methods that are
named, and may be planted and taken away while the backend is in use.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple

from lmcache_core.api import Deadline, PutStatus, StorageBackend, StoreUsage
from lmcache_core.errors import BackendError
from lmcache_core.keys import Key
from lmcache_core.testing.threads import PATIENCE_SECONDS

CALLS = frozenset({"stat", "put", "get", "remove", "replace"})


class Call(NamedTuple):
    """One call of a backend.

    Attributes:
        method: Its name.
        make: Makes the call and returns the backend's answer, a list.
        buffers: Of ``get`` the buffers; else empty.
        deadline: Its deadline.
    """

    method: str
    make: Callable[[], list[Any]]
    buffers: Sequence[memoryview]
    deadline: Deadline


class Fault(ABC):
    """What goes wrong with a call."""

    @abstractmethod
    def answer(self, call: Call) -> list[Any]:
        """Make the call, or not, and answer for it."""


class Raises(Fault):
    """The call is not made; the store did not answer, or a stranger's code has a bug.

    Args:
        error: What is raised.
    """

    def __init__(self, error: BaseException | None = None) -> None:
        self._error = error or BackendError("the store did not answer (planted)")

    def answer(self, call: Call) -> list[Any]:
        """Raise."""
        del call
        raise self._error


class Hangs(Fault):
    """The call returns when it is released, whatever its deadline, having done nothing.

    Attributes:
        entered: Set when a call hangs.
        released: Set to let go of all calls, those to come too.
    """

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.released = threading.Event()

    def answer(self, call: Call) -> list[Any]:
        """Wait, and fail."""
        del call
        self.entered.set()
        self.released.wait(PATIENCE_SECONDS)
        raise BackendError("the store did not answer in time (planted)")


class Late(Hangs):
    """The call is made when it is released, and so writes and returns after its deadline."""

    def answer(self, call: Call) -> list[Any]:
        """Wait, and make the call as if nothing were."""
        self.entered.set()
        self.released.wait(PATIENCE_SECONDS)
        return call.make()


class Short(Fault):
    """The call answers for one key fewer than it was asked."""

    def answer(self, call: Call) -> list[Any]:
        """Leave the last answer out."""
        return call.make()[:-1]


class Misaligned(Fault):
    """The call answers for another key first, and a ``get`` reads that key's frame."""

    def answer(self, call: Call) -> list[Any]:
        """Turn the answers round by one, and what was read with them."""
        answers = call.make()
        if call.buffers:
            read = [
                bytes(buffer[: n or 0]) for n, buffer in zip(answers, call.buffers, strict=True)
            ]
            for frame, buffer in zip(read[1:] + read[:1], call.buffers, strict=True):
                buffer[: len(frame)] = frame
        return answers[1:] + answers[:1]


class Truncates(Fault):
    """A ``get`` says that it has written all of a frame, and has not written its end."""

    def answer(self, call: Call) -> list[Any]:
        """Put back what the end of each buffer had."""
        ends = [bytes(buffer[buffer.nbytes // 2 :]) for buffer in call.buffers]
        answers = call.make()
        for buffer, end in zip(call.buffers, ends, strict=True):
            buffer[buffer.nbytes // 2 :] = end
        return answers


class Flips(Fault):
    """A ``get`` writes one bit of each frame wrong.

    Args:
        place: Which byte of the frame; from its end where it is negative.
    """

    def __init__(self, place: int = -1) -> None:
        self._place = place

    def answer(self, call: Call) -> list[Any]:
        """Make the call and flip the bit."""
        answers = call.make()
        for length, buffer in zip(answers, call.buffers, strict=False):
            if length:
                buffer[:length][self._place] ^= 1
        return answers


class FaultyBackend(StorageBackend):
    """A backend with a fault between it and whoever calls it.

    Args:
        backend: A good one.
        fault: What goes wrong; None for nothing, for now.
        methods: Where: of ``stat``, ``put``, ``get``, ``remove`` and ``replace``.

    Attributes:
        fault: See above; may be changed at any time.
    """

    def __init__(
        self,
        backend: StorageBackend,
        fault: Fault | None = None,
        methods: Collection[str] = CALLS,
    ) -> None:
        if unknown := set(methods) - CALLS:
            message = f"no fault can be planted in {sorted(unknown)}, only in {sorted(CALLS)}"
            raise ValueError(message)
        self.fault = fault
        self._backend = backend
        self._methods = frozenset(methods)

    @property
    def store_id(self) -> str:
        """That of the good one."""
        return self._backend.store_id

    def open(self) -> None:
        """Open the good one."""
        self._backend.open()

    def stat(self, keys: Sequence[Key], deadline: Deadline) -> list[int | None]:
        """Tell lengths, unless the fault is planted here."""
        return self._answer("stat", lambda: self._backend.stat(keys, deadline), (), deadline)

    def put(
        self, keys: Sequence[Key], frames: Sequence[memoryview], deadline: Deadline
    ) -> list[PutStatus]:
        """Store frames, unless the fault is planted here."""
        return self._answer("put", lambda: self._backend.put(keys, frames, deadline), (), deadline)

    def get(
        self, keys: Sequence[Key], buffers: Sequence[memoryview], deadline: Deadline
    ) -> list[int | None]:
        """Read frames, unless the fault is planted here."""
        return self._answer(
            "get", lambda: self._backend.get(keys, buffers, deadline), buffers, deadline
        )

    def remove(self, keys: Sequence[Key], deadline: Deadline) -> list[bool]:
        """Remove frames, unless the fault is planted here."""
        return self._answer("remove", lambda: self._backend.remove(keys, deadline), (), deadline)

    def replace(
        self, keys: Sequence[Key], frames: Sequence[memoryview], deadline: Deadline
    ) -> list[bool]:
        """Replace frames, unless the fault is planted here."""
        return self._answer(
            "replace", lambda: self._backend.replace(keys, frames, deadline), (), deadline
        )

    def quarantine(
        self, keys: Sequence[Key], reasons: Sequence[str], deadline: Deadline
    ) -> list[bool]:
        """Take frames out of the way as the good one does."""
        return self._backend.quarantine(keys, reasons, deadline)

    def sync(self, deadline: Deadline) -> None:
        """Sync the good one."""
        self._backend.sync(deadline)

    def protect(self, keys: Sequence[Key], protected: bool, deadline: Deadline) -> list[bool]:
        """Protect keys as the good one does."""
        return self._backend.protect(keys, protected, deadline)

    def scan(self) -> Iterator[tuple[Key, int]]:
        """Yield what the good one has."""
        return self._backend.scan()

    def usage(self) -> StoreUsage:
        """Tell what the good one holds."""
        return self._backend.usage()

    def close(self) -> None:
        """Close the good one."""
        self._backend.close()

    def _answer(
        self,
        method: str,
        make: Callable[[], list[Any]],
        buffers: Sequence[memoryview],
        deadline: Deadline,
    ) -> list[Any]:
        fault = self.fault
        if fault is None or method not in self._methods:
            return make()
        return fault.answer(Call(method, make, buffers, deadline))


class LateBackend(FaultyBackend):
    """A backend whose reads write and return long after their deadline.

    Args:
        backend: A good one.

    Attributes:
        late: Says when a read has come, and lets go of it.
    """

    def __init__(self, backend: StorageBackend) -> None:
        self.late = Late()
        super().__init__(backend, self.late, {"get"})
