"""Calls of a backend, each with its deadline, and its faults as ours."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from lmcache_core.api import Deadline, PutStatus, StorageBackend
from lmcache_core.errors import BackendError, LMCacheError
from lmcache_core.keys import Key

Answer = TypeVar("Answer")


class BackendCalls:
    """One storage backend as its tier calls it.

    Whatever a stranger's code does wrong, raising what it may not or
    answering for another number of keys, is a BackendError.

    Args:
        tier: The tier's name, for messages.
        backend: The store.
        seconds: Deadline of each call.
    """

    def __init__(self, tier: str, backend: StorageBackend, seconds: float) -> None:
        self._tier = tier
        self._backend = backend
        self._seconds = seconds
        self._cancel = threading.Event()

    def cancel(self) -> None:
        """Take the time away from all calls, those under way and those to come."""
        self._cancel.set()

    def open(self) -> None:
        """Open the store.

        Raises:
            LMCacheError: It cannot be used.
        """
        try:
            self._backend.open()
        except LMCacheError:
            raise
        except Exception as error:
            message = f"{self._tier}.open raised {type(error).__name__}: {error}"
            raise BackendError(message) from error

    def store_id(self) -> str:
        """The store's name.

        Raises:
            BackendError: It tells none.
        """
        try:
            name = self._backend.store_id
        except Exception as error:
            message = f"{self._tier}.store_id raised {type(error).__name__}: {error}"
            raise BackendError(message) from error
        if not isinstance(name, str):
            raise BackendError(f"{self._tier}.store_id is {name!r}, which is no text")
        return name

    def stat(self, keys: Sequence[Key]) -> list[int | None]:
        """Lengths of frames."""
        return self._ask("stat", lambda within: self._backend.stat(keys, within), keys)

    def put(self, key: Key, frame: memoryview) -> PutStatus:
        """Store one frame."""
        (status,) = self._ask(
            "put", lambda within: self._backend.put([key], [frame], within), [key]
        )
        return status

    def replace(self, key: Key, frame: memoryview) -> bool:
        """Store one frame in the place of another."""
        (replaced,) = self._ask(
            "replace", lambda within: self._backend.replace([key], [frame], within), [key]
        )
        return replaced is True

    def get(self, keys: Sequence[Key], frames: Sequence[memoryview]) -> list[int | None]:
        """Read frames."""
        return self._ask("get", lambda within: self._backend.get(keys, frames, within), keys)

    def remove(self, keys: Sequence[Key]) -> list[bool]:
        """Remove frames."""
        return self._ask("remove", lambda within: self._backend.remove(keys, within), keys)

    def sync(self) -> None:
        """Make all that was put durable."""

        def call(within: Deadline) -> list[None]:
            self._backend.sync(within)
            return []

        self._ask("sync", call, ())

    def quarantine(self, keys: Sequence[Key], reasons: Sequence[str]) -> list[bool]:
        """Take damaged frames out of the way."""
        return self._ask(
            "quarantine", lambda within: self._backend.quarantine(keys, reasons, within), keys
        )

    def _ask(
        self, what: str, call: Callable[[Deadline], list[Answer]], keys: Sequence[Key]
    ) -> list[Answer]:
        try:
            answers = call(Deadline(self._seconds, self._cancel))
            answered = len(answers)
        except LMCacheError:
            raise
        except (Exception, SystemExit) as error:
            message = f"{self._tier}.{what} raised {type(error).__name__}: {error}"
            raise BackendError(message) from error
        if answered != len(keys):
            message = f"{self._tier}.{what} answered for {answered} of {len(keys)} keys"
            raise BackendError(message)
        return answers
