"""LMCache beside us: a child process that does one measured step per line.

Started by ``benchmarks/transfer.py`` with the interpreter of an environment
that has ``lmcache`` installed. Reads ``store N``, ``retrieve N``,
``duplicate N`` or ``copy N`` from standard input, does it, and answers with
the seconds it took, so that both engines are measured in turn in one run.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

os.environ.setdefault("LMCACHE_TRACK_USAGE", "false")
os.environ.setdefault("LMCACHE_LOG_LEVEL", "ERROR")
os.environ.setdefault("PYTHONHASHSEED", "0")

LAYERS, HEADS, DIM, CHUNK = 32, 8, 128, 256


class PlainCopies:
    """The data mover LMCache is given: one strided copy a chunk, its best case."""

    def __init__(self, torch: Any, tokens: int) -> None:
        self.torch = torch
        shape = (2, LAYERS, tokens, HEADS * DIM)
        self.src = torch.randn(*shape, dtype=torch.float32).to(torch.bfloat16)
        self.dst = torch.zeros_like(self.src)

    def initialize_kvcaches_ptr(self, **_: Any) -> None:
        """Nothing to note: the tensors are fixed."""

    def get_shape(self, tokens: int | None = None) -> Any:
        """Shape of a chunk's memory object."""
        return self.torch.Size([2, LAYERS, tokens or CHUNK, HEADS * DIM])

    def batched_from_gpu(self, objs: Any, starts: Any, ends: Any, **_: Any) -> None:
        """Copy tokens out."""
        for obj, start, end in zip(objs, starts, ends, strict=True):
            obj.tensor.copy_(self.src[:, :, start:end])

    def batched_to_gpu(self, objs: Any, starts: Any, ends: Any, **_: Any) -> None:
        """Copy tokens in."""
        for obj, start, end in zip(objs, starts, ends, strict=True):
            self.dst[:, :, start:end].copy_(obj.tensor)


def make_engine(torch: Any, copies: PlainCopies, gib: float) -> Any:
    """An LMCache engine outside of any server."""
    from lmcache.utils import mock_up_broadcast_fn, mock_up_broadcast_object_fn
    from lmcache.v1.cache_engine import LMCacheEngineBuilder
    from lmcache.v1.config import LMCacheEngineConfig
    from lmcache.v1.metadata import LMCacheMetadata

    config = LMCacheEngineConfig.from_defaults(
        chunk_size=CHUNK, local_cpu=True, max_local_cpu_size=gib, numa_mode=None
    )
    metadata = LMCacheMetadata(
        model_name="bench",
        world_size=1,
        local_world_size=1,
        worker_id=0,
        local_worker_id=0,
        kv_dtype=torch.bfloat16,
        kv_shape=(LAYERS, 2, CHUNK, HEADS, DIM),
        role="worker",
        chunk_size=CHUNK,
        engine_id="bench",
    )
    engine = LMCacheEngineBuilder.get_or_create(
        "bench", config, metadata, copies, mock_up_broadcast_fn, mock_up_broadcast_object_fn
    )
    engine.post_init()
    return engine


def main() -> None:
    import torch

    tokens, gib = int(sys.argv[1]), float(sys.argv[2])
    torch.set_num_threads(1)
    copies = PlainCopies(torch, tokens)
    engine = make_engine(torch, copies, gib)
    prompts: dict[str, Any] = {}
    scratch = torch.zeros(tokens // CHUNK, 2, LAYERS, CHUNK, HEADS * DIM, dtype=torch.bfloat16)
    print("ready", flush=True)
    for line in sys.stdin:
        step, name = line.split()
        ids = prompts.setdefault(name, torch.randint(0, 128_000, (tokens,)))
        found = tokens
        begin = time.perf_counter()
        if step in ("store", "duplicate"):
            engine.store(ids)
        elif step == "retrieve":
            found = int(engine.retrieve(ids).sum())
        else:
            for index in range(tokens // CHUNK):
                part = copies.src[:, :, index * CHUNK : (index + 1) * CHUNK]
                scratch[index].copy_(part)
        elapsed = time.perf_counter() - begin
        if found != tokens or (step == "retrieve" and not torch.equal(copies.src, copies.dst)):
            sys.exit(f"{step}: {found} of {tokens} tokens, or other bytes than were stored")
        print(elapsed, flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
