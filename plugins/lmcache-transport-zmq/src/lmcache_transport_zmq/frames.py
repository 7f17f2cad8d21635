"""Messages as bytes: one byte of protocol version, then a MessagePack map."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from lmcache_core.api.messages import PROTOCOL_VERSION, ControllerMessage, EngineMessage, Message
from lmcache_core.errors import MessageError

MAX_FRAME_BYTES = 64 << 20
"""The longest legitimate message names a pin of millions of tokens."""

ENGINE_MESSAGES: msgspec.msgpack.Decoder[EngineMessage] = msgspec.msgpack.Decoder(EngineMessage)
CONTROLLER_MESSAGES: msgspec.msgpack.Decoder[ControllerMessage] = msgspec.msgpack.Decoder(
    ControllerMessage
)

_VERSION = bytes([PROTOCOL_VERSION])
_ENCODER = msgspec.msgpack.Encoder()

MessageT = TypeVar("MessageT")


def encode(message: Message) -> bytearray:
    """Turn a message into a frame.

    Raises:
        MessageError: The frame would be longer than the other end takes.
    """
    frame = bytearray(_VERSION)
    _ENCODER.encode_into(message, frame, len(_VERSION))
    if len(frame) > MAX_FRAME_BYTES:
        detail = f"a frame of {len(frame)} bytes is above the limit of {MAX_FRAME_BYTES}"
        raise MessageError(detail)
    return frame


def decode(frame: bytes, decoder: msgspec.msgpack.Decoder[MessageT]) -> MessageT:
    """Turn a frame into a message.

    A message is made at once, with no plain values between: in an engine, what
    is not in the processor's caches costs most, and this touches least.

    Args:
        frame: As it came from the network.
        decoder: ``ENGINE_MESSAGES`` or ``CONTROLLER_MESSAGES``.

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
        return decoder.decode(memoryview(frame)[1:])
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        # Truncation, bad UTF-8 and too deep nesting are of unlike classes; to
        # the caller they are one thing.
        detail = f"not a message of protocol version {_VERSION[0]}: {error}"
        raise MessageError(detail) from error
