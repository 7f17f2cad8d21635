"""How often a server may fail before it is asked no more."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from lmcache_core.controller.failures import (
    NotWarmedError,
    ServerFailedError,
    ServerRefusedError,
)
from lmcache_core.errors import DeadlineExceededError

MAX_FAILURES = 3
"""In a row: each may take all the time that a prompt has."""


class Patience:
    """What one job has left of it for one server."""

    def __init__(self) -> None:
        self._failures = 0
        self._last = ""

    def check(self) -> None:
        """Make sure that the server is worth being asked.

        Raises:
            NotWarmedError: It has failed too often.
        """
        if self._failures >= MAX_FAILURES:
            message = (
                f"its server has failed {MAX_FAILURES} times and is asked no more: {self._last}"
            )
            raise NotWarmedError(message)

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        """Count how a request ends."""
        try:
            yield
        except (ServerFailedError, DeadlineExceededError) as error:
            self._failures += 1
            self._last = str(error)
            raise
        except ServerRefusedError:
            self._failures = 0  # It answers.
            raise
        self._failures = 0
