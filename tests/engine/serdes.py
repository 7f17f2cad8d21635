"""Serdes for tests: one that shortens, one that authenticates, and any that misbehave."""

from __future__ import annotations

import hashlib
import hmac
import zlib

from lmcache_core.api import Serde, SerdeSpec
from lmcache_core.config.engine import SerdeConfig
from lmcache_core.errors import SerdeError


class Zlib(Serde):
    """Shortens; its label is its level."""

    def __init__(self, config=None):
        self.closed = 0
        self.accepted = []

    @property
    def label(self):
        return "6"

    def accept(self, spec):
        self.accepted.append(spec)

    def encode(self, key, payload):
        return zlib.compress(payload)

    def decode(self, key, stored, payload):
        try:
            raw = zlib.decompress(stored)
        except zlib.error as error:
            raise SerdeError(str(error)) from error
        if len(raw) != len(payload):
            raise SerdeError(f"{len(raw)} bytes, not {len(payload)}")
        payload[:] = raw

    def close(self):
        self.closed += 1


class Signed(Serde):
    """Puts a code before the bytes that binds them to the key and to a secret."""

    def __init__(self, config=None, secret=b"secret"):
        self._secret = secret

    def _code(self, key, payload):
        return hmac.new(self._secret, key + bytes(payload), hashlib.sha256).digest()

    def encode(self, key, payload):
        return bytearray(self._code(key, payload) + bytes(payload))

    def decode(self, key, stored, payload):
        if len(stored) != 32 + len(payload) or stored[:32] != self._code(key, stored[32:]):
            raise SerdeError("the code does not match")
        payload[:] = stored[32:]


def serde_spec(name, make, *, authenticates=False):
    return SerdeSpec(name=name, summary="", load=lambda: make, authenticates=authenticates)


ZLIB = serde_spec("zlib", Zlib)
SIGNED = serde_spec("signed", Signed, authenticates=True)


def chain(*names):
    """The fields of a tier that has such a chain."""
    return {"serdes": tuple(SerdeConfig(name) for name in names)}
