"""One frame on its way into a file."""

from __future__ import annotations

import errno
import os

from lmcache_core.api import PutStatus
from lmcache_core.keys import Key


class Writing:
    """A file that is written aside and not named yet, and what has become of it.

    Args:
        key: The frame's key.
        nbytes: Its length.
        replaces: Whether it takes the place of a file that is there, and no other.

    Attributes:
        aside: The file's name while it is written; empty before.
        fd: Its descriptor while it is open.
        outcome: What has become of it; a write that nobody has settled was
            interrupted.
    """

    __slots__ = ("_settled", "aside", "fd", "key", "nbytes", "outcome", "replaces")

    def __init__(self, key: Key, nbytes: int, *, replaces: bool = False) -> None:
        self.key = key
        self.nbytes = nbytes
        self.replaces = replaces
        self.aside = ""
        self.fd: int | None = None
        self.outcome: PutStatus | OSError = OSError(errno.EINTR, os.strerror(errno.EINTR))
        self._settled = False

    @property
    def open(self) -> bool:
        """Whether it is written and waits to be named."""
        return self.fd is not None and not self._settled

    def fits(self, length: int | None) -> bool:
        """Whether it may have its name where a file of some length has it, or None.

        Where it may not, that is what has become of it.
        """
        if self.replaces is (length is not None):
            return True
        self.settle(PutStatus.FAILED if self.replaces else PutStatus.PRESENT)
        return False

    def settle(self, outcome: PutStatus | OSError) -> None:
        """Note what has become of it."""
        self.outcome = outcome
        self._settled = True
