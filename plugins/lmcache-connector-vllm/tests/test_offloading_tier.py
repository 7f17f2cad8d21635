"""The secondary tier as vLLM's manager calls it, over a store that does what it is told to."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from tests.controller.engine_peer import eventually

pytestmark = pytest.mark.vllm

ROWS, ROW_BYTES = 16, 8192


class Backend:
    """What the stores of these tests share."""

    def __init__(self) -> None:
        from lmcache_core.testing import DictStore

        self.kept = DictStore()
        self.gate = threading.Event()
        self.gate.set()
        self.calls: list[str] = []
        self.down = self.away = False

    def spec(self, *, shared: bool) -> Any:
        from lmcache_core.api import Capability, StorageBackendSpec
        from lmcache_core.errors import BackendError
        from lmcache_core.testing import DictBackend, DictConfig

        outer = self

        class Told(DictBackend):
            def _told(self, name: str, *arguments: Any) -> Any:
                outer.calls.append(name)
                outer.gate.wait(30)
                if outer.down:
                    raise BackendError("down")
                return getattr(DictBackend, name)(self, *arguments)

            def open(self) -> None:
                if outer.away:
                    raise BackendError("away")

            def stat(self, *arguments: Any) -> Any:
                return self._told("stat", *arguments)

            def put(self, *arguments: Any) -> Any:
                return self._told("put", *arguments)

            def get(self, *arguments: Any) -> Any:
                return self._told("get", *arguments)

        return StorageBackendSpec(
            name="told",
            summary="of a test",
            load=lambda: lambda config, context: Told(config, context, self.kept),
            config=DictConfig,
            capabilities=Capability.SHARED if shared else Capability.NONE,
        )


@pytest.fixture
def backend() -> Iterator[Backend]:
    backend = Backend()
    yield backend
    backend.gate.set()


def spec_of(extra: dict[str, Any], *, events: bool, model: str = "nowhere/model") -> Any:
    from vllm.v1.kv_offload import config as vllm_config
    from vllm.v1.kv_offload.base import OffloadingSpec

    class Spec(OffloadingSpec):
        def get_manager(self) -> Any:
            raise NotImplementedError

        def get_worker(self, kv_caches: Any) -> Any:
            raise NotImplementedError

    return Spec(
        vllm_config.OffloadingConfig(
            groups=(vllm_config.OffloadingGroupConfig(32, ("layer.0", "layer.1"), 0),),
            worker_kv_bytes_per_block=ROW_BYTES,
            enable_kv_cache_events=events,
            extra_config=extra,
            engine_id="engine",
            model=vllm_config.OffloadingModelConfig(model, "float32"),
            cache=vllm_config.OffloadingCacheConfig(tokens_per_hash=32, blocks_per_chunk=1),
            parallel=vllm_config.OffloadingParallelConfig(
                0, 1, 1, 1, 1, 1, 0, 1, None, is_parallelism_agnostic=False
            ),
        )
    )


class Host:
    """vLLM's side: memory, jobs, steps."""

    def __init__(self, tier: Any, memory: bytearray) -> None:
        self.tier = tier
        self.memory = memory
        self.jobs = 0
        self.results: dict[int, Any] = {}

    def row(self, number: int) -> bytes:
        return bytes(self.memory[number * ROW_BYTES : (number + 1) * ROW_BYTES])

    def fill(self, number: int, byte: int) -> bytes:
        self.memory[number * ROW_BYTES : (number + 1) * ROW_BYTES] = bytes([byte]) * ROW_BYTES
        return self.row(number)

    def submit(self, rows: dict[bytes, int], *, load: bool, request: str = "r") -> int:
        import numpy as np
        from vllm.v1.kv_offload.base import ReqContext
        from vllm.v1.kv_offload.tiering.base import TransferJob

        self.jobs += 1
        chunk_ids = np.array(list(rows.values()), dtype=np.int32)
        job = TransferJob(self.jobs, list(rows), chunk_ids, load, ReqContext(request))
        (self.tier.submit_load if load else self.tier.submit_store)(job)
        return self.jobs

    def result(self, job: int) -> Any:
        """What became of a job."""
        until = time.monotonic() + 20
        while job not in self.results:
            assert time.monotonic() < until, "the job never ended"
            for result in self.tier.get_finished_jobs():
                self.results[result.job_id] = result
            time.sleep(0.001)
        return self.results[job]

    def store(self, rows: dict[bytes, int]) -> Any:
        return self.result(self.submit(rows, load=False))

    def load(self, rows: dict[bytes, int], request: str = "r") -> Any:
        return self.result(self.submit(rows, load=True, request=request))

    def look(self, key: bytes, request: str = "r") -> str:
        """What a look-up says once it no longer says RETRY."""
        from vllm.v1.kv_offload.base import ReqContext, ScheduleEndContext

        until = time.monotonic() + 20
        while (found := self.tier.lookup(key, ReqContext(request)).name) == "RETRY":
            assert time.monotonic() < until
            self.tier.on_schedule_end(ScheduleEndContext((), ()))
            time.sleep(0.001)
        return found


@pytest.fixture
def host(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Host]]:
    """Make a tier; any number of them share the backend."""
    from lmcache_connector_vllm.offloading import LMCacheTier
    from lmcache_core.plugins import PluginRegistry

    made: list[Any] = []
    discover = PluginRegistry.discover

    def make(
        *, shared: bool = False, events: bool = False, model: str = "nowhere/model", **lmcache: Any
    ) -> Host:
        def discover_more(*arguments: Any) -> PluginRegistry:
            registry = discover(*arguments)
            registry.offer(backend.spec(shared=shared))
            return registry

        monkeypatch.setattr(PluginRegistry, "discover", discover_more)
        memory = bytearray(ROWS * ROW_BYTES)
        extra = {f"lmcache.{name}": value for name, value in lmcache.items()}
        entry = {key: extra.pop(f"lmcache.{key}") for key in ("namespace",) if key in lmcache}
        tier = LMCacheTier(
            spec_of(extra, events=events, model=model),
            memoryview(memory).cast("b", (ROWS, ROW_BYTES)),
            "LMCacheTier",
            backend="told",
            **entry,
        )
        made.append(tier)
        return Host(tier, memory)

    yield make
    backend.gate.set()
    for tier in made:
        tier.shutdown()


def key(number: int, group: int = 0) -> bytes:
    return bytes([number]) * 32 + group.to_bytes(4, "big")


def test_blocks_come_back_into_other_rows(host, backend):
    one = host()
    first, second = one.fill(0, 7), one.fill(3, 9)
    assert one.store({key(1): 0, key(2): 3}).success
    assert one.load({key(2): 5, key(1): 6}).success
    assert (one.row(5), one.row(6)) == (second, first)
    assert one.look(key(1)) == "HIT"
    assert one.look(key(1, group=1)) == "MISS"
    assert "stat" not in backend.calls, "what is in a store of our own is known"


def test_a_load_that_fails_in_part_says_which_blocks_it_has(host):
    one = host()
    one.fill(0, 7)
    one.store({key(1): 0})
    result = one.load({key(1): 1, key(2): 2}, request="a")
    assert (result.success, list(result.successful_keys)) == (False, [key(1)])
    assert one.row(1) == one.row(0)


def test_what_could_not_be_loaded_is_not_offered_to_that_request_again(host, backend):
    one = host()
    one.store({key(1): 0})
    backend.down = True
    assert not one.load({key(1): 1}, request="a").success
    backend.down = False
    with one.tier._store.changed:
        one.tier._store.tier.breaker.succeeded()
    assert one.look(key(1), "a") == "MISS", "vLLM would ask for ever"
    assert one.look(key(1), "b") == "HIT"
    one.tier.on_request_finished(SimpleNamespace(req_id="a"))
    assert one.look(key(1), "a") == "HIT"


def test_a_shared_store_is_asked_for_all_of_a_step_at_once(host, backend):
    from vllm.v1.kv_offload.base import ReqContext

    one, other = host(shared=True), host(shared=True)
    one.store({key(n): n for n in range(4)})
    backend.calls.clear()
    for number in range(8):
        assert other.tier.lookup(key(number), ReqContext("r")).name == "RETRY"
    found = [other.look(key(number)) for number in range(8)]
    assert found == ["HIT"] * 4 + ["MISS"] * 4
    assert backend.calls == ["stat"]
    assert other.load({key(2): 0}).success


def test_a_store_that_does_not_answer_costs_its_deadline_once_and_nothing_after(host, backend):
    one = host(shared=True, promotion_timeout_seconds=0.2)
    backend.gate.clear()
    assert one.look(key(1)) == "MISS"
    began = time.monotonic()
    for number in range(50):
        assert one.look(key(10 + number), f"r{number}") == "MISS"
    assert time.monotonic() - began < 1


def test_a_store_that_answers_again_is_found_out_by_a_look_up(host, backend):
    one = host()
    one.store({key(1): 0})
    backend.down = True
    assert not one.load({key(1): 1}, request="a").success
    assert one.look(key(1), "b") == "MISS"
    backend.down = False
    until = time.monotonic() + 20
    while one.look(key(1), "c") == "MISS":
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_store_that_is_away_at_the_start_is_used_once_it_is_there(host, backend, monkeypatch):
    monkeypatch.setattr("lmcache_core.engine.storage.breaker.FIRST_PAUSE_SECONDS", 0.02)
    backend.away = True
    one, other = host(shared=True), host(shared=True)
    assert not one.store({key(1): 0}).success
    assert one.look(key(1), "a") == "MISS"
    began = time.monotonic()
    for number in range(5):
        assert not one.load({key(number): 1}).success
        one.tier._store.tier.breaker._closed_again_at = 0.0
    assert time.monotonic() - began < 5, "nobody waits for a store that is not open"
    backend.away = False
    for side in (one, other):
        eventually(lambda tier=side.tier: tier._store.tier.status().healthy)
    row = one.fill(0, 7)
    assert one.store({key(1): 0}).success
    assert other.look(key(1), "b") == "HIT"
    assert other.load({key(1): 3}).success
    assert other.row(3) == row


def test_a_late_call_writes_nothing_into_vllms_memory(host, backend):
    one = host(storage_timeout_seconds=0.05)
    one.fill(0, 7)
    one.store({key(1): 0})
    backend.gate.clear()
    assert not one.load({key(1): 1}).success
    given_to_another = one.fill(1, 99)
    backend.gate.set()
    one.tier.drain_jobs()
    with one.tier._store.changed:
        changed = one.tier._store
        assert changed.changed.wait_for(lambda: changed.tier.counters["read_frames"] > 0, 10)
    assert one.row(1) == given_to_another


def test_closing_while_a_store_hangs_ends_the_jobs_and_lets_go_of_the_memory(host, backend):
    one = host()
    one.fill(0, 7)
    one.store({key(1): 0})
    backend.gate.clear()
    backend.calls.clear()
    job = one.submit({key(1): 1}, load=True)
    late = one.submit({key(9): 2}, load=False)
    while "get" not in backend.calls:
        time.sleep(0.001)
    threading.Timer(0.3, backend.gate.set).start()
    one.tier.shutdown()
    assert not one.result(job).success
    assert not one.result(late).success
    one.tier._primary_kv_view.release()  # as vLLM does next
    one.memory.clear()  # a BufferError where anybody still has a view


def test_after_a_reset_nothing_older_is_had_and_no_other_reads_what_is_stored(host):
    one, other = host(shared=True), host(shared=True)
    one.store({key(1): 0})
    one.tier.drain_jobs()
    assert one.look(key(1)) == "MISS"
    one.store({key(2): 0})
    assert one.look(key(2)) == "HIT"
    assert other.look(key(2)) == "MISS"
    assert other.look(key(1)) == "HIT"


@pytest.mark.parametrize("unlike", [{"model": "nowhere/other"}, {"namespace": "fp8"}])
def test_unlike_servers_never_meet(host, unlike):
    one, other = host(shared=True), host(shared=True, **unlike)
    one.store({key(1): 0})
    assert other.look(key(1)) == "MISS"
    assert host(shared=True).look(key(1)) == "HIT"


def test_what_comes_and_goes_is_announced_where_vllm_publishes_it(host, backend):
    one = host(events=True)
    one.store({key(1): 0, key(2): 1})
    (stored,) = one.tier.take_events()
    assert (stored.keys, stored.removed) == ([key(1), key(2)], False)
    assert (stored.medium.value, stored.locality.value) == ("STORAGE", "LOCAL")
    backend.kept.frames.clear()
    assert not one.load({key(1): 3}).success
    (removed,) = one.tier.take_events()
    assert (removed.keys, removed.removed) == ([key(1)], True)
    assert list(one.tier.take_events()) == []
    silent = host()
    silent.store({key(1): 0})
    assert list(silent.tier.take_events()) == []
