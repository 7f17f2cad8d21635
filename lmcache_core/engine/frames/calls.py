"""Calls of a backend, each with its deadline, and its faults as ours."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from lmcache_core.api import Deadline, PutStatus, StorageBackend
from lmcache_core.errors import BackendError, DeadlineExceededError, LMCacheError
from lmcache_core.keys import Key
from lmcache_core.log import get_logger

log = get_logger(__name__)

Answer = TypeVar("Answer")


class BackendCalls:
    """One storage backend as its tier calls it.

    Whatever a stranger's code does wrong, raising what it may not or
    answering for another number of keys, is a BackendError.

    Args:
        tier: The tier's name, for messages.
        make: Makes the store's backend; at once, and again before it is
            opened again, because a backend is opened once.
        seconds: Deadline of each call.

    Raises:
        LMCacheError: Its section is wrong.
    """

    def __init__(self, tier: str, make: Callable[[], StorageBackend], seconds: float) -> None:
        self._tier = tier
        self._make = make
        self._backend = make()
        self._tried = False
        self._seconds = seconds
        self._cancel = threading.Event()

    def cancel(self) -> None:
        """Take the time away from all calls, those under way and those to come."""
        self._cancel.set()

    def open(self) -> None:
        """Open the store, also where that was tried before and has failed.

        Raises:
            BackendError: It cannot be used.
            LMCacheError: Its section is wrong.
        """
        try:
            if self._tried:
                self.close()
                self._backend = self._make()
            self._tried = True
            self._backend.open()
        except DeadlineExceededError as error:
            raise BackendError(str(error)) from error
        except LMCacheError:
            raise
        except (Exception, SystemExit) as error:
            message = f"{self._tier}.open raised {type(error).__name__}: {error}"
            raise BackendError(message) from error

    def close(self) -> None:
        """Close the store, where it was opened or that was tried."""
        if not self._tried:
            return
        try:
            self._backend.close()
        except Exception:
            log.exception("tier.close_failed", tier=self._tier)

    def scan(self) -> Iterator[tuple[Key, int]]:
        """Keys and lengths of what it has."""
        return self._backend.scan()

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
