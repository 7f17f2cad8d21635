"""The commands that a frame is written and read with."""

from __future__ import annotations

from collections.abc import Sequence

from lmcache_backend_redis.link import Request
from lmcache_backend_redis.replies import Refusal, Reply
from lmcache_core.errors import BackendError

RANGE_BYTES = 1 << 20
"""A longer frame is read in ranges of this length: a server copies a value before it sends it, and
copies the next range while the last one travels. Twice as fast from 8 MiB on."""

ASK_FIRST_BYTES = 4 << 20
"""Of a longer frame it is asked whether it is there before it is sent."""

LONGEST_FRAME_BYTES = 512 << 20
"""What a server takes as one value, unless ``proto-max-bulk-len`` says otherwise."""


def write(name: bytes, frame: memoryview, ttl_seconds: int | None) -> Request:
    """Store a frame where there is none."""
    words: list[bytes | memoryview] = [b"SET", name, frame, b"NX"]
    if ttl_seconds is not None:
        words += [b"EX", b"%d" % ttl_seconds]
    return Request(words)


def write_over(name: bytes, frame: memoryview) -> Request:
    """Store a frame where there is one, for as long as that was to stay."""
    return Request([b"SET", name, frame, b"XX", b"KEEPTTL"])


def read(name: bytes, buffer: memoryview) -> list[Request]:
    """Read a frame, or the beginning of one that is longer than the buffer, and one byte more.

    The byte more tells the one from the other, and nothing longer is ever sent.
    What is read in ranges is watched meanwhile, so that it is known to be
    of one frame.
    """
    spare = memoryview(bytearray(1))
    starts = range(0, len(buffer) or 1, RANGE_BYTES)
    ranges = []
    for start in starts:
        part = buffer[start : start + RANGE_BYTES]
        last = start == starts[-1]
        stop = start + len(part) - (not last)
        words = [b"GETRANGE", name, b"%d" % start, b"%d" % stop]
        ranges.append(Request(words, [part, spare] if last else [part]))
    if len(ranges) == 1:
        return ranges
    return [Request([b"WATCH", name]), *ranges, Request([b"MULTI"]), Request([b"EXEC"])]


def length_read(answers: Sequence[Reply], buffer: memoryview) -> int | None:
    """The length of the frame that was read, None where there is none, or a longer one.

    Raises:
        BackendError: The server refused.
    """
    for answer in answers:
        refuse(answer)
    if len(answers) > 1:
        _, *answers, _, unchanged = answers
        if unchanged is None:
            # Removed or written anew while it was read.
            return None
    length = sum(answer for answer in answers if isinstance(answer, int))
    return length if 0 < length <= len(buffer) else None


def refuse(answer: Reply) -> None:
    """Raise what a server has refused.

    Raises:
        BackendError: It has.
    """
    if isinstance(answer, Refusal):
        advice = ADVICE.get(answer.code, "")
        raise BackendError(f"redis refuses: {answer.text}{advice}")


ADVICE = {
    "NOAUTH": "; give username and password, password_file or password_env",
    "WRONGPASS": "; see username and password, password_file or password_env",
    "NOPERM": "; the user needs get, set, strlen, exists, getrange, unlink, watch, multi and exec",
    "READONLY": "; this server is a replica, name its primary",
    "MISCONF": "; the server cannot save its data, see its log",
}
