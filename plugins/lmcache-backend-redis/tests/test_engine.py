"""Engines over one real server, which is restarted, killed, frozen, spoilt and slowed down.

Every hit compares the bytes that came back with what computing them gives.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from lmcache_core.config import TierConfig
from lmcache_core.engine.storage.breaker import FIRST_PAUSE_SECONDS
from lmcache_core.errors import BackendError, ConfigError
from tests.controller.engine_peer import eventually
from tests.engine.rig import CHUNK_TOKENS, FRAME_BYTES, SLOT_BYTES, Rig
from tests.engine.test_hostile_store import no_leases
from tests.engine.test_storage_tier import LONG, below, settle, settle_reads
from tests.net.proxy import Proxy
from tests.net.redis_servers import RedisServer

CHUNKS = 24
"""In memory; more than may wait to be written."""

OwnServer = Callable[..., RedisServer]
Start = Callable[..., Rig]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start engines over a URL; each has a memory of its own."""
    with ExitStack() as stack:

        def start(url: str, *, before: tuple[TierConfig, ...] = (), **overrides: Any) -> Rig:
            tiers = (
                TierConfig("LocalCPUBackend", CHUNKS * SLOT_BYTES),
                *before,
                TierConfig("redis", None, {"url": url}),
            )
            return stack.enter_context(Rig(chunks=CHUNKS, overrides={"tiers": tiers, **overrides}))

        yield start


def prompt(number: int) -> list[int]:
    return [number * 1000 + place for place in range(4 * CHUNK_TOKENS)]


def store(rig: Rig, tokens: list[int]) -> None:
    """Compute a prompt and wait until it is in the server, and only there."""
    assert rig.serve(tokens) == 0
    settle(rig)
    drop_memory(rig)


def drop_memory(rig: Rig) -> None:
    tiers = rig.engine.tiers
    tiers.drop("LocalCPUBackend", tiers.keys("LocalCPUBackend"), force=True)


def tier(rig: Rig) -> Any:
    return rig.engine.tiers.storage[-1]


def settle_last(rig: Rig) -> None:
    """Wait until everything written so far is in the last tier."""
    done = threading.Event()
    assert tier(rig)._writes.submit(done.set)
    assert done.wait(10)


def frames(server: RedisServer) -> list[bytes]:
    return sorted(name for name in server.run("KEYS", "lmcache:*") if b"store-id" not in name)


def test_a_second_engine_hits_what_the_first_has_computed(
    start: Start, server: RedisServer
) -> None:
    first, second = start(server.url), start(server.url)
    store(first, LONG)
    name = second.begin(LONG)
    assert second.wait_match(name, len(LONG)) == len(LONG)
    assert second.engine.match(name, len(LONG)).by_location == {"redis": len(LONG)}
    second.engine.finish(name)
    assert second.serve(LONG) == len(LONG) - 1
    settle(second)
    assert len(frames(server)) == 4


def test_a_cluster_is_shared_alike(start: Start, cluster: Any) -> None:
    first, second = start(cluster.url), start(cluster.url)
    store(first, LONG)
    assert second.serve(LONG) == len(LONG) - 1


def test_a_restarted_engine_hits_what_it_has_stored(start: Start, server: RedisServer) -> None:
    first = start(server.url)
    store(first, LONG)
    first.engine.close()
    assert start(server.url).serve(LONG) == len(LONG) - 1


def test_it_is_the_third_tier_behind_a_disk(
    start: Start, server: RedisServer, tmp_path: Any
) -> None:
    disk = TierConfig("LocalDiskBackend", 6 * FRAME_BYTES, {"path": str(tmp_path)})
    rig = start(server.url, before=(disk,))
    for number in range(3):
        rig.serve(prompt(number))
        settle(rig)
        settle_last(rig)
    drop_memory(rig)
    assert prompt(0) == LONG  # The disk has forgotten it, too.
    name = rig.begin(LONG)
    assert rig.wait_match(name, len(LONG)) == len(LONG)
    assert rig.engine.match(name, len(LONG)).by_location == {"redis": len(LONG)}
    rig.engine.finish(name)
    assert rig.serve(LONG) == len(LONG) - 1


def swapped(server: RedisServer, names: list[bytes]) -> None:
    one, other = (server.run("GET", name) for name in names[:2])
    server.run("SET", names[0], other)
    server.run("SET", names[1], one)


def flipped(at: int) -> Callable[[RedisServer, list[bytes]], None]:
    def spoil(server: RedisServer, names: list[bytes]) -> None:
        frame = bytearray(server.run("GET", names[0]))
        frame[at] ^= 0x10
        server.run("SET", names[0], bytes(frame))

    return spoil


@pytest.mark.parametrize(
    ("spoil", "damaged", "missing"),
    [
        *((flipped(at), 1, 0) for at in (0, 8, 40, 100, 155, 4000, 4100, -1)),
        (lambda server, names: server.run("SETRANGE", names[0], 9000, "."), 1, 0),
        (lambda server, names: server.run("SET", names[0], "no frame"), 1, 0),
        (lambda server, names: server.run("DEL", names[0]), 0, 1),
        (lambda server, _: server.run("FLUSHALL"), 0, 4),
        (swapped, 2, 0),
    ],
)
def test_what_is_spoilt_is_never_served_and_is_written_anew(
    start: Start,
    server: RedisServer,
    spoil: Callable[[RedisServer, list[bytes]], None],
    damaged: int,
    missing: int,
) -> None:
    rig = start(server.url)
    store(rig, LONG)
    spoil(server, frames(server))
    assert rig.serve(LONG) < len(LONG) - 1
    settle(rig)
    settle_reads(rig)
    settle(rig)
    counters = rig.engine.counters()
    assert counters["redis.damaged_frames"] == damaged
    assert counters["redis.missing_frames"] == missing
    drop_memory(rig)
    assert rig.serve(LONG) == len(LONG) - 1
    assert no_leases(rig)


def test_a_spoilt_frame_of_another_engine_is_removed_and_never_served(
    start: Start, server: RedisServer
) -> None:
    store(start(server.url), LONG)
    flipped(4100)(server, frames(server))
    second = start(server.url)
    assert second.serve(LONG) < len(LONG) - 1
    settle(second)
    assert second.engine.counters()["redis.damaged_frames"] == 1
    assert start(server.url).serve(LONG) == len(LONG) - 1


def test_what_the_server_evicts_is_a_shorter_hit(start: Start, own_server: OwnServer) -> None:
    server = own_server("--maxmemory", "2mb", "--maxmemory-policy", "allkeys-lru")
    rig = start(server.url)
    for number in range(1, 120):
        assert rig.serve(prompt(number)) == 0
        settle(rig)
    assert len(frames(server)) < 4 * 119
    hits = [rig.serve(prompt(number)) for number in range(1, 120, 7)]
    assert min(hits) == 0
    assert below(rig).healthy


def test_a_full_server_is_counted_and_keeps_what_it_has(
    start: Start, own_server: OwnServer
) -> None:
    server = own_server("--maxmemory", "2mb", "--maxmemory-policy", "noeviction")
    rig = start(server.url)
    for number in range(1, 120):
        rig.serve(prompt(number))
        settle(rig)
    counters = rig.engine.counters()
    assert counters["redis.put_failures"] > 0
    assert counters["redis.put_frames"] + counters["redis.put_failures"] == 4 * 119
    assert len(frames(server)) == counters["redis.put_frames"]
    assert below(rig).healthy
    drop_memory(rig)
    assert rig.serve(prompt(1)) == len(LONG) - 1


def test_a_server_that_was_killed_costs_hits_and_is_used_again_when_it_is_back(
    start: Start, own_server: OwnServer
) -> None:
    server = own_server()
    rig = start(server.url)
    now = 100.0
    tier(rig).breaker._clock = lambda: now
    store(rig, LONG)
    server.kill()
    assert rig.serve(LONG) == 0
    settle(rig)
    assert not below(rig).healthy
    server.start()
    now += 60
    drop_memory(rig)
    assert rig.serve(LONG) == 0
    settle(rig)
    now += 60
    drop_memory(rig)
    rig.serve(LONG)
    settle(rig)
    drop_memory(rig)
    assert rig.serve(LONG) == len(LONG) - 1
    assert below(rig).healthy


def test_a_frozen_server_costs_one_deadline_then_nothing_and_comes_back_by_itself(
    start: Start, own_server: OwnServer
) -> None:
    server = own_server()
    deadline = 0.3
    rig = start(server.url, promotion_timeout_seconds=deadline, storage_timeout_seconds=deadline)
    store(rig, LONG)
    server.freeze()
    begin = time.monotonic()
    assert rig.hit(LONG) == 0
    assert deadline * 0.9 < time.monotonic() - begin < 3 * deadline
    waits = []
    end = time.monotonic() + FIRST_PAUSE_SECONDS / 2
    while time.monotonic() < end:
        begin = time.perf_counter()
        assert rig.hit(LONG) == 0
        waits.append(time.perf_counter() - begin)
    assert statistics.median(waits) < 1e-3
    server.thaw()
    end = time.monotonic() + 20
    while rig.hit(LONG) < len(LONG):
        assert time.monotonic() < end
        time.sleep(0.01)
    assert below(rig).healthy
    assert no_leases(rig)


@pytest.mark.parametrize("cut", [3, 40, 4000, 6000, 15_000])
def test_answers_that_are_cut_cost_hits_only(
    start: Start, server: RedisServer, proxied: Proxy, cut: int
) -> None:
    rig = start(f"redis://127.0.0.1:{proxied.port}")
    store(rig, LONG)
    proxied.cut_after = cut
    assert rig.serve(LONG) < len(LONG)
    settle(rig)
    tier(rig).breaker.succeeded()
    drop_memory(rig)
    assert rig.serve(LONG) == len(LONG) - 1
    assert len(frames(server)) == 4
    assert rig.engine.counters()["redis.damaged_frames"] == 0


def test_a_dripping_network_is_given_up_in_time(start: Start, proxied: Proxy) -> None:
    rig = start(f"redis://127.0.0.1:{proxied.port}", promotion_timeout_seconds=0.5)
    store(rig, LONG)
    proxied.bytes_per_second = 2000
    begin = time.monotonic()
    assert rig.serve(LONG) == 0
    assert time.monotonic() - begin < 2
    proxied.bytes_per_second = None
    settle_reads(rig)
    settle(rig)
    tier(rig).breaker.succeeded()
    drop_memory(rig)
    assert rig.serve(LONG) == len(LONG) - 1
    assert no_leases(rig)


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between tries to open a server that was away at the start."""
    monkeypatch.setattr("lmcache_core.engine.storage.breaker.FIRST_PAUSE_SECONDS", 0.05)


@pytest.mark.usefixtures("short_pauses")
def test_a_server_that_starts_after_the_engine_is_used_and_nothing_is_restarted(
    start: Start, own_server: OwnServer
) -> None:
    server = own_server()
    server.kill()
    rig = start(server.url)
    assert not below(rig).healthy
    assert f"redis at 127.0.0.1:{server.port}" in below(rig).reason
    assert rig.serve(LONG) == 0
    assert rig.serve(LONG) == len(LONG) - 1
    server.start()
    eventually(lambda: below(rig).healthy)
    assert (below(rig).reason, below(rig).store_id[:6]) == ("", "redis:")
    drop_memory(rig)
    store(rig, LONG)
    assert rig.serve(LONG) == len(LONG) - 1
    assert start(server.url).serve(LONG) == len(LONG) - 1
    assert no_leases(rig)
    # From here on it is the breaker that leaves it alone.
    server.kill()
    drop_memory(rig)
    assert rig.serve(LONG) == 0
    settle(rig)
    assert (below(rig).healthy, below(rig).reason) == (False, "")


@pytest.mark.usefixtures("short_pauses")
def test_a_server_that_is_frozen_at_the_start_is_used_when_it_answers(
    start: Start, own_server: OwnServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lmcache_backend_redis.backend.OPEN_SECONDS", 0.2)
    server = own_server()
    server.freeze()
    rig = start(server.url)
    assert "did not answer within 0.2 s" in below(rig).reason
    server.thaw()
    monkeypatch.setattr("lmcache_backend_redis.backend.OPEN_SECONDS", 5.0)
    eventually(lambda: below(rig).healthy)
    store(rig, LONG)
    assert rig.serve(LONG) == len(LONG) - 1


@pytest.mark.usefixtures("short_pauses")
def test_a_password_that_is_right_later_lets_the_engine_in(
    start: Start, own_server: OwnServer
) -> None:
    server = own_server("--requirepass", "old")
    rig = start(f"redis://:new@127.0.0.1:{server.port}")
    assert "password" in below(rig).reason.lower()
    assert "new" not in below(rig).reason
    with server.client() as client:
        client.execute_command("AUTH", "old")
        client.config_set("requirepass", "new")
    eventually(lambda: below(rig).healthy)
    store(rig, LONG)
    assert rig.serve(LONG) == len(LONG) - 1


def test_a_wrong_section_ends_the_start_and_an_away_server_does_where_it_is_to(
    start: Start, own_server: OwnServer
) -> None:
    server = own_server()
    server.kill()
    with pytest.raises(ConfigError, match="redis"):
        start(f"http://127.0.0.1:{server.port}")
    with pytest.raises(BackendError, match=f"redis at 127.0.0.1:{server.port}"):
        start(server.url, on_start_failure="fail")
