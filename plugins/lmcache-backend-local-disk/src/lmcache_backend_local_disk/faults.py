"""What the system's errors mean, and what to do about them."""

from __future__ import annotations

import errno
from pathlib import Path

from lmcache_core.errors import BackendError

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
"""What a file system answers that has no room."""

UNREADABLE = frozenset({errno.EIO, errno.ELOOP, errno.EISDIR, errno.EBADMSG, errno.EUCLEAN})
"""What one file's own damage looks like; anything else is the disk's or the process's."""

OUR_OWN = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""What the process lacks, whichever disk it asks."""

_ADVICE = {
    errno.ENOENT: "the folder was removed or replaced; restart the engine to make it anew",
    errno.EROFS: "the file system has become read-only; see what the kernel says of the disk",
    errno.EIO: "the disk fails; see what the kernel says of it",
    **dict.fromkeys(FULL, "the disk is full; free some room"),
    **dict.fromkeys(OUR_OWN, "the process has reached a limit; raise it (see `ulimit -a`)"),
}


def told(what: str, path: Path, error: OSError, *, owned: bool) -> BackendError:
    """The error as the tier and the log get it.

    Args:
        what: What was done.
        path: In which folder.
        error: What the system said.
        owned: Whether the folder is still the one that was opened.
    """
    advice = "see that the folder is there and that this user may write to it"
    if error.errno in _ADVICE and not (error.errno == errno.ENOENT and owned):
        advice = _ADVICE[error.errno]
    return BackendError(f"{what} in {path} failed: {error.strerror}; {advice}")
