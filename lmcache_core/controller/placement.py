"""The placement index: which engine holds which chunks, in which tier."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from lmcache_core.api.messages import Events
from lmcache_core.controller.engine_record import EngineRecord
from lmcache_core.controller.stream import EventStream, short_key
from lmcache_core.keys import TOKEN_BYTES, KeyChain, Scope


class Query(NamedTuple):
    """A token sequence as one namespace names it.

    Attributes:
        keys: Short keys of the whole chunks and of the exact tail.
        ends: Tokens up to the end of each.
    """

    keys: list[int]
    ends: list[int]

    @classmethod
    def of(cls, engine: EngineRecord, scope: Scope, token_bytes: bytes) -> Query:
        """Compute the keys of a sequence in an engine's namespace."""
        size = engine.namespace.chunk_size
        chain = KeyChain(KeyChain.seed(engine.digest, scope.digest()), size)
        chain.extend_bytes(token_bytes)
        total = len(token_bytes) // TOKEN_BYTES
        keys = [short_key(key) for key in chain.keys]
        ends = [(index + 1) * size for index in range(len(keys))]
        if total % size:
            keys.append(short_key(chain.key(len(chain.keys), total % size)))
            ends.append(total)
        return cls(keys, ends)

    def prefix(self, *held: set[int]) -> int:
        """Tokens of the longest prefix of which some tier holds each chunk."""
        tokens = 0
        for key, end in zip(self.keys, self.ends, strict=True):
            if not any(key in tier for tier in held):
                break
            tokens = end
        return tokens


class Found(NamedTuple):
    """How much of a sequence an engine holds, in tokens from the first on.

    Attributes:
        by_location: What each tier holds by itself.
        together: What they hold together: what one has evicted may be in the
            one below.
    """

    by_location: dict[str, int]
    together: int


class Placement:
    """Streams by engine; soft state, told anew by engines.

    Attributes:
        gaps: How often events were missed.
    """

    def __init__(self) -> None:
        self._streams: dict[str, EventStream] = {}
        self.gaps = 0

    def start(self, engine: EngineRecord, sequence: int, *, anew: bool) -> bool:
        """An engine has registered; say whether it is to send a snapshot."""
        if anew:
            self.drop(engine.instance_id)
        stream = self._streams.setdefault(engine.instance_id, EventStream())
        return stream.start(sequence, engine.locations)

    def take(self, events: Events) -> bool:
        """Apply a batch; say whether the engine is to be asked for a snapshot now."""
        stream = self._streams.get(events.instance_id)
        if stream is None:
            return False
        gaps, wanted = stream.gaps, stream.wants_snapshot
        stream.take(events)
        self.gaps += stream.gaps - gaps
        # Once is enough: the next heartbeat asks again should it get lost.
        return stream.wants_snapshot and not wanted

    def note(self, instance_id: str, sequence: int) -> bool:
        """A heartbeat has come; say whether the engine is to be asked for a snapshot."""
        stream = self._streams.get(instance_id)
        if stream is None:
            return False
        gaps = stream.gaps
        stream.note(sequence)
        self.gaps += stream.gaps - gaps
        return stream.wants_snapshot and not stream.is_receiving

    def drop(self, instance_id: str) -> None:
        """An engine has gone: nothing is known of what it holds."""
        self._streams.pop(instance_id, None)

    def keys(self) -> dict[tuple[str, str], int]:
        """Number of keys by engine and location."""
        return {
            (instance_id, location): len(held)
            for instance_id, stream in self._streams.items()
            for location, held in stream.held.items()
        }

    def find(
        self, engines: Iterable[EngineRecord], scope: Scope, token_bytes: bytes
    ) -> dict[str, Found]:
        """The longest cached prefix of a sequence, by engine.

        Keys are computed once for all engines of one namespace.
        """
        queries: dict[bytes, Query] = {}
        found: dict[str, Found] = {}
        for engine in engines:
            stream = self._streams.get(engine.instance_id)
            if stream is None:
                continue
            query = queries.get(engine.digest)
            if query is None:
                query = queries[engine.digest] = Query.of(engine, scope, token_bytes)
            by_location = {location: query.prefix(held) for location, held in stream.held.items()}
            together = query.prefix(*stream.held.values())
            found[engine.instance_id] = Found(by_location, together)
        return found
