"""The contract of a serde: bytes to bytes, for one storage tier's frames."""

from __future__ import annotations

from abc import ABC, abstractmethod

import msgspec

from lmcache_core.api.connector import KVGroup
from lmcache_core.keys import Key


class KVSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a payload's bytes are, for a serde that looks inside.

    Attributes:
        dtype: Element type of the KV cache as the serving engine names it,
            for example ``bfloat16``; empty where it is not known.
        layout: The engine's name of its KV layout, for example ``LBHNC``.
        groups: The KV groups, in the order in which a payload holds them.
    """

    dtype: str
    layout: str
    groups: tuple[KVGroup, ...]


class Serde(ABC):
    """Encodes a frame's payload on its way to a store and decodes it back.

    A storage tier has a chain of them: a payload is encoded by each in the
    order of the configuration, and decoded in the opposite order. The frame's
    header names the chain with each serde's ``label`` and lengths, and is
    not encoded itself.

    To write one: subclass, implement the two abstract methods, hand it over
    in a :class:`~lmcache_core.api.SerdeSpec` from ``lmcache_register_serdes``,
    and run :class:`lmcache_core.testing.SerdeTests` against it.

    *Guaranteed* for every method: ``accept`` has returned before any other
    call; none comes after ``close``. Calls come from the tier's own threads,
    several at a time, never from the thread that schedules requests.

    *Must*, for every method: let go of the GIL while it works for long, so
    that the serving step goes on.

    *Must not*, for every method: keep a reference to a buffer after the call
    has returned; raise anything but what is listed.
    """

    @property
    def label(self) -> str:
        """What a frame's header says of how it was encoded, for people.

        *Must*: be at most 64 printable characters of ASCII without spaces,
        commas or colons, for example a key's id. It is public, and ``decode``
        is not given it: what decoding needs must be in the encoded bytes.
        """
        return ""

    def accept(self, spec: KVSpec) -> None:  # noqa: B027 - most take any bytes
        """Look at what will be encoded; raise to refuse it.

        *Guaranteed*: called once, before all else, when the engine starts.
        *Must*: fail here, not later, when it cannot be used at all.

        Raises:
            ConfigError: The serde cannot encode such payloads, or what it is
                configured with is not there; the message says what to do.
        """

    @abstractmethod
    def encode(self, key: Key, payload: memoryview) -> bytes | bytearray | memoryview:
        """Return what is to be stored for ``payload``.

        *Guaranteed*: ``payload`` is contiguous bytes that do not change
        meanwhile; it may be empty, or read-only.
        *Must not*: write into ``payload``, which readers share; return
        a view of it, or a buffer that another call writes into.

        Raises:
            SerdeError: It cannot be encoded; the frame is not stored.
        """

    @abstractmethod
    def decode(self, key: Key, stored: memoryview, payload: memoryview) -> None:
        """Fill ``payload`` from what was stored.

        *Guaranteed*: ``payload`` has exactly the length that was encoded.
        *Must*: fill all of it or raise; stand any bytes in ``stored``, with
        memory and time in proportion to the two lengths.

        Raises:
            SerdeError: The bytes are not what ``encode`` returned for this
                key; the frame is quarantined.
        """

    def close(self) -> None:  # noqa: B027 - for most there is nothing to do
        """Let go of everything; nothing is called afterwards but this.

        *Guaranteed*: no call is under way.
        *Must*: be idempotent.
        """
