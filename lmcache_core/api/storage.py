"""The contract of a store that keeps frames under 32-byte keys.

A *frame* is a chunk as stored: one contiguous run of bytes, a header page and
the payload behind it. A storage backend keeps frames and nothing else; pins,
capacity, eviction, deadlines, statistics and events are the tier's above it,
so that every backend has them without writing them.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from lmcache_core.api.deadline import Deadline
from lmcache_core.keys import Key


class PutStatus(enum.Enum):
    """What became of one frame of a ``put``."""

    STORED = "stored"
    PRESENT = "present"
    """The key was there already; nothing was written and nothing is owed."""
    FULL = "full"
    """There is no room; the tier makes some and may ask again."""
    FAILED = "failed"
    """Anything else; the tier counts it and goes on without the frame."""


class StoreUsage(NamedTuple):
    """What a store holds by its own account.

    Attributes:
        used_bytes: Bytes of all frames.
        frames: Number of frames.
    """

    used_bytes: int
    frames: int


class StorageBackend(ABC):
    """Keeps frames under 32-byte keys.

    To write one: subclass, implement the six abstract methods and ``store_id``,
    hand it over in a :class:`~lmcache_core.api.StorageBackendSpec` from
    ``lmcache_register_storage_backends``, and run
    :class:`lmcache_core.testing.StorageBackendTests` against it.

    *Guaranteed* for every method: ``open`` has returned before any other
    call; none comes after ``close``. Calls come from the tier's own threads,
    several at a time, never from the thread that schedules requests, so they
    may block until the deadline, and no longer: the tier waits for the call
    all the same, because its buffers are in use, and asks nothing meanwhile.
    When a tier closes it takes the time away from what is still under way;
    ``Deadline.cancelled`` tells. Buffers start on a 4096-byte boundary and
    belong to the backend only until the call returns.

    *Must not*, for every method: keep a reference to a buffer after the call
    has returned; start a thread that writes into a buffer after that.
    """

    @property
    @abstractmethod
    def store_id(self) -> str:
        """Name the bytes: equal on two engines exactly when they share them.

        *Guaranteed*: asked for at any time, also before ``open``.
        *Must*: stay the same as long as the bytes do, across restarts too.
        *Must not*: ask the store; hold a password.
        """

    @abstractmethod
    def open(self) -> None:
        """Make the store ready for use.

        *Guaranteed*: called once, before all else. Where it raises, nothing
        but ``close`` follows; the tier may try again with another backend that
        the factory makes.
        *Must*: fail here, not later, when the store cannot be used at all.

        Raises:
            BackendError: The store cannot be used; the message says what to do.
            ConfigError: A setting is wrong, and no other try can help.
        """

    @abstractmethod
    def stat(self, keys: Sequence[Key], deadline: Deadline) -> list[int | None]:
        """Tell the length in bytes of each frame, None where there is none.

        *Must*: align the result with ``keys``; answer for all keys in one
        round trip where the store can.

        Raises:
            BackendError: The store did not answer; it says nothing of any key.
        """

    @abstractmethod
    def put(
        self, keys: Sequence[Key], frames: Sequence[memoryview], deadline: Deadline
    ) -> list[PutStatus]:
        """Store each frame under its key.

        *Guaranteed*: as many frames as keys; frames do not change meanwhile.
        *Must*: be atomic per key, so that a reader sees nothing or one whole
        frame; answer ``PRESENT`` without writing where the key exists; of
        several writers of one key let any one win; align the result.
        *Must not*: raise for one frame's failure; that is its status.

        Raises:
            BackendError: The store did not answer; any of the frames may or
                may not be there.
        """

    @abstractmethod
    def get(
        self, keys: Sequence[Key], buffers: Sequence[memoryview], deadline: Deadline
    ) -> list[int | None]:
        """Read each frame into its buffer; return its length, None for a miss.

        *Guaranteed*: as many buffers as keys.
        *Must*: align the result; answer None where the key is absent or the
        frame is longer than the buffer; leave bytes behind the length alone.
        *Must not*: answer a length for bytes it did not all write. Content
        need not be verified: the tier checks every frame before it is used.

        Raises:
            BackendError: The store did not answer; the buffers' content is
                undefined.
        """

    @abstractmethod
    def remove(self, keys: Sequence[Key], deadline: Deadline) -> list[bool]:
        """Remove each frame; tell for each whether it was there.

        *Must*: align the result; find none of them afterwards.
        *Must not*: remove a frame that another engine has put there since,
        where the store can tell.

        Raises:
            BackendError: The store did not answer.
        """

    def quarantine(
        self, keys: Sequence[Key], reasons: Sequence[str], deadline: Deadline
    ) -> list[bool]:
        """Take frames out of the way that failed verification; tell which were there.

        By default they are removed. A store that can may keep them aside, as
        long as no other method finds them any more and what it keeps is
        bounded.

        *Guaranteed*: as many reasons as keys, a line of text each.

        Raises:
            BackendError: The store did not answer.
        """
        del reasons
        return self.remove(keys, deadline)

    @abstractmethod
    def close(self) -> None:
        """Let go of everything; nothing is called afterwards but this.

        *Guaranteed*: no call is under way. Not called where a call never
        returns: what a backend holds then goes with the process.
        *Must*: be idempotent; work after an ``open`` that raised; end what
        the backend has started: threads, processes, connections.
        """

    def sync(self, deadline: Deadline) -> None:
        """Return once all that was put is durable (capability ``SYNC``).

        Raises:
            BackendError: It is not known to be durable.
        """
        raise NotImplementedError(self._undeclared("SYNC"))

    def protect(self, keys: Sequence[Key], protected: bool, deadline: Deadline) -> list[bool]:
        """Keep frames from the store's own eviction (capability ``PROTECT``).

        *Must*: align the result; keep what it has said it keeps until it is
        told otherwise or the frame is removed.
        *Must not*: say yes of a key that is not there.

        Returns:
            For each key whether it is now as asked.

        Raises:
            BackendError: The store did not answer; nothing is known to be
                protected.
        """
        raise NotImplementedError(self._undeclared("PROTECT"))

    def replace(
        self, keys: Sequence[Key], frames: Sequence[memoryview], deadline: Deadline
    ) -> list[bool]:
        """Store each frame in the place of the one of its key (capability ``REPLACE``).

        A tier does so to encode what it holds in another way.

        *Guaranteed*: as many frames as keys; frames do not change meanwhile.
        *Must*: be atomic per key, so that a reader, and whoever opens the
        store after a crash, finds the old frame or the new one, whole; leave
        the old frame as it is where the new one cannot be stored; align the
        result.
        *Must not*: store a frame under a key that is not there; make less
        durable what is there.

        Returns:
            For each key whether its frame is the new one now.

        Raises:
            BackendError: The store did not answer; each frame is the old one
                or the new one.
        """
        raise NotImplementedError(self._undeclared("REPLACE"))

    def scan(self) -> Iterator[tuple[Key, int]]:
        """Yield the key and length of every frame (capability ``SCAN``).

        What was used longest ago comes first where the store knows: the tier
        above evicts in that order. It runs in the serving process, and must
        not run Python for milliseconds without a pause.

        Raises:
            BackendError: Not all frames can be told.
        """
        raise NotImplementedError(self._undeclared("SCAN"))

    def usage(self) -> StoreUsage:
        """Tell what the store holds (capability ``USAGE``).

        *Must*: count whole frames, those that could be read now; answer at
        once, from what the backend keeps count of.
        """
        raise NotImplementedError(self._undeclared("USAGE"))

    def _undeclared(self, capability: str) -> str:
        return f"{type(self).__name__} does not declare {capability}"
