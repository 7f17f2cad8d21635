"""The CUDA page mover against a page-locked copy of the same bytes.

    python benchmarks/cuda_mover.py [--rounds 20] [--json]

Needs a GPU, a torch that sees it, and a native library with CUDA. The pages
are 64 KiB, one of each of 32 layers a block, as those of an 8B model in bf16
with blocks of 16 tokens; one chunk is 16 blocks, 32 MiB. Read the ratios: what
a gather or a scatter of scattered pages reaches of one ``cudaMemcpyAsync`` of
as many bytes, device to host and host to device.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable

from lmcache_core.api import BackendContext, MemoryBackendSpec
from lmcache_core.api.connector import SlotCopy
from lmcache_core.memory import HostRegion, LayerPages, PageMover, PageTable, native_status
from lmcache_core.plugins import PluginRegistry

LAYERS = 32
PAGE_BYTES = 64 * 1024
BLOCKS_PER_CHUNK = 16
CHUNK_BYTES = LAYERS * PAGE_BYTES * BLOCKS_PER_CHUNK


def measure(chunks: int, rounds: int) -> dict[str, object]:
    """The best of some rounds of each side, in turn."""
    import torch

    nbytes = chunks * CHUNK_BYTES
    blocks = 2 * chunks * BLOCKS_PER_CHUNK
    pages = torch.empty(LAYERS * blocks * PAGE_BYTES, dtype=torch.uint8, device="cuda")
    locked = torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)
    stride = blocks * PAGE_BYTES
    table = PageTable(
        [
            LayerPages(pages.data_ptr() + layer * stride, PAGE_BYTES, PAGE_BYTES, blocks)
            for layer in range(LAYERS)
        ]
    )
    ids = random.Random(0).sample(range(blocks), chunks * BLOCKS_PER_CHUNK)
    copies = [
        SlotCopy(
            chunk * CHUNK_BYTES,
            BLOCKS_PER_CHUNK,
            0,
            tuple(ids[chunk * BLOCKS_PER_CHUNK : (chunk + 1) * BLOCKS_PER_CHUNK]),
        )
        for chunk in range(chunks)
    ]
    spec = PluginRegistry.discover().backend("LocalCPUBackend")
    assert isinstance(spec, MemoryBackendSpec)
    context = BackendContext(instance_id="bench", tier="LocalCPUBackend")
    with HostRegion.create(spec, {}, context, nbytes) as region:
        mover = PageMover(table, region.address, nbytes, cuda_device=0)

        def down() -> None:
            locked.copy_(pages[:nbytes], non_blocking=True)
            torch.cuda.synchronize()

        def up() -> None:
            pages[:nbytes].copy_(locked, non_blocking=True)
            torch.cuda.synchronize()

        sides: dict[str, Callable[[], object]] = {
            "copy to host": down,
            "gather": lambda: mover.gather(copies),
            "copy to device": up,
            "scatter": lambda: mover.scatter(copies),
        }
        best = dict.fromkeys(sides, float("inf"))
        for _ in range(rounds):
            for name, run in sides.items():
                begin = time.perf_counter()
                run()
                best[name] = min(best[name], time.perf_counter() - begin)
        mover.close()
    return {
        "chunks": chunks,
        "gather_over_copy": best["copy to host"] / best["gather"],
        "scatter_over_copy": best["copy to device"] / best["scatter"],
        "gigabytes_per_second": {name: nbytes / 1e9 / best[name] for name in sides},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chunks", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    try:
        import torch
    except ImportError:
        sys.exit("torch is not installed; `make venv` installs vLLM with it")
    if not torch.cuda.is_available():
        sys.exit(f"torch {torch.__version__} sees no GPU")
    figures = [measure(chunks, args.rounds) for chunks in args.chunks]
    device = torch.cuda.get_device_name()
    if args.json:
        print(json.dumps({"device": device, "native": native_status().detail, "results": figures}))
        return
    print(f"{device}; native library: {native_status().detail}")
    for row in figures:
        print(
            f"{row['chunks']:4} chunks of 32 MiB: gather {row['gather_over_copy']:.2f} and "
            f"scatter {row['scatter_over_copy']:.2f} of one page-locked copy"
        )


if __name__ == "__main__":
    main()
