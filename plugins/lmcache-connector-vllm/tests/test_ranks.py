"""The workers' sides of several ranks over one region, without a model."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lmcache_core.config import EngineConfig, TierConfig
from lmcache_core.engine import start
from lmcache_core.errors import BackendError, LMCacheError
from lmcache_core.keys import EMPTY_SCOPE, Namespace
from lmcache_core.plugins import PluginRegistry

pytestmark = pytest.mark.vllm

BLOCK, BLOCKS, CHUNK = 32, 24, 64
TOKENS = list(range(100, 100 + 3 * CHUNK))
COMPUTED = [7, 3, 11, 2, 5, 9]
"""The blocks in which TOKENS are computed."""
LOADED = [20, 12, 13, 1, 18, 15]
"""Those into which they are loaded."""
WAIT_SECONDS = 30.0


class Rank:
    """The KV cache of one rank: random bytes, one tensor."""

    def __init__(self, layers: int, heads: int, seed: int, replicas: int = 1) -> None:
        import torch
        from vllm.v1.kv_cache_interface import (
            FullAttentionSpec,
            KVCacheConfig,
            KVCacheGroupSpec,
            KVCacheTensor,
        )

        spec = FullAttentionSpec(
            block_size=BLOCK, num_kv_heads=heads, head_size=32, dtype=torch.float32
        )
        page = spec.page_size_bytes
        names = [f"layer.{number}" for number in range(layers)]
        generator = torch.Generator().manual_seed(seed)
        shape = (layers, BLOCKS, heads, BLOCK, 64)
        self.kv = torch.rand(shape, generator=generator)
        self.caches = {name: self.kv[number] for number, name in enumerate(names)}
        self.config = KVCacheConfig(
            num_blocks=BLOCKS,
            kv_cache_tensors=[
                KVCacheTensor(
                    size=layers * BLOCKS * page,
                    layers=names,
                    layer_stride=BLOCKS * page,
                    block_stride=page,
                    offset=0,
                )
            ],
            kv_cache_groups=[KVCacheGroupSpec(names, spec)],
            kv_cache_layout="LBHNC",
            kv_tp_replicas=replicas,
        )

    def holds(self, blocks: Sequence[int], kv: Any) -> bool:
        """Whether some blocks hold what blocks of another tensor hold."""
        return bool((self.kv[:, list(blocks)] == kv).all())


class Meeting:
    """What ranks say to each other, where all of them are threads of this process."""

    def __init__(self, size: int) -> None:
        self._barrier = threading.Barrier(size, timeout=WAIT_SECONDS)
        self._said = [b""] * size

    def say(self, index: int, mine: bytes) -> list[bytes]:
        self._said[index] = mine
        self._barrier.wait()
        heard = list(self._said)
        self._barrier.wait()
        return heard


def start_ranks(
    ranks: Sequence[Rank], *, declined: Sequence[str | None] = (), config: EngineConfig
) -> list[Any]:
    """Start the worker's side of every rank at once; what one raised stands in its place."""
    from lmcache_connector_vllm.peers import Peers
    from lmcache_connector_vllm.worker_start import agree_on_shards, start_worker

    meeting = Meeting(len(ranks))
    vllm_config = SimpleNamespace(
        compilation_config=SimpleNamespace(static_forward_context={}),
        model_config=SimpleNamespace(dtype=ranks[0].kv.dtype),
        cache_config=SimpleNamespace(cache_dtype="auto"),
    )

    class Threads(Peers):
        def _gather(self, mine: bytes) -> list[bytes]:
            return meeting.say(self.index, mine)

    outcomes: list[Any] = [None] * len(ranks)

    def begin(index: int) -> None:
        rank, peers = ranks[index], Threads(index, ())
        reason = declined[index] if declined else None
        try:
            shard = agree_on_shards(peers, rank.config, rank.caches, reason)
            outcomes[index] = start_worker(
                peers,
                shard,
                config,
                vllm_config=vllm_config,
                kv_cache_config=rank.config,
                kv_caches=rank.caches,
            )
        except Exception as error:  # noqa: BLE001 - the test looks at it
            outcomes[index] = error

    threads = [threading.Thread(target=begin, args=(index,)) for index in range(len(ranks))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * WAIT_SECONDS)
    return outcomes


class Instance:
    """An engine over the region that ranks have made, and the ranks."""

    def __init__(self, ranks: Sequence[Rank], workers: Sequence[Any], config: EngineConfig) -> None:
        from lmcache_connector_vllm.acknowledgements import Acknowledgements
        from lmcache_connector_vllm.kv_groups import engine_groups
        from lmcache_connector_vllm.region import attach_region

        self.ranks, self.workers = ranks, workers
        self.stack = ExitStack()
        for worker in workers:
            self.stack.callback(worker.close)
        registry = PluginRegistry.discover()
        offers = [worker.offer for worker in workers]
        region = attach_region(config, registry, offers[-1].extent)
        self.stack.callback(region.close)
        region.forget_name()
        self.engine = start(
            config=config,
            namespace=Namespace(model="ranks", weights="00", chunk_size=CHUNK, ranks=len(ranks)),
            region=region,
            groups=engine_groups(ranks[0].config, offers),
            registry=registry,
        )
        self.stack.callback(self.engine.close)
        self._acknowledgements = Acknowledgements(len(workers))

    def plan_store(self, tokens: Sequence[int] = TOKENS) -> Any:
        self.engine.begin("stores", tokens, EMPTY_SCOPE)
        job = self.engine.plan_store("stores", len(tokens), [COMPUTED], final=True)
        self.engine.finish("stores")
        return job

    def hit(self, tokens: Sequence[int] = TOKENS) -> int:
        self.engine.begin("asks", tokens, EMPTY_SCOPE)
        found = self.engine.match("asks", len(tokens)).tokens
        self.engine.finish("asks")
        return found

    def copy(self, worker: Any, job: Any) -> Any:
        """Let one rank store; return its report."""
        from lmcache_connector_vllm.metadata import DRAIN, StepPlan

        worker.store(StepPlan(stores=(job,)))
        due = time.monotonic() + WAIT_SECONDS
        while (report := worker.report()) is None:
            assert time.monotonic() < due
            worker.store(DRAIN)
        return report

    def take(self, report: Any) -> None:
        """Hand a report to the engine, as the scheduler's side does."""
        closed = self._acknowledgements.add(report)
        self.engine.acknowledge(closed.done, failed=closed.failed)

    def store(self) -> None:
        job = self.plan_store()
        for worker in self.workers:
            self.take(self.copy(worker, job))

    def load(self, stop: int = len(TOKENS)) -> list[Any]:
        """Load on every rank; return the reports."""
        from lmcache_connector_vllm.metadata import StepPlan

        self.engine.begin("loads", TOKENS, EMPTY_SCOPE)
        assert self.engine.match("loads", stop).tokens == stop
        job = self.engine.plan_load("loads", 0, stop, [LOADED])
        self.engine.finish("loads")
        for worker in self.workers:
            worker.load(StepPlan(loads=(job,)))
        return [worker.report() for worker in self.workers]


def settings(**memory: object) -> EngineConfig:
    return EngineConfig(
        chunk_size=CHUNK,
        tiers=(TierConfig("LocalCPUBackend", 1 << 20, memory),),
        staging_bytes=1 << 18,
    )


@contextmanager
def running(*ranks: Rank, **memory: object) -> Iterator[Instance]:
    config = settings(**memory)
    workers = start_ranks(ranks, config=config)
    assert not [each for each in workers if isinstance(each, Exception)], workers
    instance = Instance(ranks, workers, config)
    with instance.stack:
        yield instance


def mapped() -> int:
    return Path("/proc/self/maps").read_text().count("lmcache-")


def refuse(copies: Any) -> int:
    raise LMCacheError("planted")


@pytest.mark.parametrize("shared", ["memfd", "shm"])
@pytest.mark.parametrize("shape", ["tensor", "pipeline"])
def test_every_rank_gets_back_its_own_pages(shape: str, shared: str) -> None:
    # Two halves of the heads, or three layers and then one of other heads.
    others = Rank(2, 2, seed=2) if shape == "tensor" else Rank(1, 4, seed=2)
    ranks = [Rank(2 if shape == "tensor" else 3, 2, seed=1), others]
    before = [rank.kv[:, COMPUTED].clone() for rank in ranks]
    left = mapped()
    with running(*ranks, shared=shared) as instance:
        instance.store()
        assert instance.hit() == len(TOKENS)
        for report in instance.load():
            assert report.failed == ()
            instance.take(report)
        for rank, kv in zip(ranks, before, strict=True):
            assert rank.holds(LOADED, kv)
        assert instance.engine.open_jobs == 0
        memory = instance.engine.tiers.memory
        assert [memory.index.get(key).leases for key in memory.residents] == [None] * 3
    assert mapped() == left


def test_every_rank_asks_for_the_registers_that_a_first_hit_needs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(
        "lmcache_connector_vllm.worker_start.ask_for_tiles", lambda: asked.append(1)
    )
    with running(Rank(2, 2, seed=1), Rank(2, 2, seed=2)):
        assert asked == [1, 1]


def test_a_rank_that_lags_keeps_the_chunk_from_being_found() -> None:
    with running(Rank(2, 2, seed=1), Rank(2, 2, seed=2)) as instance:
        job = instance.plan_store()
        ahead, behind = instance.workers
        instance.take(instance.copy(ahead, job))
        assert instance.hit() == 0
        assert instance.engine.open_jobs == 1
        # What was planned since is not taken for the job that lags.
        other = instance.plan_store(list(reversed(TOKENS)))
        for worker in instance.workers:
            instance.take(instance.copy(worker, other))
        assert instance.hit() == 0
        instance.take(instance.copy(behind, job))
        assert instance.hit() == len(TOKENS)
        assert instance.engine.open_jobs == 0


@pytest.mark.parametrize("failing", [0, 1])
def test_a_rank_that_fails_makes_the_chunk_absent(
    monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    ranks = Rank(2, 2, seed=1), Rank(2, 2, seed=2)
    before = [rank.kv[:, COMPUTED].clone() for rank in ranks]
    with running(*ranks) as instance:
        with monkeypatch.context() as planted:
            planted.setattr(instance.workers[failing], "_storer", SimpleNamespace(gather=refuse))
            instance.store()
        assert instance.hit() == 0
        assert instance.engine.open_jobs == 0
        assert instance.engine.counters()["failed_jobs"] == 1
        # The slots were given back, and the next store is whole.
        instance.store()
        assert instance.hit() == len(TOKENS)
        instance.load()
        assert [r.holds(LOADED, kv) for r, kv in zip(ranks, before, strict=True)] == [True] * 2


def test_a_rank_that_died_leaves_nothing_to_find_and_no_slot_to_reuse() -> None:
    with running(Rank(2, 2, seed=1), Rank(2, 2, seed=2)) as instance:
        job = instance.plan_store()
        alive, dead = instance.workers
        instance.take(instance.copy(alive, job))
        dead.close()
        taken = {copy.offset for copy in job.copies}
        for start_at in range(1000, 100_000, 1000):  # far more than there is room for
            other = instance.plan_store([start_at + token for token in TOKENS])
            if other is None:
                break
            assert taken.isdisjoint(copy.offset for copy in other.copies)
            instance.engine.acknowledge([other.job_id])
        assert instance.hit() == 0
        assert instance.engine.open_jobs == 1


def test_a_load_that_fails_on_one_rank_is_reported_by_its_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with running(Rank(2, 2, seed=1), Rank(2, 2, seed=2)) as instance:
        instance.store()
        with monkeypatch.context() as planted:
            planted.setattr(instance.workers[1], "_loader", SimpleNamespace(scatter=refuse))
            first, second = instance.load()
        joined = first.aggregate(second)
        assert len(joined.done) == len(joined.failed) == 1
        assert instance.workers[0].take_invalid_blocks() == set()
        assert instance.workers[1].take_invalid_blocks() == set(LOADED)
        instance.take(joined)
        assert instance.engine.open_jobs == 0
        assert instance.engine.counters()["failed_jobs"] == 1
        # Another rank's copy does not make a chunk worse: it stays.
        assert instance.hit() == len(TOKENS)


def test_pages_that_are_equal_on_ranks_are_stored_once_and_loaded_by_all() -> None:
    ranks = [Rank(2, 1, seed=seed, replicas=2) for seed in (1, 1, 2, 2)]
    before = [rank.kv[:, COMPUTED].clone() for rank in ranks]
    with running(*ranks) as instance:
        (group,) = instance.engine.tiers.geometry.groups
        page_bytes = 2 * BLOCK * 32 * 4
        assert group.block_bytes == 2 * 2 * page_bytes
        moved = [0] * 4

        def counting(index: int, gather: Callable[[Any], int]) -> Callable[[Any], int]:
            def count(copies: Any) -> int:
                moved[index] += gather(copies)
                return moved[index]

            return count

        for index, worker in enumerate(instance.workers):
            worker._storer = SimpleNamespace(
                gather=counting(index, worker._storer.gather), close=worker._storer.close
            )
        job = instance.plan_store()
        # The first of each pair stores; without the last one's word it is not done.
        for worker in instance.workers[:3]:
            instance.take(instance.copy(worker, job))
        assert instance.hit() == 0
        instance.take(instance.copy(instance.workers[3], job))
        assert instance.hit() == len(TOKENS)
        assert moved == [6 * 2 * page_bytes, 0, 6 * 2 * page_bytes, 0]
        instance.load()
        assert [r.holds(LOADED, kv) for r, kv in zip(ranks, before, strict=True)] == [True] * 4


@pytest.mark.parametrize("failing", [0, 1])
def test_a_rank_that_cannot_start_takes_the_others_back(
    monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    from lmcache_backend_local_cpu.backend import LocalCPUBackend
    from lmcache_connector_vllm.peers import PeerError

    def refused(*_: object) -> None:
        raise BackendError("planted")

    monkeypatch.setattr(LocalCPUBackend, "attach" if failing else "create", refused)
    left = mapped()
    threads = threading.active_count()
    outcomes = start_ranks([Rank(2, 2, seed=1), Rank(2, 2, seed=2)], config=settings())
    assert type(outcomes[failing]) is BackendError
    assert type(outcomes[1 - failing]) is PeerError
    assert f"rank {failing} of 2 failed: planted" in str(outcomes[1 - failing])
    assert mapped() == left
    assert threading.active_count() == threads


def test_what_one_rank_declines_no_rank_starts() -> None:
    from lmcache_connector_vllm.unserved import UnservedError

    ranks = [Rank(2, 2, seed=1), Rank(2, 2, seed=2)]
    outcomes = start_ranks(ranks, declined=[None, "its layers are odd"], config=settings())
    assert [str(each) for each in outcomes] == ["its layers are odd"] * 2
    assert {type(each) for each in outcomes} == {UnservedError}


@pytest.mark.parametrize(
    ("where", "sentence"),
    [
        (("another boot", "pid:[1]"), r"rank 1 of 2 is on another host \(boot id another boot,"),
        (("this boot", "pid:[2]"), r"rank 1 of 2 is in another process namespace \(pid:\[2\],"),
    ],
)
def test_a_rank_elsewhere_is_declined_in_a_sentence(where: tuple[str, str], sentence: str) -> None:
    from lmcache_connector_vllm.place import Place
    from lmcache_connector_vllm.shard import RankFacts, shard_of
    from lmcache_connector_vllm.unserved import UnservedError

    here = RankFacts(Place("this boot", "pid:[1]"), (100,), 1, None)
    elsewhere = RankFacts(Place(*where), (100,), 1, None)
    assert Place.here().apart_from(Place.here()) is None
    for index in (0, 1):
        with pytest.raises(UnservedError, match=sentence):
            shard_of([here, elsewhere], index)


def test_shards_lie_one_behind_the_other_in_every_group() -> None:
    from lmcache_connector_vllm.place import Place
    from lmcache_connector_vllm.shard import RankFacts, shard_of

    def facts(block_bytes: tuple[int, ...], replicas: int) -> RankFacts:
        return RankFacts(Place.here(), block_bytes, replicas, None)

    # Two stages of four ranks each, in the second of which pages are equal in pairs.
    ranks = [facts((10, 1), 1)] * 4 + [facts((20, 3), 2)] * 4
    shards = [shard_of(ranks, index) for index in range(8)]
    assert [shard.before_bytes for shard in shards] == [
        *((0, 0), (10, 1), (20, 2), (30, 3)),
        *((40, 4), (40, 4), (60, 7), (60, 7)),
    ]
    assert [shard.stores for shard in shards] == [True] * 4 + [True, False] * 2
    with pytest.raises(LMCacheError, match="ranks 0 and 1 hold equal pages"):
        shard_of([facts((10,), 2), facts((11,), 2)], 0)
