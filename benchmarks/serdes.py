"""zstd and aesgcm beside the libraries they call, in one run.

    python benchmarks/serdes.py [--mib 32] [--rounds 7] [--json]

The payload is what a chunk of an 8B model looks like to a compressor: random
numbers of a normal distribution as bfloat16. A ratio is the serde's speed over
that of the library's own call on the same bytes; the sides take turns, and
the best round of each counts.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import struct
import time
from collections.abc import Callable
from typing import Any

import zstandard
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from lmcache_core.api import KVSpec, Serde
from lmcache_core.config import plugin_section
from lmcache_core.plugins import PluginRegistry

KEY = bytes(32)
NONCE = bytes(12)
LEVELS = (-1, 1, 3)
SPEC = KVSpec(dtype="bfloat16", layout="LBHNC", groups=())


def pages(nbytes: int) -> bytes:
    """Numbers as they lie in a KV cache."""
    draw = random.Random(1)
    sample = b"".join(struct.pack("<f", draw.gauss(0, 1))[2:] for _ in range(1 << 20))
    return (sample * (nbytes // len(sample) + 1))[:nbytes]


def open_serde(name: str, section: dict[str, Any]) -> Serde:
    """The serde that a configuration would have."""
    spec = PluginRegistry.discover({}).serde(name)
    serde = spec.load()(plugin_section(spec.config, section, f"serde {name}"))
    serde.accept(SPEC)
    return serde


def compare(rounds: int, nbytes: int, **calls: Callable[[], object]) -> dict[str, float]:
    """GB/s of each call, the best of some rounds in which they take turns."""
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(rounds):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            best[name] = min(best[name], time.perf_counter() - started)
    return {name: nbytes / seconds / 1e9 for name, seconds in best.items()}


def sides(serde: Serde, payload: memoryview, rounds: int, **library: Any) -> dict[str, float]:
    """One serde beside its library."""
    stored = memoryview(serde.encode(KEY, payload))
    target = memoryview(bytearray(payload.nbytes))
    compress, decompress = library["encode"], library["decode"]
    made = compress()
    speed = compare(
        rounds,
        payload.nbytes,
        encode=lambda: serde.encode(KEY, payload),
        library_encode=compress,
        decode=lambda: serde.decode(KEY, stored, target),
        library_decode=lambda: decompress(made),
    )
    assert target == payload
    return {
        **{f"{name} GB/s": value for name, value in speed.items()},
        "encode ratio": speed["encode"] / speed["library_encode"],
        "decode ratio": speed["decode"] / speed["library_decode"],
        "size": stored.nbytes / payload.nbytes,
    }


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mib", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    payload = memoryview(pages(args.mib << 20))
    figures: dict[str, Any] = {}
    for level in LEVELS:
        compressor = zstandard.ZstdCompressor(level=level, write_checksum=True)
        figures[f"zstd {level}"] = sides(
            open_serde("zstd", {"level": level}),
            payload,
            args.rounds,
            encode=lambda compressor=compressor: compressor.compress(payload),
            decode=zstandard.ZstdDecompressor().decompress,
        )
    os.environ["BENCH_KEY"] = os.urandom(32).hex()
    cipher = AESGCM(os.urandom(32))
    figures["aesgcm"] = sides(
        open_serde("aesgcm", {"keys": {"k1": "env:BENCH_KEY"}}),
        payload,
        args.rounds,
        encode=lambda: cipher.encrypt(NONCE, payload, KEY),
        decode=lambda made: cipher.decrypt(NONCE, made, KEY),
    )
    print(json.dumps(figures, indent=None if args.json else 2))


if __name__ == "__main__":
    main()
