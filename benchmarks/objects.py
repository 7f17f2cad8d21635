"""Frames through `object-store`, beside the best that a plain client gets from the same server.

    python benchmarks/objects.py [--rounds 8] [--mib 1 4 16 32] [--json]

A SeaweedFS on this machine, and a folder. Frames are put and got one by one, each by every side in
turn, the order changing from round to round. Plain clients are obstore, whole and in parts, and
boto3 where it is installed; they keep what they get in memory of their own, while a backend
has to bring it into its caller's. `over_best` is the time of the fastest of them over ours,
`over_put_of_new` that of obstore where it, too, writes only what is not there.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

import obstore
from obstore.store import LocalStore, ObjectStore

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lmcache_backend_object_store.backend import ObjectStoreBackend
from lmcache_backend_object_store.config import ObjectStoreConfig
from lmcache_core.api import BackendContext, Deadline, PutStatus
from lmcache_core.testing.material import sample_key
from tests.net.seaweedfs import BUCKET, SeaweedFS

MIB = 1 << 20
HEADER_BYTES = 4096
PART_BYTES = 16 * MIB
PATIENCE_SECONDS = 60.0
LOOKED_UP = 32

Put = Callable[[str, memoryview], object]
Get = Callable[[str, int], object]
Side = tuple[Put, Get]


class Ours:
    """The backend, under numbers that were not used yet."""

    def __init__(self, stack: ExitStack, options: Mapping[str, Any]) -> None:
        context = BackendContext(instance_id="bench", tier="object-store")
        self.backend = ObjectStoreBackend(ObjectStoreConfig(**options), context)
        stack.callback(self.backend.close)
        self.backend.open()
        self._buffer = memoryview(mmap.mmap(-1, 32 * MIB + HEADER_BYTES))
        self._buffer[:] = bytes(len(self._buffer))

    def put(self, name: str, frame: memoryview) -> None:
        statuses = self.backend.put([sample_key(int(name))], [frame], Deadline(PATIENCE_SECONDS))
        assert statuses == [PutStatus.STORED], statuses

    def get(self, name: str, nbytes: int) -> None:
        keys, buffers = [sample_key(int(name))], [self._buffer[:nbytes]]
        assert self.backend.get(keys, buffers, Deadline(PATIENCE_SECONDS)) == [nbytes]

    def look_up(self) -> float:
        """Seconds of a look-up of 32 keys over that of one."""
        keys = [sample_key(10**9 + number) for number in range(LOOKED_UP)]
        times: dict[int, list[float]] = {1: [], LOOKED_UP: []}
        for _ in range(20):
            for number, seconds in times.items():
                begin = time.perf_counter()
                self.backend.stat(keys[:number], Deadline(PATIENCE_SECONDS))
                seconds.append(time.perf_counter() - begin)
        return statistics.median(times[LOOKED_UP]) / statistics.median(times[1])


def plain(store: ObjectStore) -> dict[str, Side]:
    """What obstore's own calls do."""

    def put_whole(name: str, frame: memoryview) -> object:
        return obstore.put(store, name, frame, use_multipart=False)

    def put_parts(name: str, frame: memoryview) -> object:
        return obstore.put(store, name, frame, use_multipart=True, chunk_size=PART_BYTES)

    def put_new(name: str, frame: memoryview) -> object:
        return obstore.put(store, name, frame, mode="create")

    def get_whole(name: str, _nbytes: int) -> object:
        return obstore.get(store, name).bytes()

    def get_ranges(name: str, nbytes: int) -> object:
        starts = range(0, nbytes, PART_BYTES)
        ends = [min(start + PART_BYTES, nbytes) for start in starts]
        return obstore.get_ranges(store, name, starts=list(starts), ends=ends, coalesce=0)

    return {
        "obstore": (put_whole, get_whole),
        "obstore_parts": (put_parts, get_ranges),
        "obstore_new": (put_new, get_whole),
    }


def boto(server: SeaweedFS) -> dict[str, Side]:
    """What boto3 does, where it is."""
    try:
        import boto3
    except ImportError:
        return {}
    client = boto3.client(
        "s3",
        endpoint_url=server.endpoint,
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        region_name="us-east-1",
    )

    def put(name: str, frame: memoryview) -> object:
        return client.put_object(Bucket=BUCKET, Key=f"boto/{name}", Body=bytes(frame))

    def get(name: str, _nbytes: int) -> object:
        return client.get_object(Bucket=BUCKET, Key=f"boto/{name}")["Body"].read()

    return {"boto3": (put, get)}


def measure(sides: Mapping[str, Side], nbytes: int, rounds: int) -> dict[str, float]:
    """Put and get frames by every side in turn; GB/s of ours, and the ratios."""
    frame = memoryview(mmap.mmap(-1, nbytes))
    times: dict[str, dict[str, list[float]]] = {
        what: {name: [] for name in sides} for what in ("put", "get")
    }
    numbers = count(nbytes)
    for number in range(rounds + 1):
        names = list(sides)
        shift = number % len(names)
        for side in names[shift:] + names[:shift]:
            name = str(next(numbers))
            frame[:MIB] = os.urandom(MIB)
            put, get = sides[side]
            began = time.perf_counter()
            put(name, frame)
            between = time.perf_counter()
            get(name, nbytes)
            ended = time.perf_counter()
            if number:  # the first opens connections
                times["put"][side].append(between - began)
                times["get"][side].append(ended - between)
    figures: dict[str, float] = {}
    for what, seconds in times.items():
        median = {side: statistics.median(each) for side, each in seconds.items()}
        best = min(value for side, value in median.items() if side != "ours")
        figures[f"{what}_over_best"] = best / median["ours"]
        if what == "put":
            figures["put_over_put_of_new"] = median["obstore_new"] / median["ours"]
        figures[f"{what}_MBps"] = nbytes / median["ours"] / 1e6
        for side, value in median.items():
            if side != "ours":
                figures[f"{what}_{side}_MBps"] = nbytes / value / 1e6
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--mib", type=int, nargs="+", default=[1, 4, 16, 32])
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    figures: dict[str, Any] = {}
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(SeaweedFS(place / "seaweedfs"))
        credentials = place / "credentials.yaml"
        credentials.write_text(f"secret_access_key: {server.secret_key}\n")
        s3 = Ours(
            stack,
            {
                "url": f"s3://{BUCKET}/ours",
                "endpoint": server.endpoint,
                "region": "us-east-1",
                "allow_http": True,
                "credentials_file": str(credentials),
                "options": {"access_key_id": server.access_key},
            },
        )
        folder = Ours(stack, {"url": (place / "ours").as_uri()})
        (place / "plain").mkdir()
        stores: dict[str, dict[str, Side]] = {
            "s3": {"ours": (s3.put, s3.get), **plain(server.client("plain")), **boto(server)},
            "folder": {"ours": (folder.put, folder.get), **plain(LocalStore(place / "plain"))},
        }
        for store, sides in stores.items():
            for mib in args.mib:
                # A frame is its header longer than its chunk.
                measured = measure(sides, mib * MIB + HEADER_BYTES, args.rounds)
                figures[f"{store}_{mib}_MiB"] = measured
                if not args.json:
                    print(f"{store}, {mib} MiB")
                    for side, number in measured.items():
                        print(f"  {side:28} {number:.2f}", flush=True)
        figures["s3_look_up_of_32_over_1"] = s3.look_up()
    if args.json:
        print(json.dumps(figures))
    else:
        print(f"s3, look-up of 32 over 1 {figures['s3_look_up_of_32_over_1']:.2f}")


if __name__ == "__main__":
    main()
