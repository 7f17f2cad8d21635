"""Pages arrive where the layout of a slot says, byte for byte."""

from __future__ import annotations

import mmap
import random
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import addressof, c_char

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmcache_core.api.connector import SlotCopy
from lmcache_core.errors import LMCacheError
from lmcache_core.memory import LayerPages, PageMover, PageTable, native_available, native_status

needs_native = pytest.mark.skipif(not native_available(), reason=native_status().detail)
IMPLEMENTATIONS = [
    pytest.param(False, id="plain"),
    pytest.param(True, id="native", marks=needs_native),
]


class Bench:
    """A page table and a region in memory of their own, and what both should hold.

    The reference knows nothing of addresses: it slices bytes.
    """

    def __init__(self, layers: list[tuple[int, int, int, int]], region_bytes: int) -> None:
        """Take (gap before the layer, stride, page bytes, blocks) for each layer."""
        self.starts = []
        at = 0
        for gap, stride, _, blocks in layers:
            at += gap
            self.starts.append(at)
            at += stride * blocks
        self.layers = layers
        self.pages = bytearray(random.Random(1).randbytes(at))
        self.region = bytearray(random.Random(2).randbytes(region_bytes))

    def table(self) -> PageTable:
        base = addressof(c_char.from_buffer(self.pages))
        return PageTable(
            [
                LayerPages(base + start, stride, page_bytes, blocks)
                for start, (_, stride, page_bytes, blocks) in zip(
                    self.starts, self.layers, strict=True
                )
            ]
        )

    def mover(self, *, native: bool, threads: int = 2) -> PageMover:
        address = addressof(c_char.from_buffer(self.region))
        return PageMover(self.table(), address, len(self.region), native=native, threads=threads)

    def moves(self, copy: SlotCopy) -> Iterator[tuple[slice, slice]]:
        """Each page's place in the region and in the pages."""
        before = 0
        for start, (_, stride, page_bytes, _) in zip(self.starts, self.layers, strict=True):
            for index, block in enumerate(copy.block_ids, copy.first_block):
                place = copy.offset + copy.slot_blocks * before + index * page_bytes
                page = start + block * stride
                yield slice(place, place + page_bytes), slice(page, page + page_bytes)
            before += page_bytes

    def gathered(self, copies: list[SlotCopy]) -> bytes:
        region = bytearray(self.region)
        for copy in copies:
            for place, page in self.moves(copy):
                region[place] = self.pages[page]
        return bytes(region)

    def scattered(self, copies: list[SlotCopy]) -> bytes:
        pages = bytearray(self.pages)
        for copy in copies:
            for place, page in self.moves(copy):
                pages[page] = self.region[place]
        return bytes(pages)


@st.composite
def benches(draw: st.DrawFn) -> tuple[Bench, list[SlotCopy]]:
    blocks = draw(st.integers(1, 12))
    layers = []
    for _ in range(draw(st.integers(1, 4))):
        page_bytes = draw(st.integers(1, 300))
        # No gap and no padding, so that neighbours join, as often as not.
        stride = page_bytes + draw(st.sampled_from([0, 0, 1, 17]))
        gap = draw(st.sampled_from([0, 0, 5]))
        layers.append((gap, stride, page_bytes, blocks + draw(st.integers(0, 2))))
    block_bytes = sum(layer[2] for layer in layers)
    free = draw(st.permutations(range(blocks)))
    if draw(st.booleans()):
        free = sorted(free)
    copies, offset = [], draw(st.integers(0, 9))
    while free and draw(st.booleans()):
        count = draw(st.integers(0, len(free)))
        first_block = draw(st.integers(0, 3))
        slot_blocks = max(1, first_block + count + draw(st.integers(0, 2)))
        copies.append(SlotCopy(offset, slot_blocks, first_block, tuple(free[:count])))
        free = free[count:]
        offset += slot_blocks * block_bytes + draw(st.sampled_from([0, 0, 64]))
    return Bench(layers, offset + draw(st.integers(0, 5)) + 1), copies


@pytest.mark.parametrize("native", IMPLEMENTATIONS)
@given(case=benches())
@settings(max_examples=300, deadline=None)
def test_any_shape_is_gathered_and_scattered_as_the_layout_says(
    native: bool, case: tuple[Bench, list[SlotCopy]]
) -> None:
    bench, copies = case
    mover = bench.mover(native=native)
    pages = bytes(bench.pages)
    expected = bench.gathered(copies)
    moved = sum(len(copy.block_ids) for copy in copies) * bench.table().block_bytes
    assert mover.gather(copies) == moved
    assert bench.region == expected
    assert bench.pages == pages

    bench.region[:] = random.Random(3).randbytes(len(bench.region))
    region = bytes(bench.region)
    expected = bench.scattered(copies)
    assert mover.scatter(copies) == moved
    assert bench.pages == expected
    assert bench.region == region


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("native", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    ("page_bytes", "stride"),
    [(64 * 1024, 64 * 1024), (65_519, 65_537), (1_000_001, 1_000_003), (4096, 8192), (3, 5)],
    ids=["8B", "odd", "longer than a span", "strided", "tiny"],
)
def test_large_amounts_are_moved_whole(
    native: bool, threads: int, page_bytes: int, stride: int
) -> None:
    """Enough for streaming stores and for threads, wherever lines begin and end."""
    total = 20_000 if page_bytes < 100 else 13 << 20
    blocks = total // page_bytes // 2
    bench = Bench([(3, stride, page_bytes, blocks), (11, stride, page_bytes, blocks)], 2 * total)
    ids = list(range(blocks))
    random.Random(0).shuffle(ids)
    half = blocks // 2
    copies = [
        SlotCopy(7, blocks - half + 1, 1, tuple(ids[half:])),
        SlotCopy(7 + 2 * (blocks - half + 1) * page_bytes, half, 0, tuple(sorted(ids[:half]))),
    ]
    mover = bench.mover(native=native, threads=threads)
    expected = bench.gathered(copies)
    mover.gather(copies)
    assert bench.region == expected
    bench.region[:] = bench.region[::-1]
    expected = bench.scattered(copies)
    mover.scatter(copies)
    assert bench.pages == expected


GOOD = SlotCopy(0, 4, 0, (0, 1, 2, 3))


@pytest.mark.parametrize("native", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    "bad",
    [
        SlotCopy(-1, 4, 0, (0,)),
        SlotCopy(401, 4, 0, (0,)),
        SlotCopy(0, 17, 0, (0,)),
        SlotCopy(0, 2, 0, (0, 1, 2)),
        SlotCopy(0, 2, 2, (0,)),
        SlotCopy(0, 4, -1, (0,)),
        SlotCopy(0, 4, 0, (0, 8)),
        SlotCopy(0, 4, 0, (-1, 0)),
        SlotCopy(2**63, 4, 0, (0,)),
        SlotCopy(0, 4, 0, (2**64,)),
    ],
    ids=str,
)
def test_a_copy_out_of_bounds_is_refused_before_a_byte_moves(native: bool, bad: SlotCopy) -> None:
    """The second layer has 8 blocks, the first 9: a block id must be in both."""
    bench = Bench([(0, 20, 20, 9), (0, 30, 30, 8)], 50 * 4 * 3)
    mover = bench.mover(native=native)
    pages, region = bytes(bench.pages), bytes(bench.region)
    for move in (mover.gather, mover.scatter):
        with pytest.raises(LMCacheError, match=r"out of bounds: the region has 600 bytes and the"):
            move([GOOD, bad])
        assert bench.pages == pages
        assert bench.region == region


@contextmanager
def no_switches() -> Iterator[None]:
    """Threads change only where one lets go of the interpreter's lock itself."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


@needs_native
def test_other_threads_run_while_pages_move() -> None:
    memory = mmap.mmap(-1, 256 << 20)
    half = len(memory) // 2
    address = addressof(c_char.from_buffer(memory))
    table = PageTable([LayerPages(address, half // 16, half // 16, 16)])
    mover = PageMover(table, address + half, half, native=True, threads=1)
    copies = [SlotCopy(0, 16, 0, tuple(range(16)))]
    finished_when_seen = []
    for _ in range(20):
        started, finished = threading.Event(), threading.Event()

        def work(started: threading.Event = started, finished: threading.Event = finished) -> None:
            started.set()
            mover.gather(copies)
            finished.set()

        with no_switches():
            thread = threading.Thread(target=work)
            thread.start()
            started.wait()
            finished_when_seen.append(finished.is_set())
            thread.join()
        if not finished_when_seen[-1]:
            return
    pytest.fail("the mover held the interpreter's lock in 20 of 20 calls")


@pytest.mark.parametrize("native", IMPLEMENTATIONS)
def test_the_pages_of_several_ranks_lie_rank_by_rank(native: bool) -> None:
    """Each rank knows only how much of a block comes before its own part."""
    first, second = Bench([(0, 9, 8, 5), (0, 9, 9, 5)], 200), Bench([(0, 7, 7, 5)], 1)
    copies = [SlotCopy(3, 4, 1, (2, 0, 4)), SlotCopy(110, 2, 0, (1, 3))]
    address = addressof(c_char.from_buffer(first.region))
    movers = [
        PageMover(PageTable(rank.table().layers, before), address, 200, native=native)
        for rank, before in ((first, 0), (second, 8 + 9))
    ]
    expected = bytearray(first.gathered(copies))
    for copy in copies:
        start = copy.offset + copy.slot_blocks * (8 + 9) + copy.first_block * 7
        for place, block in enumerate(copy.block_ids):
            at = start + place * 7
            expected[at : at + 7] = second.pages[block * 7 : block * 7 + 7]
    assert [mover.gather(copies) for mover in movers] == [5 * (8 + 9), 5 * 7]
    assert first.region == expected

    pages = [bytes(rank.pages) for rank in (first, second)]
    for rank in (first, second):
        rank.pages[:] = bytes(len(rank.pages))
    for mover in movers:
        mover.scatter(copies)
    for copy in copies:
        for block in copy.block_ids:
            assert second.pages[block * 7 : block * 7 + 7] == pages[1][block * 7 : block * 7 + 7]
            assert first.pages[block * 9 : block * 9 + 8] == pages[0][block * 9 : block * 9 + 8]
    # The last block ends where the region does; one byte less is not enough.
    movers[1].gather([SlotCopy(200 - 24, 1, 0, (0,))])
    with pytest.raises(LMCacheError, match="out of bounds"):
        movers[1].gather([SlotCopy(200 - 23, 1, 0, (0,))])


@pytest.mark.parametrize("native", IMPLEMENTATIONS)
def test_a_closed_mover_moves_nothing(native: bool) -> None:
    bench = Bench([(0, 20, 20, 9)], 1000)
    mover = bench.mover(native=native)
    mover.close()
    mover.close()
    with pytest.raises(LMCacheError, match="closed"):
        mover.gather([GOOD])


def test_a_device_that_is_not_there_is_a_sentence() -> None:
    bench = Bench([(0, 20, 20, 9)], 1000)
    with pytest.raises(LMCacheError, match=r"CUDA device 9999"):
        PageMover(bench.table(), 4096, 4096, cuda_device=9999)


def test_no_threads_are_refused() -> None:
    bench = Bench([(0, 20, 20, 9)], 1000)
    with pytest.raises(LMCacheError, match="the least is 1"):
        bench.mover(native=False, threads=0)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([], "at least one layer"),
        ([LayerPages(4096, 9, 10, 5)], "pages of layer 0 overlap"),
        ([LayerPages(4096, 9, 9, 5), LayerPages(0, 9, 9, 5)], "layer 1 has address"),
        ([LayerPages(4096, 9, 0, 5)], "layer 0 has address"),
        ([LayerPages(4096, 9, 9, 0)], "layer 0 has address"),
    ],
)
def test_a_page_table_that_cannot_be_is_refused(layers: list[LayerPages], message: str) -> None:
    with pytest.raises(LMCacheError, match=message):
        PageTable(layers)


def test_a_rank_cannot_begin_before_its_slot() -> None:
    with pytest.raises(LMCacheError, match="cannot begin at byte -1"):
        PageTable([LayerPages(4096, 9, 9, 5)], before_bytes=-1)
