"""One vLLM engine in a child process, timing its own steps.

Started by ``benchmarks/step_time.py`` with a JSON object of settings as the
only argument. Prints ``ready`` and the ids of its control threads; then for
each line on standard input takes a turn: it goes on with the round that is
under way, or begins one, and prints a JSON list of three: the seconds of each
step, by name those of the processor that control threads took, and whether the
round has ended. Some steps before these are not timed, because another process
has emptied the processor's caches.
"""

from __future__ import annotations

import json
import math
import os
import random
import sys
import time
from typing import Any

from thread_clocks import ThreadClocks

os.environ.update(
    VLLM_ENABLE_V1_MULTIPROCESSING="0",
    VLLM_CPU_KVCACHE_SPACE="1",
    VLLM_CPU_OMP_THREADS_BIND="nobind",
    OMP_NUM_THREADS="1",  # two children on two cores; contended barriers drown everything
    VLLM_LOGGING_LEVEL="ERROR",
    VLLM_NO_USAGE_STATS="1",
    VLLM_HOST_IP="127.0.0.1",
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    TOKENIZERS_PARALLELISM="false",
)


WARMING_STEPS = 10
PINNED_PROMPTS = 100
PINNED_TOKENS = 2048
"""Prompts that are cached and pinned while steps are timed; number n begins with token n."""


def fill(llm: Any, chunks: int) -> None:
    """Put synthetic chunks and prompts into the index; their pages are never touched."""
    from lmcache_core.keys import EMPTY_SCOPE

    engine = llm.llm_engine.engine_core.engine_core.scheduler.connector._launched.facade
    for number in range(chunks):
        engine.begin("fill", [number], EMPTY_SCOPE)
        job = engine.plan_store("fill", 1, [[0]], final=True)
        if job is not None:
            engine.acknowledge([job.job_id])
        engine.finish("fill")
    for number in range(PINNED_PROMPTS):
        engine.begin("fill", range(number, number + PINNED_TOKENS), EMPTY_SCOPE)
        job = engine.plan_store("fill", PINNED_TOKENS, [[0] * PINNED_TOKENS], final=True)
        engine.acknowledge([job.job_id])
        engine.finish("fill")


def main() -> None:
    settings = json.loads(sys.argv[1])
    from vllm import LLM, SamplingParams
    from vllm.config import KVTransferConfig

    llm = LLM(
        model=settings["model"],
        dtype="float32",
        enforce_eager=True,
        max_model_len=2048,
        block_size=32,
        enable_prefix_caching=False,
        kv_transfer_config=KVTransferConfig(**settings["transfer"]),
    )
    if settings["fill"]:
        fill(llm, settings["fill"])
    rng = random.Random(0)
    engine = llm.llm_engine

    def add(name: str, prompt_tokens: int, max_tokens: int) -> None:
        sampling = SamplingParams(temperature=0, max_tokens=max_tokens, ignore_eos=True)
        prompt = [rng.randrange(20, 500) for _ in range(prompt_tokens)]
        engine.add_request(name, {"prompt_token_ids": prompt}, sampling)

    def serve(most: float) -> list[float]:
        steps: list[float] = []
        while engine.has_unfinished_requests() and len(steps) < most:
            begin = time.perf_counter()
            engine.step()
            steps.append(time.perf_counter() - begin)
        return steps

    clocks = ThreadClocks()
    print("ready", *clocks.thread_ids, flush=True)
    for count, _ in enumerate(sys.stdin):
        if engine.has_unfinished_requests():
            serve(WARMING_STEPS)
        else:
            add(f"{count}-warming", 200, WARMING_STEPS)
            serve(math.inf)
            for number in range(settings["requests"]):
                # Lengths differ, so that prompts end in different steps.
                add(f"{count}-{number}", 200 + 17 * number, settings["max_tokens"])
        before = clocks.seconds()
        steps = serve(settings["turn_steps"])
        after = clocks.seconds()
        taken = {name: after[name] - before[name] for name in after}
        print(json.dumps([steps, taken, not engine.has_unfinished_requests()]), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
