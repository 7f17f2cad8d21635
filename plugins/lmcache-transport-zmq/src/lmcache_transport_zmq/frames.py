"""Messages as bytes: one byte of protocol version, then a MessagePack map."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import msgpack  # type: ignore[import-untyped] # ships no types

from lmcache_core.api.messages import PROTOCOL_VERSION, Message, to_wire
from lmcache_core.errors import MessageError

MAX_FRAME_BYTES = 64 << 20
"""The longest legitimate message is a registration with the tokens of thousands of pins."""

MAX_ITEMS = 1 << 17
"""Bound of one array or map, so that a short header cannot ask for much memory."""

_VERSION = bytes([PROTOCOL_VERSION])

MessageT = TypeVar("MessageT")


def encode(message: Message) -> bytes:
    """Turn a message into a frame.

    Raises:
        MessageError: The frame would be longer than the other end takes.
    """
    body: bytes = msgpack.packb(to_wire(message), use_bin_type=True)
    if len(body) >= MAX_FRAME_BYTES:
        detail = f"a frame of {len(body) + 1} bytes is above the limit of {MAX_FRAME_BYTES}"
        raise MessageError(detail)
    return _VERSION + body


def decode(frame: bytes, read: Callable[[object], MessageT]) -> MessageT:
    """Turn a frame into a message.

    Args:
        frame: As it came from the network.
        read: ``engine_message`` or ``controller_message``.

    Raises:
        MessageError: It is no frame of this protocol version.
    """
    if len(frame) > MAX_FRAME_BYTES:
        detail = f"a frame of {len(frame)} bytes is above the limit of {MAX_FRAME_BYTES}"
        raise MessageError(detail)
    if frame[:1] != _VERSION:
        detail = f"a frame of protocol version {frame[0] if frame else None}, not {_VERSION[0]}"
        raise MessageError(detail)
    try:
        plain = msgpack.unpackb(
            memoryview(frame)[1:], raw=False, max_array_len=MAX_ITEMS, max_map_len=MAX_ITEMS
        )
        return read(plain)
    except MessageError:
        raise
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        # MessagePack reports truncation, bad UTF-8, too deep nesting and
        # trailing bytes by unlike classes; to the caller they are one thing.
        detail = f"not a MessagePack message: {type(error).__name__}: {error}"
        raise MessageError(detail) from error
