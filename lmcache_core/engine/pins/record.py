"""One pin as an engine's durable tier keeps it."""

from __future__ import annotations

from typing import Self

import msgspec

from lmcache_core.api.pins import PinRequest
from lmcache_core.errors import MessageError


class PinRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What is needed to mark a pin's chunks before anybody asks for it.

    Attributes:
        request: As it was asked for; ``ttl_seconds`` is its whole time, which
            a hit starts anew.
        ends_at: Unix time of its end, or None.
        wanted_tokens: Length of the prefix that was held or waited for: what
            a pin has not been asked to wait for, it does not wait for later.
        namespace: The identity of the namespace that its tokens are cached in.
    """

    request: PinRequest
    ends_at: float | None
    wanted_tokens: int
    namespace: bytes

    def pack(self) -> bytes:
        """The record as bytes."""
        return _encoder.encode(self)

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Read a record.

        Raises:
            MessageError: It is none that this version knows.
        """
        try:
            return msgspec.msgpack.decode(body, type=cls)
        except (msgspec.DecodeError, ValueError) as error:
            raise MessageError(f"not the record of a pin: {error}") from error


_encoder = msgspec.msgpack.Encoder()
