"""What obstore raises, in words that tell a person what to do."""

from __future__ import annotations

import re

from obstore.exceptions import NotSupportedError, PermissionDeniedError, UnauthenticatedError

from lmcache_core.errors import BackendError

_STATUS = re.compile(r"status code: (\d{3}) ?([A-Za-z ]*)")
_CODE = re.compile(r"<Code>([^<]+)</Code>")
_SAID = re.compile(r"<Message>([^<]+)</Message>")
_QUERY = re.compile(r"\?\S+")
_LONGEST = 300

_FULL = re.compile(
    r"\bos error 28\b|\bos error 122\b|status code: 507"
    r"|<Code>(QuotaExceeded|XMinioStorageFull|XMinioAdminBucketQuotaExceeded)</Code>"
)
"""ENOSPC and EDQUOT of a folder; what S3-compatible servers with a bound answer."""


def is_full(error: BaseException) -> bool:
    """Whether a put failed for want of room."""
    return _FULL.search(str(error)) is not None


def is_refused(error: BaseException) -> bool:
    """Whether a put failed for what is put, so that another one may not."""
    return _status(error) in {400, 411, 413}


def is_beyond_end(error: BaseException) -> bool:
    """Whether a range begins behind the end of an object."""
    return _status(error) == 416 or "range was invalid" in str(error)


def lacks_condition(error: BaseException) -> bool:
    """Whether a store does not know of conditional writes."""
    return isinstance(error, NotImplementedError | NotSupportedError) or _status(error) == 501


def failed(what: str, url: str, error: BaseException) -> BackendError:
    """Make an error of ours.

    Args:
        what: What was tried, for example ``reading a frame``.
        url: Of the store, as configured.
        error: What obstore raised.
    """
    return BackendError(f"{what} in {url} failed: {_reason(error)}; {_advice(error)}")


def _reason(error: BaseException) -> str:
    """What the server said, without its address and what may be secret in it."""
    text = str(error)
    status, code, said = (pattern.search(text) for pattern in (_STATUS, _CODE, _SAID))
    if status:
        what = f"{status[1]} {code[1] if code else status[2]}".rstrip()
        return f"{what} ({said[1].strip()})" if said else what
    # Which request it was is behind "Error performing" and before " - ".
    told = text.partition("Debug source")[0].rpartition(" - ")[2]
    return _QUERY.sub("", " ".join(told.split()))[:_LONGEST].rstrip(" :.") or type(error).__name__


def _status(error: BaseException) -> int:
    """The HTTP status that a store has answered with; 0 for none."""
    match = _STATUS.search(str(error))
    return int(match[1]) if match else 0


def _advice(error: BaseException) -> str:
    status = _status(error)
    if isinstance(error, OSError) and error.errno is not None:
        return "see that the folder is there and that this user may read and write it"
    if isinstance(error, PermissionDeniedError | UnauthenticatedError) or status in {401, 403}:
        return (
            "see that the credentials are right, and that they may read, write, delete and list "
            "there"
        )
    if isinstance(error, FileNotFoundError) or status == 404:
        return "see that the bucket and the endpoint are right; a bucket is not made here"
    if status >= 500 or status == 429:
        return "the store is ill or asked too much of; its own log says more"
    return "see that the endpoint is right and answers from here"
