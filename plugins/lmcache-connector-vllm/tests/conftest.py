"""Real vLLM engines in this process, one after the other, over a tiny model.

Three seconds an engine, once vLLM is imported. Float32: in bfloat16 a cold
prefill and a warm one run products of different shapes, and near ties flip.
"""

from __future__ import annotations

import gc
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[3]
BLOCK = 32

os.environ.update(
    VLLM_ENABLE_V1_MULTIPROCESSING="0",
    VLLM_CPU_KVCACHE_SPACE="1",
    VLLM_CPU_OMP_THREADS_BIND="nobind",
    VLLM_LOGGING_LEVEL="ERROR",
    VLLM_NO_USAGE_STATS="1",
    VLLM_HOST_IP="127.0.0.1",
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    TOKENIZERS_PARALLELISM="false",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let vLLM and torch warn as they like; a warning of ours is an error still."""
    for item in items:
        if item.get_closest_marker("vllm") and Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("ignore", "error:::lmcache"))


def prompt(length: int, seed: int = 0) -> list[int]:
    """Token ids of a prompt that shares no prefix with one of another seed."""
    rng = random.Random(seed)
    return [1, *(rng.randrange(10, 500) for _ in range(length - 1))]


@dataclass
class Answer:
    """What came back for one prompt."""

    tokens: list[int]
    cached: int


@dataclass
class Serving:
    """A vLLM engine with the connector in it."""

    llm: Any
    finished: list[Any] = field(default_factory=list)

    @property
    def core(self) -> Any:
        return self.llm.llm_engine.engine_core.engine_core

    @property
    def scheduler(self) -> Any:
        return self.core.scheduler

    @property
    def connector(self) -> Any:
        return self.scheduler.connector

    @property
    def engine(self) -> Any:
        return self.connector._launched.facade

    def ask(
        self, prompts: Sequence[Sequence[int]], tokens: int = 8, **options: Any
    ) -> list[Answer]:
        """Serve prompts together, then let their stores be acknowledged."""
        from vllm import SamplingParams

        salt = options.pop("cache_salt", None)
        lora = options.pop("lora_request", None)
        sampling = SamplingParams(
            temperature=0,
            max_tokens=tokens,
            ignore_eos=True,
            extra_args={"kv_transfer_params": options} if options else None,
        )
        inputs = [
            {"prompt_token_ids": list(ids), **({"cache_salt": salt} if salt else {})}
            for ids in prompts
        ]
        outputs = self.llm.generate(inputs, sampling, use_tqdm=False, lora_request=lora)
        self.settle()
        return [
            Answer(list(output.outputs[0].token_ids), output.num_cached_tokens)
            for output in outputs
        ]

    def ask_one(self, ids: Sequence[int], tokens: int = 8, **options: Any) -> Answer:
        return self.ask([ids], tokens, **options)[0]

    def step(self) -> None:
        self.llm.llm_engine.step()

    def settle(self) -> None:
        """Step until every store is acknowledged, as the server's loop does."""
        while self.scheduler.has_requests():
            self.core.step_fn()

    def totals(self) -> dict[str, int]:
        return dict(self.engine.counters())

    def free_blocks(self) -> int:
        return int(self.scheduler.kv_cache_manager.block_pool.get_num_free_blocks())

    def close(self) -> None:
        from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

        self.llm.llm_engine.engine_core.shutdown()
        del self.llm
        gc.collect()
        cleanup_dist_env_and_memory()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    maker = REPOSITORY / "examples" / "tiny_model" / "make_tiny_llama.py"
    subprocess.run(
        [sys.executable, str(maker), str(folder), "--dtype", "float32"],
        check=True,
        capture_output=True,
        timeout=120,
    )
    return folder


@pytest.fixture
def serve(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Serving]]:
    """Make engines; each is closed when the next is made or the test ends."""
    pytest.importorskip("vllm", reason="vLLM is not installed")
    for name in [name for name in os.environ if name.startswith("LMCACHE_")]:
        monkeypatch.delenv(name)
    running: list[Serving] = []

    def close_running() -> None:
        while running:
            running.pop().close()

    def make(*, lmcache: dict[str, Any] | None = None, **options: Any) -> Serving:
        from vllm import LLM
        from vllm.config import KVTransferConfig

        close_running()
        settings = {
            "chunk_size": 64,
            "max_local_cpu_size": 0.03125,
            "staging_size": 0.0078125,
            **(lmcache or {}),
        }
        transfer = KVTransferConfig(
            kv_connector="LMCacheConnectorV1",
            kv_role="kv_both",
            kv_connector_extra_config={f"lmcache.{k}": v for k, v in settings.items()},
        )
        arguments = {
            "model": str(tiny_model),
            "dtype": "float32",
            "enforce_eager": True,
            "max_model_len": 1024,
            "block_size": BLOCK,
            "num_gpu_blocks_override": 256,
            "enable_prefix_caching": False,
            "kv_transfer_config": transfer,
            "disable_log_stats": False,
            **options,
        }
        serving = Serving(LLM(**arguments))
        running.append(serving)
        return serving

    yield make
    close_running()
