"""Real vLLM over a real Redis server, through a network that fails.

Every answer is compared with the one that the model gave when nothing was
cached: a hit changes nothing, and neither does a fault.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.net.proxy import Proxy
from tests.net.redis_servers import RedisServer

pytestmark = pytest.mark.vllm

NAME = "redis"
PROMOTION_SECONDS = 1.0
PATIENCE_SECONDS = 120.0

Serve = Callable[..., Any]
Fresh = Callable[[int], list[int]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, engines: Any) -> Iterator[RedisServer]:
    pytest.importorskip("lmcache_backend_redis")
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server
        server.thaw()
        engines.stop()


@pytest.fixture(scope="module")
def proxy(server: RedisServer) -> Iterator[Proxy]:
    with Proxy("127.0.0.1", server.port) as proxy:
        yield proxy


@pytest.fixture
def serving(serve: Serve, proxy: Proxy) -> Any:
    """An engine whose way to the server is the proxy."""
    return serve(lmcache=settings(f"redis://127.0.0.1:{proxy.port}"))


def settings(url: str, instance: str = "one", *between: dict[str, Any]) -> dict[str, Any]:
    return {
        "storage": [
            # Half of it may wait to be written, and each tier below waits for itself.
            {"backend": "LocalCPUBackend", "max_size": 0.001 * (1 + len(between))},
            *between,
            {"backend": NAME, "url": url},
        ],
        "staging_size": 0.001,
        "lmcache_instance_id": instance,
        "promotion_timeout_seconds": PROMOTION_SECONDS,
        "storage_timeout_seconds": PROMOTION_SECONDS,
    }


def counter(serving: Any, name: str) -> int:
    return int(serving.totals()[f"{NAME}.{name}"])


def healthy(serving: Any) -> bool:
    return bool(serving.engine.tiers.status()[-1].healthy)


def forget(serving: Any) -> None:
    """Empty host memory."""
    tiers = serving.engine.tiers
    tiers.drop("LocalCPUBackend", tiers.keys("LocalCPUBackend"), force=True)


def stored(serving: Any, ids: list[int]) -> Any:
    """The first answer to a prompt, once its chunks are in the server and nowhere else."""
    settle(serving)
    puts = counter(serving, "put_frames")
    answer = serving.ask_one(ids)
    assert answer.cached == 0
    settle(serving)
    assert counter(serving, "put_frames") - puts == len(ids) // 64
    forget(serving)
    return answer


def settle(serving: Any) -> None:
    """Wait until what is to be written to the server has been, or has failed."""
    written = threading.Event()
    assert serving.engine.tiers.storage[-1]._writes.submit(written.set)
    assert written.wait(PATIENCE_SECONDS)


def recover(serving: Any, fresh: Fresh) -> None:
    """Serve until the server is found well again, as it is by itself."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not healthy(serving):
        serving.ask_one(fresh(64), 1)
        assert time.monotonic() < end


def test_a_server_that_starts_after_vllm_is_used_and_nothing_is_restarted(
    serve: Serve, server: RedisServer, proxy: Proxy, fresh: Fresh, engines: Any
) -> None:
    engines.stop()
    server.kill()
    serving = serve(lmcache=settings(f"redis://127.0.0.1:{proxy.port}"))
    assert not healthy(serving)
    ids = fresh(256)
    alone = serving.ask_one(ids)
    assert alone.cached == 0
    server.start()
    end = time.monotonic() + PATIENCE_SECONDS
    while not healthy(serving):
        assert time.monotonic() < end
        time.sleep(0.02)
    forget(serving)
    cold = stored(serving, ids)
    warm = serving.ask_one(ids)
    assert warm.cached == 255
    assert warm.same_as(cold)
    assert warm.same_as(alone)


def test_what_host_memory_lost_comes_back(serving: Any, fresh: Fresh) -> None:
    ids = fresh(256)
    cold = stored(serving, ids)
    warm = serving.ask_one(ids)
    assert warm.cached == 255
    assert warm.same_as(cold)


def test_spoilt_frames_are_computed_again(serving: Any, server: RedisServer, fresh: Fresh) -> None:
    ids = fresh(256)
    server.run("FLUSHALL")
    cold = stored(serving, ids)
    for name in server.run("KEYS", "lmcache:*"):
        frame = bytearray(server.run("GET", name))
        frame[-1] ^= 1
        server.run("SET", name, bytes(frame))
    damaged = counter(serving, "damaged_frames")
    again = serving.ask_one(ids)
    assert again.cached == 0
    assert again.same_as(cold)
    assert counter(serving, "damaged_frames") - damaged == 4


def restarted(server: RedisServer, proxy: Proxy) -> None:
    server.restart()


def killed(server: RedisServer, proxy: Proxy) -> None:
    server.kill()


def frozen(server: RedisServer, proxy: Proxy) -> None:
    server.freeze()


def cut(after: int) -> Callable[[RedisServer, Proxy], None]:
    def fail(server: RedisServer, proxy: Proxy) -> None:
        proxy.cut_after = after

    return fail


def dripping(server: RedisServer, proxy: Proxy) -> None:
    proxy.bytes_per_second = 20_000


@pytest.mark.parametrize(
    "fail",
    [restarted, killed, frozen, cut(3), cut(50_000), dripping],
    ids=["restarted", "killed", "frozen", "cut at once", "cut within", "dripping"],
)
def test_a_fault_changes_no_answer_and_holds_up_nobody(
    serving: Any, server: RedisServer, proxy: Proxy, fresh: Fresh, fail: Callable[..., None]
) -> None:
    ids = fresh(256)
    cold = stored(serving, ids)
    fail(server, proxy)
    try:
        begin = time.monotonic()
        first = serving.ask_one(ids)
        waited = time.monotonic() - begin
        assert first.same_as(cold)
        assert first.cached < 255
        assert waited < 2 * PROMOTION_SECONDS + 2
        # The breaker is open, or the server is empty: these wait for nothing.
        answers = [serving.ask_one(fresh(64), 1) for _ in range(3)]
        assert {answer.cached for answer in answers} == {0}
        forget(serving)
        assert serving.ask_one(ids).same_as(cold)
    finally:
        proxy.bytes_per_second = proxy.cut_after = None
        server.thaw() if fail is frozen else None
        server.start() if fail is killed else None
    recover(serving, fresh)
    forget(serving)
    after = fresh(256)
    cold_after = stored(serving, after)
    warm = serving.ask_one(after)
    assert warm.cached == 255
    assert warm.same_as(cold_after)
    again = serving.ask_one(ids)
    assert again.same_as(cold)


def test_a_second_instance_hits_what_the_first_has_computed(
    serve: Serve, serving: Any, server: RedisServer, fresh: Fresh
) -> None:
    ids = fresh(256)
    recover(serving, fresh)
    cold = stored(serving, ids)
    second = serve(lmcache=settings(server.url, "two"))
    warm = second.ask_one(ids)
    assert warm.cached == 255
    assert warm.same_as(cold)
    # A conversation that goes on from there finds what there is of it.
    longer = [*ids, *fresh(40)]
    assert second.ask_one(longer).cached >= 255
    # Who asks with another salt finds nothing.
    assert second.ask_one(ids, salt="another").cached == 0


def test_it_is_the_third_tier_behind_a_disk(
    serve: Serve, server: RedisServer, fresh: Fresh, tmp_path: Path, engines: Any
) -> None:
    disk = {"backend": "LocalDiskBackend", "max_size": 0.001, "path": str(tmp_path)}
    serving = serve(lmcache=settings(server.url, "three", disk))
    ids = fresh(256)
    cold = stored(serving, ids)
    tiers = serving.engine.tiers
    tiers.drop("LocalDiskBackend", tiers.keys("LocalDiskBackend"), force=True)
    reads = counter(serving, "read_frames")
    warm = serving.ask_one(ids)
    assert warm.cached == 255
    assert warm.same_as(cold)
    assert counter(serving, "read_frames") - reads == 4
    engines.stop()
