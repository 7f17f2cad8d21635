"""What the engine remembers of a request while it lives."""

from __future__ import annotations

from lmcache_core.api.connector import Match
from lmcache_core.engine.chunks.entry import Entry
from lmcache_core.keys import Key, KeyChain, Scope


class Request:
    """One request of the serving engine.

    Attributes:
        request_id: Its id there.
        scope: What its keys are seeded with beside the namespace.
        chain: Its tokens and their keys.
        stored_chunks: Whole chunks that need no further thought about storing.
        matched: Entries leased to it by the last match, in order.
        match: The limit of the last match and its answer.
        asking: Shared tiers that are looking for chunks of it.
        promoting: Chunks it waits for, each with the tier that reads it.
        promote_due: Monotonic time after which it waits no longer.
        promoted: Entries fetched for it and leased until its first match.
        storable: Whether what it computes may be stored.
        closed: Whether it has finished.
    """

    __slots__ = (
        "asking",
        "chain",
        "closed",
        "match",
        "matched",
        "promote_due",
        "promoted",
        "promoting",
        "request_id",
        "scope",
        "storable",
        "stored_chunks",
    )

    def __init__(self, request_id: str, chain: KeyChain, scope: Scope) -> None:
        self.request_id = request_id
        self.scope = scope
        self.chain = chain
        self.stored_chunks = 0
        self.matched: list[Entry] = []
        self.match: tuple[int, Match] | None = None
        self.asking: set[str] = set()
        self.promoting: dict[Key, str] = {}
        self.promote_due = 0.0
        self.promoted: list[Entry] = []
        self.storable = True
        self.closed = False
