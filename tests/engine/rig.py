"""A serving engine reduced to what the cache sees of one: blocks, jobs, steps.

Every token of every sequence has four bytes of "KV" that depend on all
tokens up to it, so that a block loaded for the wrong prefix, shifted, or cut
in the wrong place cannot compare equal.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Self

from lmcache_core.api import BackendContext, Capability, PluginSpec, StorageBackendSpec
from lmcache_core.api.connector import CopyJob, KVGroup
from lmcache_core.api.frames import HEADER_BYTES
from lmcache_core.config import EngineConfig, TierConfig
from lmcache_core.engine import CacheEngine, start
from lmcache_core.engine.chunks.geometry import Geometry
from lmcache_core.keys import EMPTY_SCOPE, Namespace, Scope
from lmcache_core.memory import HostRegion
from lmcache_core.plugins import PluginRegistry

BLOCK_TOKENS = 4
TOKEN_BYTES = 4
BLOCK_BYTES = BLOCK_TOKENS * TOKEN_BYTES
CHUNK_TOKENS = 16
FRAME_BYTES = HEADER_BYTES + CHUNK_TOKENS // BLOCK_TOKENS * BLOCK_BYTES
SLOT_BYTES = 8192
"""Header page and one page of payload: every chunk takes this, unless blocks are larger."""

GARBAGE = b"\xee" * BLOCK_BYTES


def kv(tokens: Sequence[int], scope: Scope = EMPTY_SCOPE) -> bytes:
    """The KV bytes of a whole sequence."""
    state = hashlib.sha256(scope.digest())
    parts = []
    for token in tokens:
        state.update(token.to_bytes(4, "little"))
        parts.append(state.digest()[:TOKEN_BYTES])
    return b"".join(parts)


@dataclass
class Rig:
    """One engine over real shared memory, and a page table beside it.

    Blocks of more than ``BLOCK_BYTES`` are padded; they make short chunks
    smaller than whole ones, as they are in the field. ``tier_fields`` are more
    fields of a storage tier's configuration, by its name. Whoever makes many
    engines hands in a ``registry``: to find the plugins takes longest of all.
    """

    chunks: int = 8
    staging_chunks: int = 2
    storage: Sequence[StorageBackendSpec] = ()
    storage_chunks: int = 0
    overrides: dict[str, object] = field(default_factory=dict)
    block_bytes: int = BLOCK_BYTES
    groups: Sequence[KVGroup] = ()
    offers: Sequence[PluginSpec] = ()
    tier_fields: dict[str, dict[str, object]] = field(default_factory=dict)
    registry: PluginRegistry | None = None

    def __post_init__(self) -> None:
        self.registry = self.registry or PluginRegistry.discover()
        for spec in (*self.storage, *self.offers):
            self.registry.offer(spec)
        self.groups = self.groups or [KVGroup(BLOCK_TOKENS, self.block_bytes)]
        geometry = Geometry(self.groups)
        slot_bytes = geometry.slot_bytes(CHUNK_TOKENS)
        frame_bytes = HEADER_BYTES + geometry.payload_bytes(CHUNK_TOKENS)
        memory = TierConfig("LocalCPUBackend", self.chunks * slot_bytes)
        below = [
            TierConfig(
                spec.name,
                **{  # type: ignore[arg-type]
                    "capacity_bytes": self.storage_chunks * frame_bytes or None,
                    **self.tier_fields.get(spec.name, {}),
                },
            )
            for spec in self.storage
        ]
        settings: dict[str, object] = {
            "chunk_size": CHUNK_TOKENS,
            "tiers": (memory, *below),
            "staging_bytes": self.staging_chunks * slot_bytes,
            **self.overrides,
        }
        self.config = EngineConfig(**settings)  # type: ignore[arg-type]
        self._stack = ExitStack()
        self.region = self._stack.enter_context(
            HostRegion.create(
                self.registry.backend("LocalCPUBackend"),  # type: ignore[arg-type]
                {},
                BackendContext(instance_id="rig", tier="LocalCPUBackend"),
                self.chunks * slot_bytes + self.config.staging_bytes,
            )
        )
        self.engine: CacheEngine = start(
            config=self.config,
            namespace=Namespace(model="rig", weights="00", chunk_size=CHUNK_TOKENS),
            region=self.region,
            groups=self.groups,
            registry=self.registry,
        )
        self._stack.callback(self.engine.close)
        self.pages: dict[int, bytes] = {}
        self._next_block = 1
        self._next_request = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    # -- what a worker does ----------------------------------------------

    def store(self, job: CopyJob) -> None:
        """Gather a job's pages into their slots."""
        for copy in job.copies:
            assert copy.first_block + len(copy.block_ids) <= copy.slot_blocks
            for place, block in enumerate(copy.block_ids):
                at = copy.offset + (copy.first_block + place) * self.block_bytes
                page = self.pages[block]
                if self.groups[copy.group].clears_tails and block == copy.block_ids[-1]:
                    valid = (copy.tail_tokens or BLOCK_TOKENS) * TOKEN_BYTES
                    page = page[:valid].ljust(BLOCK_BYTES, b"\0")
                self.region.view(at, BLOCK_BYTES)[:] = page

    def load(self, job: CopyJob) -> None:
        """Scatter a job's slots into their pages."""
        for copy in job.copies:
            assert copy.first_block + len(copy.block_ids) <= copy.slot_blocks
            for place, block in enumerate(copy.block_ids):
                at = copy.offset + (copy.first_block + place) * self.block_bytes
                self.pages[block] = bytes(self.region.view(at, BLOCK_BYTES))

    # -- what a server does ----------------------------------------------

    def blocks_for(self, tokens: int) -> list[int]:
        """Fresh blocks full of another tenant's bytes, in no order."""
        count = -(-tokens // BLOCK_TOKENS)
        ids = list(range(self._next_block, self._next_block + count))
        self._next_block += count
        ids.reverse()
        for block in ids:
            self.pages[block] = GARBAGE
        return ids

    def tables_for(self, tokens: int) -> list[list[int]]:
        """Fresh blocks, per group."""
        return [self.blocks_for(tokens)]

    def compute(self, tables: list[list[int]], tokens: Sequence[int], scope: Scope) -> None:
        """Fill the blocks of a whole sequence."""
        self._compute(tables[0], kv(tokens, scope), len(tokens))

    def begin(self, tokens: Sequence[int], scope: Scope = EMPTY_SCOPE) -> str:
        """Let a request arrive; return its id."""
        self._next_request += 1
        name = f"r{self._next_request}"
        self.engine.begin(name, tokens, scope)
        return name

    def wait_match(self, name: str, limit: int) -> int:
        """Ask until promotions are done; return the tokens of the hit."""
        while True:
            match = self.engine.match(name, limit)
            if match.ready:
                assert sum(match.by_location.values()) == match.tokens
                return match.tokens

    def serve(
        self,
        tokens: Sequence[int],
        scope: Scope = EMPTY_SCOPE,
        *,
        steps: int = 10**9,
        local: int = 0,
        acknowledge: bool = True,
    ) -> int:
        """Serve one prompt: hit, load, compute in steps, store; return the hit.

        The first ``local`` tokens, whole blocks, are in the server's own cache.
        The loaded bytes are compared, token by token, with what computing
        them would have given.
        """
        name = self.begin(tokens, scope)
        hit = self.wait_match(name, len(tokens) - 1)
        blocks = self.blocks_for(len(tokens))
        expected = kv(tokens, scope)
        self._compute(blocks, expected, local)
        if hit > local:
            job = self.engine.plan_load(name, local, hit, [blocks])
            assert job is not None
            self.load(job)
            self.engine.acknowledge([job.job_id])
            got = b"".join(self.pages[block] for block in blocks)
            assert got[: hit * TOKEN_BYTES] == expected[: hit * TOKEN_BYTES]
        position = max(hit, local)
        jobs = []
        while position < len(tokens):
            stop = min(len(tokens), position + steps)
            self._compute(blocks, expected, stop)
            job = self.engine.plan_store(name, stop, [blocks], final=stop == len(tokens))
            if job is not None:
                self.store(job)
                jobs.append(job.job_id)
            position = stop
        if acknowledge:
            self.engine.acknowledge(jobs)
        self.engine.finish(name)
        return hit

    def hit(self, tokens: Sequence[int], scope: Scope = EMPTY_SCOPE) -> int:
        """How many tokens a request would find, without storing any."""
        name = self.begin(tokens, scope)
        tokens_found = self.wait_match(name, len(tokens))
        self.engine.finish(name)
        return tokens_found

    def _compute(self, blocks: Sequence[int], expected: bytes, stop: int) -> None:
        computed = expected[: stop * TOKEN_BYTES]
        for place in range(-(-stop // BLOCK_TOKENS)):
            page = computed[place * BLOCK_BYTES : (place + 1) * BLOCK_BYTES]
            self.pages[blocks[place]] = page + GARBAGE[len(page) :]


def storage_spec(name: str, make: object, capabilities: Capability) -> StorageBackendSpec:
    """A spec for a backend that a test made."""
    return StorageBackendSpec(
        name=name,
        summary="of a test",
        load=lambda: make,
        capabilities=capabilities,  # type: ignore[arg-type,return-value]
    )
