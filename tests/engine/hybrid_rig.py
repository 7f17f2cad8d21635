"""The rig of a server with several KV groups, windows among them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from lmcache_core.api.connector import NULL_BLOCK, CopyJob, KVGroup
from lmcache_core.api.frames import HEADER_BYTES
from lmcache_core.engine.chunks.geometry import SLOT_ALIGNMENT
from lmcache_core.keys import EMPTY_SCOPE, Scope
from tests.engine.rig import TOKEN_BYTES, Rig

GARBAGE = b"\xee"


class HybridRig(Rig):
    """One engine, and page tables that lose what is before a window.

    A block begins with ``TOKEN_BYTES`` for each of its tokens; the rest of it is padding.
    """

    # -- what a worker does ----------------------------------------------

    def store(self, job: CopyJob) -> None:
        self._check_layout(job)
        for place, page in self._places(job):
            self.region.view(place, len(self.pages[page]))[:] = self.pages[page]

    def load(self, job: CopyJob) -> None:
        for place, page in self._places(job):
            self.pages[page] = bytes(self.region.view(place, len(self.pages[page])))

    def _places(self, job: CopyJob) -> list[tuple[int, int]]:
        places = []
        for copy in job.copies:
            nbytes = self.groups[copy.group].block_bytes
            assert copy.first_block + len(copy.block_ids) <= copy.slot_blocks
            assert NULL_BLOCK not in copy.block_ids
            for place, block in enumerate(copy.block_ids, copy.first_block):
                places.append((copy.offset + place * nbytes, block))
        assert len({page for _, page in places}) == len(places), "no block twice"
        return places

    def _check_layout(self, job: CopyJob) -> None:
        """Behind the header, group follows group without a gap."""
        ends = set()
        for copy in sorted(job.copies, key=lambda copy: copy.offset):
            starts_slot = (copy.offset - HEADER_BYTES) % SLOT_ALIGNMENT == 0
            assert starts_slot or copy.offset in ends
            ends.add(copy.offset + copy.slot_blocks * self.groups[copy.group].block_bytes)

    # -- what a server does ----------------------------------------------

    def tables_for(self, tokens: int, computed: int = 0) -> list[list[int]]:
        tables = []
        for group in self.groups:
            count = -(-tokens // group.block_tokens)
            blocks = list(range(self._next_block, self._next_block + count))
            self._next_block += count
            blocks.reverse()
            for block in blocks:
                self.pages[block] = GARBAGE * group.block_bytes
            tables.append(blocks)
        self._take_away(tables, computed)
        return tables

    def serve(
        self,
        tokens: Sequence[int],
        scope: Scope = EMPTY_SCOPE,
        *,
        steps: int = 10**9,
        local: int = 0,
        acknowledge: bool = True,
    ) -> int:
        """Serve one prompt as :meth:`Rig.serve` does.

        Every page that the next token attends to is compared when it has been
        loaded; a hit that is longer than the server's own takes away what is
        before its windows.
        """
        name = self.begin(tokens, scope)
        hit = self.wait_match(name, len(tokens) - 1)
        tables = self.tables_for(len(tokens), max(hit, local))
        self._compute(tables, tokens, scope, 0, local)
        if hit > local:
            job = self.engine.plan_load(name, local, hit, tables)
            assert job is not None
            self.load(job)
            self.engine.acknowledge([job.job_id])
            self._check(tables, tokens, scope, hit)
        position = max(hit, local)
        jobs = []
        while position < len(tokens):
            stop = min(len(tokens), position + steps)
            self._take_away(tables, position)
            self._compute(tables, tokens, scope, position, stop)
            job = self.engine.plan_store(name, stop, tables, final=stop == len(tokens))
            if job is not None:
                self.store(job)
                jobs.append(job.job_id)
            position = stop
        if acknowledge:
            self.engine.acknowledge(jobs)
        self.engine.finish(name)
        return hit

    def compute(self, tables: list[list[int]], tokens: Sequence[int], scope: Scope) -> None:
        self._compute(tables, tokens, scope, 0, len(tokens))

    def _take_away(self, tables: list[list[int]], computed: int) -> None:
        for group, table in zip(self.groups, tables, strict=True):
            if group.window is not None:
                gone = max(0, computed - group.window + 1) // group.block_tokens
                table[:gone] = [NULL_BLOCK] * min(gone, len(table))

    def _compute(  # type: ignore[override]
        self, tables: list[list[int]], tokens: Sequence[int], scope: Scope, begin: int, end: int
    ) -> None:
        for number, token, block, at in self._slots(tables, begin, end):
            page = bytearray(self.pages[block])
            page[at : at + TOKEN_BYTES] = kv_of(number, tokens[: token + 1], scope)
            self.pages[block] = bytes(page)

    def _check(
        self, tables: list[list[int]], tokens: Sequence[int], scope: Scope, end: int
    ) -> None:
        for number, group in enumerate(self.groups):
            begin = 0 if group.window is None else max(0, end - group.window + 1)
            for token in range(begin, end):
                block = tables[number][token // group.block_tokens]
                assert block != NULL_BLOCK
                at = token % group.block_tokens * TOKEN_BYTES
                got = self.pages[block][at : at + TOKEN_BYTES]
                assert got == kv_of(number, tokens[: token + 1], scope)

    def _slots(
        self, tables: list[list[int]], begin: int, end: int
    ) -> list[tuple[int, int, int, int]]:
        slots = []
        for number, group in enumerate(self.groups):
            for token in range(begin, end):
                block = tables[number][token // group.block_tokens]
                if block != NULL_BLOCK:
                    at = token % group.block_tokens * TOKEN_BYTES
                    slots.append((number, token, block, at))
        return slots


def kv_of(group: int, tokens: Sequence[int], scope: Scope) -> bytes:
    """The KV of the last of some tokens in one group."""
    state = hashlib.sha256(scope.digest() + bytes([group]))
    state.update(b"".join(token.to_bytes(4, "little") for token in tokens))
    return state.digest()[:TOKEN_BYTES]


def windows(*shapes: tuple[int, int | None], token_bytes: int = TOKEN_BYTES) -> list[KVGroup]:
    """Groups of some block sizes and windows."""
    return [KVGroup(tokens, tokens * token_bytes, window) for tokens, window in shapes]
