"""A disk below host memory: full, spoilt, packed, pinned, taken over from one that is gone."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lmcache_core.api.messages import Command, RecodeCommand, Reply
from lmcache_core.api.pins import PinRequest, PinState
from lmcache_core.engine.control.commands import CommandRunner
from lmcache_core.engine.frames.header import FrameHeader
from lmcache_core.keys import tokens_to_bytes

pytestmark = pytest.mark.vllm

NAME = "LocalDiskBackend"
MEMORY = "LocalCPUBackend"
PATIENCE_SECONDS = 120.0

Serve = Callable[..., Any]
Fresh = Callable[[int], list[int]]

CHILD = """
import json, os, random, sys
os.environ.update(json.loads(sys.argv[1]))
model, settings, ids = json.loads(sys.argv[2])
from vllm import LLM, SamplingParams
from vllm.config import KVTransferConfig
llm = LLM(
    model=model, dtype="float32", enforce_eager=True, max_model_len=1024, block_size=32,
    num_gpu_blocks_override=256, max_num_batched_tokens=128, max_num_seqs=16,
    enable_prefix_caching=False,
    kv_transfer_config=KVTransferConfig(
        kv_connector="LMCacheConnectorV1", kv_role="kv_both",
        kv_connector_extra_config={f"lmcache.{key}": value for key, value in settings.items()},
    ),
)
sampling = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True, logprobs=0)
def ask(ids):
    (output,) = llm.generate([{"prompt_token_ids": ids}], sampling, use_tqdm=False)
    (only,) = output.outputs
    pairs = zip(only.logprobs, only.token_ids, strict=True)
    return list(only.token_ids), [step[token].logprob for step, token in pairs]
print("answer", json.dumps(ask(ids)), flush=True)
rng = random.Random(1)
while True:  # until somebody kills it, in the middle of a store
    ask([700 + rng.randrange(20), *(rng.randrange(10, 700) for _ in range(255))])
"""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of most tests here, so that they share an engine."""
    return tmp_path_factory.mktemp("disk")


def settings(path: Path, *, memory: float = 0.001, disk: float = 0.1) -> dict[str, Any]:
    return {
        "storage": [
            {"backend": MEMORY, "max_size": memory},
            {"backend": NAME, "max_size": disk, "path": str(path)},
        ],
        "staging_size": 0.001,
    }


def frames(path: Path) -> set[Path]:
    return set(path.glob("*/frames/*/*"))


def counter(serving: Any, name: str) -> int:
    return int(serving.totals()[f"{NAME}.{name}"])


def written_by(serving: Any, path: Path, ids: list[int]) -> tuple[Any, list[Path]]:
    """Serve a prompt; its answer, and its files once they are all there, in their order."""
    before, puts = frames(path), counter(serving, "put_frames")
    answer = serving.ask_one(ids)
    chunks = -(-len(ids) // 64)
    wait_for(lambda: counter(serving, "put_frames") - puts >= chunks)
    by_parent = {parent_of(file): file for file in frames(path) - before}
    assert len(by_parent) == chunks
    (first,) = by_parent.keys() - {file.name for file in by_parent.values()}
    files = [by_parent[first]]
    while files[-1].name in by_parent:
        files.append(by_parent[files[-1].name])
    return answer, files


def parent_of(file: Path) -> str:
    return FrameHeader.parse(memoryview(file.read_bytes())).parent.hex()


def wait_for(done: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not done():
        assert time.monotonic() < end, "the machine is too slow, or it never comes"
        time.sleep(0.01)


def flood(serving: Any, fresh: Fresh) -> None:
    """Store more than host memory has room for."""
    for _ in range(5):
        serving.ask_one(fresh(256))


@pytest.mark.parametrize("length", [12, 256, 300])
def test_what_host_memory_lost_comes_back_from_the_disk(
    serve: Serve, fresh: Fresh, path: Path, length: int
) -> None:
    serving = serve(lmcache=settings(path))
    ids = fresh(length)
    cold, _ = written_by(serving, path, ids)
    flood(serving, fresh)
    disk = serving.metric("vllm:prompt_tokens_cached_by_source", source="disk")
    warm = serving.ask_one(ids)
    assert warm.cached == length - 1
    assert warm.same_as(cold)
    read = serving.metric("vllm:prompt_tokens_cached_by_source", source="disk") - disk
    assert read == length - 1


def flip(at: int) -> Callable[[list[Path]], None]:
    def spoil(files: list[Path]) -> None:
        frame = bytearray(files[0].read_bytes())
        frame[at] ^= 1
        files[0].write_bytes(frame)

    return spoil


def swap(files: list[Path]) -> None:
    first, second = (file.read_bytes() for file in files[:2])
    files[0].write_bytes(second)
    files[1].write_bytes(first)


@pytest.mark.parametrize(
    ("spoil", "damaged", "missing", "cached"),
    [
        (flip(40), 1, 0, 0),
        (flip(-1), 1, 0, 0),
        (lambda files: os.truncate(files[1], 5000), 1, 0, 64),
        (lambda files: files[2].write_bytes(files[2].read_bytes() + b"."), 1, 0, 128),
        (lambda files: files[1].write_bytes(b"not a frame at all" * 9999), 1, 0, 64),
        (lambda files: files[3].unlink(), 0, 1, 192),
        (swap, 2, 0, 0),
    ],
    ids=["a bit of the key", "a bit of the end", "cut", "grown", "foreign", "vanished", "swapped"],
)
def test_a_spoilt_file_is_a_shorter_hit_with_the_same_answer(
    serve: Serve,
    fresh: Fresh,
    path: Path,
    spoil: Callable[[list[Path]], None],
    damaged: int,
    missing: int,
    cached: int,
) -> None:
    serving = serve(lmcache=settings(path))
    ids = fresh(256)
    cold, files = written_by(serving, path, ids)
    flood(serving, fresh)
    spoil(files)
    before = counter(serving, "damaged_frames"), counter(serving, "missing_frames")
    quarantined = set(path.glob("*/quarantine/*.reason"))
    warm = serving.ask_one(ids)
    assert warm.same_as(cold)
    assert warm.cached == cached
    wait_for(lambda: len(set(path.glob("*/quarantine/*.reason")) - quarantined) == damaged)
    after = counter(serving, "damaged_frames"), counter(serving, "missing_frames")
    assert (after[0] - before[0], after[1] - before[1]) == (damaged, missing)


def carried_out(serving: Any, command: Command) -> Reply:
    """The answer to a command, as a controller would have it."""
    runner = CommandRunner(serving.engine, "instance", 1)
    wait_for(lambda: not runner.must_wait(command))
    return runner.run(command)


@pytest.mark.parametrize("length", [256, 300])
def test_a_compressed_prompt_is_hit_with_the_same_answer(
    serve: Serve, fresh: Fresh, path: Path, length: int
) -> None:
    serving = serve(lmcache=settings(path))
    ids = fresh(length)
    cold, files = written_by(serving, path, ids)
    raw = sum(file.stat().st_size for file in files)
    meant = {"request_id": "r", "deadline_seconds": 60.0, "location": NAME}
    compress = RecodeCommand(**meant, serdes=("zstd",), tokens=tokens_to_bytes(ids))
    reply = carried_out(serving, compress)
    assert (reply.error, reply.num_tokens) == (None, length)
    packed = sum(file.stat().st_size for file in files)
    assert raw - packed == reply.facts["saved_bytes"] > 0
    tiers, before = serving.engine.tiers, counter(serving, "read_frames")
    tiers.drop(MEMORY, tiers.keys(MEMORY), force=False)
    warm = serving.ask_one(ids)
    assert (warm.cached, counter(serving, "read_frames") - before) == (length - 1, len(files))
    assert warm.same_as(cold)
    decompress = msgspec.structs.replace(compress, undo=True)
    assert carried_out(serving, decompress).num_tokens == length
    tiers.drop(MEMORY, tiers.keys(MEMORY), force=False)
    assert serving.ask_one(ids).same_as(cold)
    assert sum(file.stat().st_size for file in files) == raw


def test_what_is_pinned_on_the_disk_survives_a_restart_and_a_flood_without_a_controller(
    serve: Serve, fresh: Fresh, tmp_path: Path, engines: Any
) -> None:
    small = settings(tmp_path, disk=0.0015)
    serving = serve(lmcache=small)
    ids, other = fresh(256 + 12), fresh(256)
    cold, files = written_by(serving, tmp_path, ids)
    request = PinRequest(pin_id="kept", version=1, location=NAME, tokens=tokens_to_bytes(ids))
    with serving.engine.tiers.lock:
        serving.engine.tiers.pins.pin(request)
    wait_for(lambda: state_of(serving, "kept") is PinState.ACTIVE)
    written_by(serving, tmp_path, other)
    engines.stop()
    serving = serve(lmcache=small)
    for _ in range(12):
        written_by(serving, tmp_path, fresh(256))
    tier = serving.engine.tiers.status()[1]
    assert counter(serving, "evictions") > len(files)
    assert tier.used_bytes <= tier.capacity_bytes
    assert state_of(serving, "kept") is PinState.ACTIVE
    assert serving.ask_one(other).cached == 0, "what is not pinned went"
    warm = serving.ask_one(ids)
    assert warm.cached == 267
    assert warm.same_as(cold)
    assert counter(serving, "damaged_frames") == 0
    engines.stop()


def state_of(serving: Any, pin_id: str) -> PinState | None:
    with serving.engine.tiers.lock:
        report = serving.engine.tiers.pins.report(pin_id)
    return None if report is None else report.state


def test_a_prompt_that_host_memory_cannot_hold_is_answered_alike(
    serve: Serve, fresh: Fresh, tmp_path: Path, engines: Any
) -> None:
    small = {**settings(tmp_path, memory=0.0005), "staging_size": 0.0003}
    serving = serve(lmcache=small)
    ids = fresh(960)
    cold = serving.cold(ids)
    for _ in range(4):
        answer = serving.ask_one(ids)
        assert answer.same_as(cold)
        wait_for(lambda: serving.leased() == 0)
    assert 0 < answer.cached < len(ids) - 1
    memory, disk = serving.engine.tiers.status()
    assert memory.used_bytes <= memory.capacity_bytes < disk.used_bytes
    assert disk.used_bytes == sum(file.stat().st_size for file in frames(tmp_path))
    # A conversation that goes on from there finds what the disk has of it.
    longer = [*ids[: answer.cached], *fresh(20)]
    assert serving.ask_one(longer).cached >= answer.cached - 64
    engines.stop()


def test_the_next_engine_hits_what_the_last_one_stored(
    serve: Serve, fresh: Fresh, tmp_path: Path, engines: Any
) -> None:
    serving = serve(lmcache=settings(tmp_path))
    ids = fresh(256 + 12)
    cold, _ = written_by(serving, tmp_path, ids)
    engines.stop()
    serving = serve(lmcache=settings(tmp_path))
    assert counter(serving, "recovered_frames") == 5
    warm = serving.ask_one(ids)
    assert warm.cached == 267
    assert warm.same_as(cold)
    engines.stop()


def test_an_engine_that_was_killed_leaves_hits_and_the_same_answers(
    serve: Serve,
    fresh: Fresh,
    tmp_path: Path,
    engines: Any,
    make_model: Callable[..., Path],
) -> None:
    engines.stop()
    ids = fresh(256)
    wanted = settings(tmp_path, memory=1 / 32)
    known = {name: os.environ[name] for name in os.environ if name.startswith(("VLLM_", "OMP_"))}
    child = subprocess.Popen(
        [
            *(sys.executable, "-c", CHILD, json.dumps(known)),
            json.dumps([str(make_model()), {"chunk_size": 64, **wanted}, ids]),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    try:
        answer = next(line for line in child.stdout if line.startswith("answer "))
        enough = random.Random(2).randrange(9, 20)
        wait_for(lambda: len(frames(tmp_path)) >= enough)
    finally:
        child.kill()
        child.stdout.close()
        child.wait(30)
    tokens, logprobs = json.loads(answer.removeprefix("answer "))
    serving = serve(lmcache=wanted)
    assert counter(serving, "recovered_frames") >= enough
    warm = serving.ask_one(ids)
    assert warm.cached == 255
    assert list(warm.tokens) == tokens
    assert list(warm.logprobs) == pytest.approx(logprobs, abs=1e-3)
    assert counter(serving, "damaged_frames") == 0
    assert list(tmp_path.glob("*/aside/*")) == []
    engines.stop()
