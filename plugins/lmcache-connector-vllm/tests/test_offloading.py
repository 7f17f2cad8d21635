"""Backends below vLLM's own OffloadingConnector, in real engines on the CPU.

vLLM refuses its worker on a CPU, so a spec of this test brings one that copies
between the KV cache and vLLM's own region of host memory. All else is
vLLM's: connector, scheduler, tiering manager, host memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.vllm

NAME = "LocalDiskBackend"
BLOCK = 32


@pytest.fixture(scope="module")
def host_spec() -> dict[str, str]:
    """How vLLM is told of a tiering spec that runs on a CPU."""
    from vllm.v1.kv_offload.base import OffloadingWorker, TransferResult
    from vllm.v1.kv_offload.cpu.shared_offload_region import SharedOffloadRegion
    from vllm.v1.kv_offload.factory import OffloadingSpecFactory
    from vllm.v1.kv_offload.tiering.spec import TieringOffloadingSpec

    class HostWorker(OffloadingWorker):
        def __init__(self, kv_caches: Any, region: Any) -> None:
            self._region = region
            self._pages = [cache.tensor for cache in kv_caches.tensors]
            self._rows = [
                region.create_next_worker_view(cache.page_size_bytes) for cache in kv_caches.tensors
            ]
            self._finished: list[Any] = []

        def _copy(self, job_id: int, gpu: Any, cpu: Any, *, store: bool) -> bool:
            for pages, rows in zip(self._pages, self._rows, strict=True):
                for block, row in zip(gpu.block_ids, cpu.block_ids, strict=True):
                    if store:
                        rows[row] = pages[block]
                    else:
                        pages[block] = rows[row]
            self._finished.append(TransferResult(job_id, success=True))
            return True

        def submit_store(self, job_id: int, src_spec: Any, dst_spec: Any) -> bool:
            return self._copy(job_id, src_spec, dst_spec, store=True)

        def submit_load(self, job_id: int, src_spec: Any, dst_spec: Any) -> bool:
            return self._copy(job_id, dst_spec, src_spec, store=False)

        def get_finished(self) -> list[Any]:
            finished, self._finished = self._finished, []
            return finished

        def wait(self, job_ids: set[int]) -> None:
            del job_ids

        def shutdown(self) -> None:
            self._pages.clear()
            self._rows.clear()
            self._region.cleanup()

    class HostTieringSpec(TieringOffloadingSpec):
        def get_worker(self, kv_caches: Any) -> Any:
            if not self._worker:
                assert self.blocks_per_chunk == 1
                region = SharedOffloadRegion(
                    engine_id=self._engine_id,
                    num_chunks=self.num_chunks,
                    rank=0,
                    kv_bytes_per_chunk=self.kv_bytes_per_chunk,
                    cpu_page_size=self.cpu_page_size_per_worker,
                )
                self._worker = HostWorker(kv_caches, region)
            return self._worker

    OffloadingSpecFactory._registry["HostTieringSpec"] = lambda: HostTieringSpec
    return {"spec_name": "HostTieringSpec"}


@pytest.fixture
def offload(
    engines: Any, make_model: Callable[..., Path], host_spec: dict[str, str]
) -> Iterator[Callable[..., Any]]:
    """Start an engine with vLLM's connector and one secondary tier; one at a time."""
    from vllm.config import KVTransferConfig

    running: list[Any] = []

    def stop() -> None:
        while running:
            running.pop().close()

    def start(
        entry: dict[str, Any], *, model: Path | None = None, rows: int = 64, **lmcache: Any
    ) -> Any:
        engines.stop()
        stop()
        extra = {
            **host_spec,
            "cpu_bytes_to_use": rows * BLOCK * 1024,
            "secondary_tiers": [
                {
                    "type": "LMCacheTier",
                    "module_path": "lmcache_connector_vllm.offloading",
                    **entry,
                }
            ],
            **{f"lmcache.{key}": value for key, value in lmcache.items()},
        }
        serving = engines.launch(
            model=str(model or make_model()),
            kv_transfer_config=KVTransferConfig(
                kv_connector="OffloadingConnector",
                kv_role="kv_both",
                kv_connector_extra_config=extra,
            ),
            dtype="float32",
            enforce_eager=True,
            max_model_len=1024,
            block_size=BLOCK,
            num_gpu_blocks_override=256,
            max_num_batched_tokens=128,
            max_num_seqs=16,
            enable_prefix_caching=False,
            disable_log_stats=False,
        )
        running.append(serving)
        return serving

    yield start
    stop()


class Shared:
    """A store of this process that several engines share, and that can be down."""

    def __init__(self) -> None:
        from lmcache_core.testing import DictStore

        self.kept = DictStore()
        self.down = False

    def spec(self) -> Any:
        from lmcache_core.api import Capability, StorageBackendSpec
        from lmcache_core.errors import BackendError
        from lmcache_core.testing import DictBackend, DictConfig

        outer = self

        class Backend(DictBackend):
            def stat(self, *arguments: Any) -> Any:
                return outer.unless_down(super().stat, *arguments)

            def put(self, *arguments: Any) -> Any:
                return outer.unless_down(super().put, *arguments)

            def get(self, *arguments: Any) -> Any:
                return outer.unless_down(super().get, *arguments)

        def unless_down(call: Callable[..., Any], *arguments: Any) -> Any:
            if self.down:
                raise BackendError("the store does not answer")
            return call(*arguments)

        self.unless_down = unless_down
        return StorageBackendSpec(
            name="shared",
            summary="of a test",
            load=lambda: lambda config, context: Backend(config, context, self.kept),
            config=DictConfig,
            capabilities=DictBackend.capabilities | Capability.SHARED,
        )


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Shared:
    from lmcache_core.plugins import PluginRegistry

    store = Shared()
    discover = PluginRegistry.discover

    def discover_more(*arguments: Any) -> PluginRegistry:
        registry = discover(*arguments)
        registry.offer(store.spec())
        return registry

    monkeypatch.setattr(PluginRegistry, "discover", discover_more)
    return store


def manager(serving: Any) -> Any:
    return serving.connector.connector_scheduler.manager


def tier(serving: Any) -> Any:
    return manager(serving).secondary_tiers[0]


def store(serving: Any) -> Any:
    return tier(serving)._store.tier


def test_a_restarted_engine_hits_on_the_disk_and_answers_the_same(offload, fresh, tmp_path):
    prompts = [fresh(320), fresh(300), fresh(64)]
    serving = offload({"backend": NAME, "path": str(tmp_path)})
    cold = serving.ask(prompts)
    assert [answer.cached for answer in cold] == [0, 0, 0]
    assert len(list(tmp_path.glob("*/frames/*/*"))) == 10 + 9 + 2
    serving = offload({"backend": NAME, "path": str(tmp_path)})
    warm = serving.ask(prompts)
    assert all(cached > 0 for cached in (answer.cached for answer in warm))
    assert all(one.same_as(other) for one, other in zip(warm, cold, strict=True))
    assert store(serving).counters["read_frames"] > 0


def test_blocks_of_another_model_are_never_had(offload, fresh, tmp_path, make_model):
    prompt = fresh(320)
    serving = offload({"backend": NAME, "path": str(tmp_path)})
    serving.ask_one(prompt)
    other = make_model("--seed", "2")
    serving = offload({"backend": NAME, "path": str(tmp_path)}, model=other)
    assert serving.ask_one(prompt).cached == 0
    assert store(serving).counters["read_frames"] == 0


def test_spoilt_files_are_misses_and_the_answer_is_the_same(offload, fresh, tmp_path):
    prompt = fresh(320)
    entry = {"backend": NAME, "path": str(tmp_path), "serde": "zstd"}
    serving = offload(entry)
    cold = serving.ask_one(prompt)
    for number, path in enumerate(sorted(tmp_path.glob("*/frames/*/*"))):
        frame = bytearray(path.read_bytes())
        if number % 3 == 0:
            frame[len(frame) // 2] ^= 0x40
            path.write_bytes(frame)
        elif number % 3 == 1:
            path.write_bytes(frame[:-100])
    serving = offload(entry)
    answer = serving.ask_one(prompt)
    assert answer.same_as(cold)
    assert answer.cached < 319
    assert store(serving).counters["damaged_frames"] > 0
    again = serving.ask_one(prompt)
    assert again.same_as(cold)


def test_two_servers_share_a_store_until_the_weights_may_have_changed(offload, fresh, shared):
    prompt = fresh(320)
    serving = offload({"backend": "shared"})
    cold = serving.ask_one(prompt)
    assert len(shared.kept.frames) == 10
    serving = offload({"backend": "shared"}, lmcache_instance_id="another")
    warm = serving.ask_one(prompt)
    assert warm.cached > 0
    assert warm.same_as(cold)
    assert store(serving).counters["found_frames"] >= 9
    assert serving.core.reset_prefix_cache(reset_connector=True)
    assert serving.ask_one(prompt).cached == 0


def test_a_store_that_is_down_costs_a_miss_and_comes_back(offload, fresh, shared):
    serving = offload({"backend": "shared"}, rows=16)
    prompt, other = fresh(320), fresh(320)
    cold, cold_other = serving.ask_one(prompt), serving.ask_one(other)
    shared.down = True
    assert serving.ask_one(prompt).same_as(cold)
    assert not store(serving).breaker.healthy
    assert serving.ask_one(other).same_as(cold_other)
    shared.down = False
    with tier(serving)._store.changed:  # its pause is over
        store(serving).breaker.succeeded()
    serving.ask_one(fresh(480))  # pushes both out of vLLM's host memory
    answer = serving.ask_one(prompt)
    assert answer.same_as(cold)
    assert answer.cached > 0
    assert store(serving).counters["read_frames"] > 0


def test_a_wrong_entry_ends_the_start_with_a_sentence(offload, tmp_path):
    from lmcache_core.errors import ConfigError, UnknownNameError

    for entry, error, words in (
        ({}, ConfigError, "does not say which backend"),
        ({"backend": "LocalDiskBackends"}, UnknownNameError, "Did you mean 'LocalDiskBackend'"),
        ({"backend": NAME, "paht": "/x"}, ConfigError, "paht"),
        ({"backend": NAME, "write": "back"}, ConfigError, "vLLM decides"),
        ({"backend": NAME, "path": str(tmp_path), "locality": "here"}, ConfigError, "LOCAL"),
    ):
        with pytest.raises(error, match=words):
            offload(entry)
