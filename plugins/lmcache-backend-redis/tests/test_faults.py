"""Servers that stop, stall, run full or forget, and networks that cut and drip."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from lmcache_core.api import Deadline, PutStatus, StorageBackend
from lmcache_core.errors import BackendError, DeadlineExceededError
from lmcache_core.testing.calls import put, read, remove, stat
from lmcache_core.testing.material import aligned_buffer, sample_frame, sample_key
from lmcache_core.testing.threads import together
from tests.net.proxy import Proxy
from tests.net.redis_servers import RedisServer

MIB = 1 << 20
LARGE = 8 * MIB
"""Longer than what is asked for at once."""

Opened = Callable[..., StorageBackend]
OwnServer = Callable[..., RedisServer]


def through(proxy: Proxy) -> str:
    return f"redis://127.0.0.1:{proxy.port}"


def name(number: int) -> str:
    return f"lmcache:{sample_key(number).hex()}"


def large(number: int) -> bytes:
    return bytes(sample_frame(number, LARGE))


# round trips and connections


def test_the_prefix_of_a_prompt_is_looked_up_in_one_round_trip(
    opened: Opened, proxied: Proxy
) -> None:
    backend = opened(url=through(proxied))
    put(backend, 3)
    before = proxied.turns
    keys = [sample_key(number) for number in range(32)]
    lengths = backend.stat(keys, Deadline(10))
    assert proxied.turns - before == 1
    assert [number for number, length in enumerate(lengths) if length] == [3]


def test_a_batch_of_small_frames_takes_one_round_trip_each_way(
    opened: Opened, proxied: Proxy
) -> None:
    backend = opened(url=through(proxied))
    keys = [sample_key(number) for number in range(32)]
    before = proxied.turns
    backend.put(keys, [sample_frame(number, 256) for number in range(32)], Deadline(10))
    assert proxied.turns - before == 1
    assert backend.get(keys, [aligned_buffer(256) for _ in keys], Deadline(10)) == [256] * 32
    assert proxied.turns - before == 2


def test_a_frame_that_is_there_is_not_sent_again(opened: Opened, server: RedisServer) -> None:
    backend = opened(url=server.url)
    put(backend, 1, LARGE)
    server.run("CONFIG", "RESETSTAT")
    assert put(backend, 1, LARGE) is PutStatus.PRESENT
    assert server.run("INFO", "stats")["total_net_input_bytes"] < 4096


def test_there_are_never_more_connections_than_configured(opened: Opened, proxied: Proxy) -> None:
    backend = opened(url=through(proxied), connections=2)
    calls = [lambda number=number: put(backend, number, MIB) for number in range(12)]
    assert together(calls) == [PutStatus.STORED] * 12
    assert proxied.connections <= 2


def test_who_finds_all_connections_in_use_waits_no_longer_than_it_may(
    opened: Opened, proxied: Proxy
) -> None:
    backend = opened(url=through(proxied), connections=1)
    proxied.frozen.set()

    def ask() -> float:
        begin = time.monotonic()
        with pytest.raises(DeadlineExceededError):
            backend.stat([sample_key(1)], Deadline(0.5))
        return time.monotonic() - begin

    # One after the other they would take three seconds.
    assert max(together([ask] * 6)) < 2
    proxied.frozen.clear()
    assert stat(backend, 1) is None


# servers that stop


def test_a_server_that_was_restarted_is_used_again_at_once(
    opened: Opened, own_server: OwnServer
) -> None:
    server = own_server()
    backend = opened(url=server.url)
    put(backend, 1)
    server.restart()
    assert read(backend, 1) is None
    assert put(backend, 1) is PutStatus.STORED


def test_a_server_that_was_killed_is_an_error_until_it_is_back(
    opened: Opened, own_server: OwnServer
) -> None:
    server = own_server()
    backend = opened(url=server.url)
    server.kill()
    begin = time.monotonic()
    for call in (lambda: stat(backend, 1), lambda: put(backend, 1), lambda: read(backend, 1)):
        with pytest.raises(BackendError, match=f"127.0.0.1:{server.port}"):
            call()
    assert time.monotonic() - begin < 2
    server.start()
    assert put(backend, 1) is PutStatus.STORED


def test_a_server_killed_while_it_is_written_to_has_whole_frames_only(
    opened: Opened, server: RedisServer, proxied: Proxy
) -> None:
    backend = opened(url=through(proxied))
    for cut in (100, 4096, LARGE // 2, LARGE + 20):
        proxied.cut_up_after = cut
        with pytest.raises(BackendError):
            put(backend, 1, LARGE)
        assert server.run("STRLEN", name(1)) == 0, cut
    assert put(backend, 1, LARGE) is PutStatus.STORED
    assert read(backend, 1, LARGE) == large(1)


def test_a_frozen_server_costs_its_deadline_and_comes_back_by_itself(
    opened: Opened, own_server: OwnServer
) -> None:
    server = own_server()
    backend = opened(url=server.url)
    put(backend, 1, LARGE)
    buffer = aligned_buffer(LARGE)
    calls: list[Callable[[Deadline], object]] = [
        lambda deadline: backend.stat([sample_key(1)], deadline),
        lambda deadline: backend.get([sample_key(1)], [buffer], deadline),
        lambda deadline: backend.put([sample_key(2)], [sample_frame(2, LARGE)], deadline),
        lambda deadline: backend.remove([sample_key(9)], deadline),
    ]
    server.freeze()
    for call in calls:
        begin = time.monotonic()
        with pytest.raises(DeadlineExceededError):
            call(Deadline(0.3))
        assert 0.25 < time.monotonic() - begin < 1
    server.thaw()
    assert read(backend, 1, LARGE) == large(1)
    assert put(backend, 2, LARGE) in {PutStatus.STORED, PutStatus.PRESENT}
    assert read(backend, 2, LARGE) == large(2)


def test_a_server_that_freezes_while_a_frame_is_written_has_none_of_it(
    opened: Opened, own_server: OwnServer
) -> None:
    server = own_server()
    backend = opened(url=server.url)
    put(backend, 1)
    server.freeze()
    # It is there before it is asked whether it is, so that bytes are on their way.
    with pytest.raises(DeadlineExceededError):
        backend.put([sample_key(2)], [sample_frame(2, 4 * LARGE)], Deadline(0.3))
    server.thaw()
    assert read(backend, 2, 4 * LARGE) is None
    assert read(backend, 1) == bytes(sample_frame(1, 4096))


def test_a_server_that_cannot_be_reached_fails_in_open_with_what_to_do(
    opened: Opened, own_server: OwnServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lmcache_backend_redis.backend.OPEN_SECONDS", 0.3)
    server = own_server()
    server.freeze()
    with pytest.raises(BackendError, match=f"{server.port} did not answer within 0.3 s; see"):
        opened(url=server.url)


# networks


@pytest.mark.parametrize("cut", [1, 5, 30, 70, 4096, MIB, MIB + 40, LARGE, LARGE + 60])
def test_an_answer_that_is_cut_is_an_error_and_the_next_call_works(
    opened: Opened, proxied: Proxy, cut: int
) -> None:
    backend = opened(url=through(proxied))
    put(backend, 1, LARGE)
    proxied.cut_after = cut
    with pytest.raises(BackendError):
        read(backend, 1, LARGE)
    assert read(backend, 1, LARGE) == large(1)


def test_an_answer_that_drips_is_given_up_at_the_deadline(opened: Opened, proxied: Proxy) -> None:
    backend = opened(url=through(proxied))
    put(backend, 1, LARGE)
    proxied.bytes_per_second = 1e6
    begin = time.monotonic()
    with pytest.raises(DeadlineExceededError):
        backend.get([sample_key(1)], [aligned_buffer(LARGE)], Deadline(0.5))
    assert time.monotonic() - begin < 1.5
    proxied.bytes_per_second = None
    assert read(backend, 1, LARGE) == large(1)


def test_a_slow_network_is_no_fault(opened: Opened, proxied: Proxy) -> None:
    backend = opened(url=through(proxied))
    put(backend, 1, MIB)
    proxied.bytes_per_second = 4e6
    assert read(backend, 1, MIB) == bytes(sample_frame(1, MIB))


def test_a_frame_that_is_replaced_while_it_is_read_is_a_miss(
    opened: Opened, server: RedisServer, proxied: Proxy
) -> None:
    backend = opened(url=through(proxied))
    put(backend, 1, LARGE)
    seen = proxied.down_bytes
    proxied.bytes_per_second = 8e6
    answers: list[int | None] = []
    reading = threading.Thread(
        target=lambda: answers.extend(
            backend.get([sample_key(1)], [aligned_buffer(LARGE)], Deadline(30))
        )
    )
    reading.start()
    while proxied.down_bytes - seen < MIB // 2:
        time.sleep(0.01)
    server.run("SET", name(1), large(2))
    proxied.bytes_per_second = None
    reading.join(30)
    assert answers == [None]
    assert read(backend, 1, LARGE) == large(2)


# what the store does by itself


def test_a_server_without_room_says_so_and_keeps_what_it_has(
    opened: Opened, own_server: OwnServer
) -> None:
    server = own_server("--maxmemory", "24mb", "--maxmemory-policy", "noeviction")
    backend = opened(url=server.url)
    statuses = [put(backend, number, 2 * MIB) for number in range(20)]
    assert set(statuses) == {PutStatus.STORED, PutStatus.FULL}
    kept = [number for number, status in enumerate(statuses) if status is PutStatus.STORED]
    for number in kept:
        assert read(backend, number, 2 * MIB) == bytes(sample_frame(number, 2 * MIB))
    remove(backend, kept[0])
    remove(backend, kept[1])
    end = time.monotonic() + 10  # Memory is freed behind.
    while put(backend, 100, 2 * MIB) is not PutStatus.STORED:
        assert time.monotonic() < end


def test_what_a_server_evicts_is_a_miss(opened: Opened, own_server: OwnServer) -> None:
    server = own_server("--maxmemory", "24mb", "--maxmemory-policy", "allkeys-lru")
    backend = opened(url=server.url)
    frames = [bytes(sample_frame(number, 2 * MIB)) for number in range(20)]
    assert {put(backend, number, 2 * MIB) for number in range(20)} == {PutStatus.STORED}
    found = [read(backend, number, 2 * MIB) for number in range(20)]
    assert None in found
    assert set(found) - {None} <= set(frames)
    assert found[-1] == frames[-1]


def test_frames_expire_where_it_is_configured(opened: Opened, server: RedisServer) -> None:
    put(opened(url=server.url), 1)
    put(opened(url=server.url, ttl_seconds=1), 2)
    assert server.run("PTTL", name(1)) == -1
    assert 0 < server.run("PTTL", name(2)) <= 1000
    backend = opened(url=server.url)
    end = time.monotonic() + 10
    while stat(backend, 2) is not None:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert read(backend, 2) is None
    assert stat(backend, 1) == 4096


def test_a_server_that_forgets_everything_is_another_store_with_misses(
    opened: Opened, server: RedisServer
) -> None:
    backend = opened(url=server.url)
    put(backend, 1)
    server.run("FLUSHALL")
    assert read(backend, 1) is None
    assert put(backend, 1) is PutStatus.STORED
    assert opened(url=server.url).store_id != backend.store_id


def test_what_is_no_frame_is_a_refusal_in_words(opened: Opened, server: RedisServer) -> None:
    backend = opened(url=server.url)
    server.run("LPUSH", name(1), "a list")
    with pytest.raises(BackendError, match="WRONGTYPE"):
        stat(backend, 1)
    assert put(backend, 2) is PutStatus.STORED


def test_prefixes_and_databases_keep_stores_apart(opened: Opened, server: RedisServer) -> None:
    backends = [
        opened(url=server.url),
        opened(url=server.url, key_prefix="other"),
        opened(url=f"{server.url}/1"),
    ]
    assert len({backend.store_id for backend in backends}) == 3
    for number, backend in enumerate(backends):
        put(backend, number)
        assert [stat(backend, other) for other in range(number)] == [None] * number
    assert {name.partition(b":")[0] for name in server.run("KEYS", "*")} == {b"lmcache", b"other"}
