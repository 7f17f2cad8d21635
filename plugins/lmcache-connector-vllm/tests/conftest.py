"""Real vLLM engines in this process, one after the other, over a tiny model.

A third of a second an engine, once vLLM is imported. Float32: in bfloat16 a cold
prefill and a warm one run products of different shapes, and near ties flip.
"""

from __future__ import annotations

import gc
import math
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[3]
BLOCK = 32

_SEEDS = count()

os.environ.update(
    VLLM_ENABLE_V1_MULTIPROCESSING="0",
    VLLM_CPU_KVCACHE_SPACE="1",
    VLLM_CPU_OMP_THREADS_BIND="nobind",
    OMP_NUM_THREADS="1",  # on a busy machine the threads of so small a model wait, 40 times longer
    VLLM_LOGGING_LEVEL="WARNING",
    VLLM_NO_USAGE_STATS="1",
    VLLM_HOST_IP="127.0.0.1",
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    TOKENIZERS_PARALLELISM="false",
    TORCHDYNAMO_DISABLE="1",  # logprobs would be compiled, for half a minute
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let vLLM and torch warn as they like; a warning of ours is an error still."""
    for item in items:
        if item.get_closest_marker("vllm") and Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("ignore", "error:::lmcache"))
            if find_spec("vllm") is None:
                item.add_marker(pytest.mark.skip(reason="vLLM is not installed"))


@dataclass(frozen=True)
class Answer:
    """What came back for one prompt."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    cached: int

    def same_as(self, other: Answer) -> bool:
        """Whether tokens are equal and no logit has moved visibly.

        Two ways to compute one prefix differ by less than 1e-5 in float32; a
        page of another token moves them by more than a hundred times that.
        """
        return self.tokens == other.tokens and all(
            math.isclose(mine, its, abs_tol=1e-3)
            for mine, its in zip(self.logprobs, other.logprobs, strict=True)
        )


class Serving:
    """A vLLM engine with the connector in it, all in this process."""

    def __init__(self, llm: Any) -> None:
        self.llm = llm

    @property
    def core(self) -> Any:
        return self.llm.llm_engine.engine_core.engine_core

    @property
    def scheduler(self) -> Any:
        return self.core.scheduler

    @property
    def connector(self) -> Any:
        """The scheduler's connector."""
        return self.scheduler.connector

    @property
    def side(self) -> Any:
        return self.connector._scheduler

    @property
    def worker(self) -> Any:
        from vllm.distributed.kv_transfer import get_kv_transfer_group

        return get_kv_transfer_group()._worker

    @property
    def engine(self) -> Any:
        return self.connector._launched.facade

    def sampling(self, tokens: int, **parameters: Any) -> Any:
        from vllm import SamplingParams

        return SamplingParams(
            temperature=0,
            max_tokens=tokens,
            ignore_eos=True,
            logprobs=0,
            extra_args={"kv_transfer_params": parameters} if parameters else None,
        )

    def ask(
        self,
        prompts: Sequence[Sequence[int]],
        tokens: int = 8,
        *,
        salt: str | None = None,
        lora: Any = None,
        **parameters: Any,
    ) -> list[Answer]:
        """Serve prompts together, then let their stores be acknowledged."""
        inputs = [
            {"prompt_token_ids": list(ids), **({"cache_salt": salt} if salt else {})}
            for ids in prompts
        ]
        outputs = self.llm.generate(
            inputs, self.sampling(tokens, **parameters), use_tqdm=False, lora_request=lora
        )
        self.settle()
        answers = []
        for output in outputs:
            (only,) = output.outputs
            logprobs = tuple(
                step[token].logprob
                for step, token in zip(only.logprobs, only.token_ids, strict=True)
            )
            answers.append(Answer(tuple(only.token_ids), logprobs, output.num_cached_tokens))
        return answers

    def ask_one(self, ids: Sequence[int], tokens: int = 8, **options: Any) -> Answer:
        return self.ask([ids], tokens, **options)[0]

    def cold(self, ids: Sequence[int], tokens: int = 8, **options: Any) -> Answer:
        """The answer to a prompt that nothing is cached of, leaving nothing behind."""
        answer = self.ask_one(ids, tokens, **{"lmcache.skip_save": True}, **options)
        assert answer.cached == 0, "the prompt was not new"
        return answer

    def check_preemption(self, prompts: Sequence[Sequence[int]], tokens: int) -> None:
        """Serve more prompts than there are blocks for, twice; nothing is answered otherwise."""
        cold = [self.cold(ids, tokens) for ids in prompts]
        free = self.free_blocks()
        preemptions = self.metric("vllm:num_preemptions")
        loaded = self.totals()["loaded_tokens"]
        first = self.ask(prompts, tokens)
        second = self.ask(prompts, tokens)
        assert self.metric("vllm:num_preemptions") > preemptions
        assert self.totals()["loaded_tokens"] > loaded
        for reference, one, two in zip(cold, first, second, strict=True):
            assert one.same_as(reference)
            assert two.same_as(reference)
        assert self.free_blocks() == free

    def hold_stores(self, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
        """Let copies out of vLLM's blocks wait until the event is set."""
        gate = threading.Event()
        storer = self.worker._storer

        class Waiting:
            def gather(self, copies: Any) -> Any:
                assert gate.wait(60)
                return storer.gather(copies)

        monkeypatch.setattr(self.worker, "_storer", Waiting())
        return gate

    def settle(self) -> None:
        """Step until every store is acknowledged, as the server's loop does."""
        while self.scheduler.has_requests():
            self.core.step_fn()

    def totals(self) -> dict[str, int]:
        return dict(self.engine.counters())

    def free_blocks(self) -> int:
        return int(self.scheduler.kv_cache_manager.block_pool.get_num_free_blocks())

    def leased(self) -> int:
        """Cached chunks that somebody keeps from being evicted."""
        index = self.engine.tiers.memory.index
        return sum(index.get(key).leases is not None for key in self.engine.tiers.memory.residents)

    def metric(self, name: str, **labels: str) -> float:
        """Sum of a metric of vLLM over the label values that are not named."""
        return sum(
            metric.value
            for metric in self.llm.get_metrics()
            if metric.name == name and labels.items() <= metric.labels.items()
        )

    def close(self) -> None:
        from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

        self.llm.llm_engine.engine_core.shutdown()
        del self.llm
        cleanup_dist_env_and_memory()  # It collects garbage, too.
        _set_imports_aside()


_OF_ALL_ENGINES = pytest.MonkeyPatch()
_FREEZE = gc.freeze


def _set_imports_aside() -> None:
    """Let vLLM do once in this process what is the same for each engine.

    An engine collects garbage nine times as it comes and goes. Each time costs
    half a second over all that vLLM and torch have imported, and next to nothing
    once that is frozen; vLLM would thaw it. It also searches every module for
    kernels to replace, which it has done for good.
    """
    from vllm.platforms import current_platform

    _FREEZE()
    _OF_ALL_ENGINES.setattr(gc, "freeze", lambda: None)
    _OF_ALL_ENGINES.setattr(gc, "unfreeze", lambda: None)
    _OF_ALL_ENGINES.setattr(current_platform, "register_triton_kernel_overrides", lambda: None)


class Engines:
    """Starts engines and keeps the last one for whoever asks for the same."""

    @staticmethod
    def launch(**arguments: Any) -> Serving:
        """Start an engine that is the caller's to close."""
        from vllm import LLM

        try:
            return Serving(LLM(**arguments))
        except BaseException:
            # vLLM leaves the worker's connector behind, and gives it to the
            # next engine of the process.
            from vllm.distributed.kv_transfer import ensure_kv_transfer_shutdown
            from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

            ensure_kv_transfer_shutdown()
            cleanup_dist_env_and_memory()
            raise

    def __init__(self) -> None:
        self._running: Serving | None = None
        self._key = ""

    def start(
        self,
        model: Path,
        lmcache: dict[str, Any],
        transfer: dict[str, Any],
        options: dict[str, Any],
    ) -> Serving:
        key = repr((model, *(sorted(part.items()) for part in (lmcache, transfer, options))))
        if self._running is not None and key == self._key:
            return self._running
        self.stop()
        from vllm.config import KVTransferConfig

        extra = {f"lmcache.{name}": value for name, value in lmcache.items()}
        ours = {"kv_connector": "LMCacheConnectorV1", "kv_connector_extra_config": extra}
        if "connectors" in transfer:
            both = {"connectors": [{**ours, "kv_role": "kv_both"}, *transfer["connectors"]]}
            ours = {"kv_connector": "MultiConnector", "kv_connector_extra_config": both}
            transfer = {"kv_role": "kv_both"}
        connector = KVTransferConfig(**ours, **transfer)
        self._running = self.launch(model=str(model), kv_transfer_config=connector, **options)
        self._key = key
        return self._running

    def stop(self) -> None:
        if self._running is not None:
            running, self._running = self._running, None
            running.close()


@pytest.fixture(scope="session")
def make_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Make tiny models; the same arguments give the same folder."""
    made: dict[tuple[str, ...], Path] = {}

    def make(*arguments: str) -> Path:
        if arguments not in made:
            folder = tmp_path_factory.mktemp("model") / "tiny"
            maker = REPOSITORY / "examples" / "tiny_model" / "make_tiny_llama.py"
            subprocess.run(
                [sys.executable, str(maker), str(folder), "--dtype", "float32", *arguments],
                check=True,
                capture_output=True,
                timeout=120,
            )
            made[arguments] = folder
        return made[arguments]

    return make


@pytest.fixture(scope="session")
def engines() -> Iterator[Engines]:
    for name in [name for name in os.environ if name.startswith("LMCACHE_")]:
        del os.environ[name]
    running = Engines()
    yield running
    running.stop()
    _OF_ALL_ENGINES.undo()
    gc.unfreeze()


@pytest.fixture
def serve(engines: Engines, make_model: Callable[..., Path]) -> Callable[..., Serving]:
    """Start an engine, or have the running one where it is the same."""

    def start(
        *,
        model: Path | None = None,
        lmcache: dict[str, Any] | None = None,
        transfer: dict[str, Any] | None = None,
        **options: Any,
    ) -> Serving:
        settings = {"chunk_size": 64, "max_local_cpu_size": 1 / 32, "staging_size": 1 / 128}
        if "storage" in (lmcache or {}):
            del settings["max_local_cpu_size"]
        arguments = {
            "dtype": "float32",
            "enforce_eager": True,
            "max_model_len": 1024,
            "block_size": BLOCK,
            "num_gpu_blocks_override": 256,
            # Small, so that longer prompts are computed in several steps.
            "max_num_batched_tokens": 128,
            "max_num_seqs": 16,
            "enable_prefix_caching": False,
            "disable_log_stats": False,
        }
        return engines.start(
            model or make_model(),
            {**settings, **(lmcache or {})},
            {"kv_role": "kv_both", **(transfer or {})},
            {**arguments, **options},
        )

    return start


@pytest.fixture
def fresh() -> Callable[[int], list[int]]:
    """Make prompts of which none begins with the token that one of the 700 before begins with."""

    def make(length: int) -> list[int]:
        seed = next(_SEEDS)
        first, rng = 10 + seed % 700, random.Random(seed)
        return [first, *(rng.randrange(10, 700) for _ in range(length - 1))]

    return make


@pytest.fixture(scope="module")
def shelf(engines: Engines) -> Iterator[Any]:
    """A store of this process, offered to every registry."""
    from lmcache_core.api import Capability, StorageBackendSpec
    from lmcache_core.plugins import PluginRegistry
    from lmcache_core.testing import DictBackend, DictConfig, DictStore

    store = DictStore()
    spec = StorageBackendSpec(
        name="shelf",
        summary="of a test",
        load=lambda: lambda config, context: DictBackend(config, context, store),
        config=DictConfig,
        capabilities=DictBackend.capabilities | Capability.DURABLE,
    )
    discover = PluginRegistry.discover

    def discover_more(*arguments: Any) -> PluginRegistry:
        registry = discover(*arguments)
        registry.offer(spec)
        return registry

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PluginRegistry, "discover", discover_more)
        yield store
        engines.stop()
