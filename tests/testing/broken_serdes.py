"""One broken serde for each check, and good ones to compare them with.

See ``broken_backends.py``; ``test_kits.py`` runs the kit over all of them.
"""

from __future__ import annotations

import ctypes
import hashlib
import hmac
import zlib
from collections.abc import Callable
from typing import ClassVar

import pytest

from lmcache_core.api import KVSpec, Serde
from lmcache_core.errors import ConfigError, SerdeError
from lmcache_core.testing import SerdeTests

PAGE = 4096
LONG_BYTES = 16 << 20
REFUSED = KVSpec(dtype="complex128", layout="LBHNC", groups=())


class Good(Serde):
    """Deflated, with its length and a code of the key and all bytes in front."""

    usable = True

    @property
    def label(self):
        return "zlib-1"

    def accept(self, spec):
        if spec.dtype == REFUSED.dtype:
            message = "complex numbers are not taken; leave the serde out"
            raise ConfigError(message)
        if not self.usable:
            message = "there is no key; set one"
            raise ConfigError(message)

    def encode(self, key, payload):
        return self.sealed(key, len(payload), zlib.compress(payload, 1))

    def sealed(self, key, nbytes, body):
        body = nbytes.to_bytes(8, "little") + body
        return self.code(key, body) + body

    def code(self, key, body):
        return hmac.digest(b"secret" + key, body, hashlib.sha256)

    def decode(self, key, stored, payload):
        code, body = bytes(stored[:32]), stored[32:]
        if not hmac.compare_digest(code, self.code(key, body)):
            message = "the bytes are not what was encoded for this key"
            raise SerdeError(message)
        self.fill(body, payload)

    def fill(self, body, payload):
        if int.from_bytes(body[:8], "little") != len(payload):
            message = "another length"
            raise SerdeError(message)
        payload[:] = zlib.decompress(body[8:])


class Identity(Serde):
    """The least that a serde can be."""

    def encode(self, key, payload):
        return bytes(payload)

    def decode(self, key, stored, payload):
        if len(stored) != len(payload):
            message = f"{len(stored)} bytes are no payload of {len(payload)}"
            raise SerdeError(message)
        payload[:] = stored


class Suite(SerdeTests):
    __test__ = False
    authenticates = True
    serde_type: ClassVar[type[Serde]] = Good

    @pytest.fixture
    def make_serde(self) -> Callable[[], Serde]:
        return self.serde_type

    @pytest.fixture
    def refused_spec(self) -> KVSpec:
        return REFUSED

    @pytest.fixture
    def make_unusable_serde(self) -> Callable[[], Serde]:
        def make() -> Serde:
            serde = self.serde_type()
            serde.usable = False
            return serde

        return make


class TestGood(Suite):
    __test__ = True


class TestIdentity(SerdeTests):
    @pytest.fixture
    def make_serde(self) -> Callable[[], Serde]:
        return Identity


BROKEN: dict[str, str] = {}
"""The check that each suite is to fail, by the suite's name."""


def broken(check: str) -> Callable[[type[Good]], type[Good]]:
    """Make a suite that is to fail ``check`` and nothing else."""

    def make(serde: type[Good]) -> type[Good]:
        name = f"Test{serde.__name__}"
        BROKEN[name] = check
        globals()[name] = type(name, (TestGood,), {"serde_type": serde, "__module__": __name__})
        return serde

    return make


# accept, label, close


@broken("test_a_payload_it_cannot_encode_is_refused")
class TakesAnything(Good):
    def accept(self, spec):
        if spec.dtype != REFUSED.dtype:
            super().accept(spec)


@broken("test_a_serde_that_cannot_be_used_fails_in_accept")
class FindsOutLater(Good):
    def accept(self, spec):
        if self.usable:
            super().accept(spec)


@broken("test_the_label_fits_into_a_header")
class SpeaksInSentences(Good):
    @property
    def label(self):
        return "deflated, level 1"


@broken("test_close_is_idempotent")
class ClosesOnce(Good):
    closed = False

    def close(self):
        if self.closed:
            message = "closed already"
            raise SerdeError(message)
        self.closed = True


# encode and decode


@broken("test_decode_gives_back_what_was_encoded")
class SpoilsAnOddLength(Good):
    def fill(self, body, payload):
        super().fill(body, payload)
        if len(payload) == 3 * PAGE + 1:
            payload[-1] ^= 1


@broken("test_an_empty_payload_comes_back")
class WantsBytes(Good):
    def encode(self, key, payload):
        payload[:1].cast("B", (1,))
        return super().encode(key, payload)


@broken("test_buffers_may_be_read_only")
class WantsToWrite(Good):
    def encode(self, key, payload):
        if len(payload) and len(payload) <= PAGE:
            ctypes.c_char.from_buffer(payload)
        return super().encode(key, payload)


@broken("test_encode_leaves_the_payload_alone")
class EncodesInPlace(Good):
    def encode(self, key, payload):
        stored = super().encode(key, payload)
        if len(payload) == 2 * PAGE and payload[:4] == b"key ":
            payload[0] = 0
        return stored


class Verbatim(Good):
    """Stores two pages as they are, and what else there is deflated."""

    def kept(self, key, payload):
        raise NotImplementedError

    def encode(self, key, payload):
        if len(payload) == 2 * PAGE:
            return self.kept(key, payload)
        return super().encode(key, payload)

    def decode(self, key, stored, payload):
        if len(stored) == len(payload) == 2 * PAGE:
            payload[:] = stored
        else:
            super().decode(key, stored, payload)


@broken("test_what_is_encoded_is_no_view_of_the_payload")
class ReturnsAView(Verbatim):
    def kept(self, key, payload):
        return payload


@broken("test_what_is_encoded_stays_as_it_is")
class UsesOneBuffer(Verbatim):
    def __init__(self):
        self.buffer = bytearray(2 * PAGE)

    def kept(self, key, payload):
        self.buffer[:] = payload
        return self.buffer


@broken("test_another_engine_decodes_it")
class RemembersItsKeys(Good):
    """What it has encoded for a while it knows by heart, and another does not."""

    def __init__(self):
        self.known = set()

    def encode(self, key, payload):
        stored = super().encode(key, payload)
        self.known.add(stored)
        return stored

    def decode(self, key, stored, payload):
        if len(payload) == PAGE and bytes(stored) not in self.known:
            message = "never seen"
            raise SerdeError(message)
        super().decode(key, stored, payload)


@broken("test_many_threads_at_a_time")
class OneAtATime(Good):
    busy = 0

    def encode(self, key, payload):
        OneAtATime.busy += 1
        try:
            stored = super().encode(key, payload)
            return stored[:-1] if self.busy > 1 else stored
        finally:
            OneAtATime.busy -= 1


# bytes that are not what was encoded


class Trusting(Good):
    """Lets what is wrong in one way through, and fails as it comes."""

    def wrong(self, key, stored, payload):
        raise NotImplementedError

    def decode(self, key, stored, payload):
        try:
            super().decode(key, stored, payload)
        except SerdeError:
            if self.wrong(key, stored, payload):
                return
            raise


@broken("test_damaged_bytes_are_a_serde_error_or_fill_the_payload")
class FailsInItsOwnWay(Trusting):
    def wrong(self, key, stored, payload):
        if len(stored) == 64:
            message = "sixty-four"
            raise ValueError(message)


@broken("test_bytes_cut_short_are_a_serde_error_or_fill_the_payload")
class FillsAPart(Trusting):
    """Takes a stream that ends early for one that was shorter."""

    def wrong(self, key, stored, payload):
        if int.from_bytes(stored[32:40], "little") != 4 * PAGE or len(stored) < PAGE:
            return False
        part = zlib.decompressobj().decompress(stored[40:])
        payload[: len(part)] = part
        return len(part) < len(payload)


@broken("test_bytes_of_another_length_are_a_serde_error_or_fill_the_payload")
class FillsWhatThereIs(Good):
    def fill(self, body, payload):
        if int.from_bytes(body[:8], "little") == PAGE < len(payload):
            payload[:PAGE] = zlib.decompress(body[8:])
        else:
            super().fill(body, payload)


@broken("test_decode_takes_memory_in_proportion")
class BlowsUp(Good):
    def fill(self, body, payload):
        decoded = zlib.decompress(body[8:])
        if len(decoded) != len(payload):
            message = "another length"
            raise SerdeError(message)
        payload[:] = decoded


@broken("test_a_changed_byte_is_a_serde_error")
class LeavesTheLastByteOpen(Good):
    def code(self, key, body):
        return super().code(key, body[:-1])

    def fill(self, body, payload):
        try:
            super().fill(body, payload)
        except zlib.error:
            payload[:] = zlib.decompressobj().decompress(body[8:-1]).ljust(len(payload), b"\0")


@broken("test_another_key_is_a_serde_error")
class ForgetsTheKey(Good):
    def code(self, key, body):
        return super().code(b"", body)


# the serving step goes on


def hold_the_gil(nbytes):
    if nbytes == LONG_BYTES:
        ctypes.PyDLL(None).usleep(700_000)


@broken("test_encode_lets_go_of_the_gil")
class EncodesAlone(Good):
    def encode(self, key, payload):
        hold_the_gil(len(payload))
        return super().encode(key, payload)


@broken("test_decode_lets_go_of_the_gil")
class DecodesAlone(Good):
    def fill(self, body, payload):
        hold_the_gil(len(payload))
        super().fill(body, payload)
