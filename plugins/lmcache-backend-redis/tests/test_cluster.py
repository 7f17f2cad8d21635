"""A cluster whose keys move and whose servers die."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis.crc import key_slot

from lmcache_core.api import Deadline, PutStatus, StorageBackend
from lmcache_core.errors import BackendError
from lmcache_core.testing.calls import put, read, stat
from lmcache_core.testing.material import aligned_buffers, sample_frame, sample_key
from tests.net.ports import free_port
from tests.net.redis_servers import RedisCluster, RedisServer

MIB = 1 << 20

Opened = Callable[..., StorageBackend]


@pytest.fixture
def own_cluster(tmp_path: Path) -> Iterator[RedisCluster]:
    """A cluster that a test may spoil."""
    with RedisCluster(tmp_path) as cluster:
        yield cluster


def name(number: int) -> bytes:
    return f"lmcache:{sample_key(number).hex()}".encode()


def identity(server: RedisServer) -> str:
    return server.run("CLUSTER", "MYID").decode()


def test_keys_are_spread_and_found_together(opened: Opened, cluster: RedisCluster) -> None:
    backend = opened(url=cluster.url)
    keys = [sample_key(number) for number in range(32)]
    frames = aligned_buffers(32, 512)
    assert backend.put(keys, frames, Deadline(10)) == [PutStatus.STORED] * 32
    assert all(server.run("DBSIZE") > 3 for server in cluster.servers)
    assert backend.stat(keys, Deadline(10)) == [512] * 32


def test_a_cluster_is_one_when_the_configuration_says_so_and_not_the_url(
    opened: Opened, cluster: RedisCluster
) -> None:
    first = cluster.servers[0]
    backend = opened(url=first.url, cluster=True)
    assert [put(backend, number) for number in range(8)] == [PutStatus.STORED] * 8
    assert backend.store_id == opened(url=cluster.url).store_id


def test_any_of_the_named_servers_will_do(opened: Opened, cluster: RedisCluster) -> None:
    url = f"redis-cluster://127.0.0.1:{free_port()},127.0.0.1:{cluster.servers[1].port}"
    assert put(opened(url=url), 1) is PutStatus.STORED


def test_a_single_server_is_no_cluster(opened: Opened, server: RedisServer) -> None:
    with pytest.raises(BackendError, match="cluster support disabled"):
        opened(url=server.url, cluster=True)


def test_a_key_is_followed_to_the_server_it_moves_to_and_has_moved_to(
    opened: Opened, own_cluster: RedisCluster
) -> None:
    backend = opened(url=own_cluster.url)
    nbytes = 4 * MIB
    put(backend, 1, nbytes)
    slot = key_slot(name(1))
    source = own_cluster.owner(name(1))
    target = next(server for server in own_cluster.servers if server is not source)
    target.run("CLUSTER", "SETSLOT", slot, "IMPORTING", identity(source))
    source.run("CLUSTER", "SETSLOT", slot, "MIGRATING", identity(target))
    assert read(backend, 1, nbytes) == bytes(sample_frame(1, nbytes))
    source.run("MIGRATE", "127.0.0.1", target.port, name(1), 0, 10_000)
    assert stat(backend, 1) == nbytes
    assert read(backend, 1, nbytes) == bytes(sample_frame(1, nbytes))
    for server in own_cluster.servers:
        server.run("CLUSTER", "SETSLOT", slot, "NODE", identity(target))
    assert stat(backend, 1) == nbytes
    assert read(backend, 1, nbytes) == bytes(sample_frame(1, nbytes))
    assert put(backend, 1, nbytes) is PutStatus.PRESENT


def test_a_server_that_dies_takes_its_keys_only_and_comes_back(
    opened: Opened, own_cluster: RedisCluster
) -> None:
    for server in own_cluster.servers:
        server.run("CONFIG", "SET", "cluster-require-full-coverage", "no")
    backend = opened(url=own_cluster.url)
    numbers = range(12)
    assert [put(backend, number) for number in numbers] == [PutStatus.STORED] * 12
    dead = own_cluster.servers[2]
    dead.kill()
    for number in numbers:
        if own_cluster.owner(name(number)) is dead:
            with pytest.raises(BackendError):
                stat(backend, number)
        else:
            assert stat(backend, number) == 4096
    dead.start()
    own_cluster.wait()
    (lost,) = [n for n in numbers if own_cluster.owner(name(n)) is dead][:1]
    assert stat(backend, lost) is None
    assert put(backend, lost) is PutStatus.STORED
