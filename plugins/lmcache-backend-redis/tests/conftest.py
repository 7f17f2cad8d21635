"""Servers for the tests of this plugin, each started once and emptied before each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from lmcache_backend_redis.plugin import lmcache_register_storage_backends
from lmcache_core.api import BackendContext, StorageBackend, StorageBackendSpec
from lmcache_core.config import plugin_section
from tests.net.proxy import Proxy
from tests.net.redis_servers import RedisCluster, RedisServer


@pytest.fixture(scope="session")
def spec() -> StorageBackendSpec:
    (spec,) = lmcache_register_storage_backends()
    return spec


@pytest.fixture(scope="session")
def make(spec: StorageBackendSpec) -> Callable[..., StorageBackend]:
    """Make a backend of a section's keys, as the core does."""

    def make(**options: Any) -> StorageBackend:
        section = plugin_section(spec.config, options, "redis")
        return spec.load()(section, BackendContext(instance_id="kit", tier="redis"))

    return make


@pytest.fixture
def opened(make: Callable[..., StorageBackend]) -> Iterator[Callable[..., StorageBackend]]:
    """Make and open backends, which are closed after the test."""
    with ExitStack() as stack:

        def open_one(**options: Any) -> StorageBackend:
            backend = make(**options)
            stack.callback(backend.close)
            backend.open()
            return backend

        yield open_one


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def server(shared_server: RedisServer) -> RedisServer:
    """A running, empty server."""
    shared_server.run("FLUSHALL")
    return shared_server


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Callable[..., RedisServer]]:
    """Start servers that a test may spoil."""
    with ExitStack() as stack:

        def start(*options: str) -> RedisServer:
            folder = tmp_path / f"own{len(list(tmp_path.glob('own*')))}"
            return stack.enter_context(RedisServer(folder, *options))

        yield start


@pytest.fixture(scope="session")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    with RedisCluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture
def cluster(shared_cluster: RedisCluster) -> RedisCluster:
    """Three empty servers that are a cluster."""
    shared_cluster.flush()
    return shared_cluster


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an authority, and a server's and a client's certificate of it."""
    trustme = pytest.importorskip("trustme")
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    for name, issued in (
        ("server", authority.issue_cert("127.0.0.1")),
        ("client", authority.issue_cert("lmcache")),
    ):
        issued.private_key_pem.write_to_path(folder / f"{name}.key")
        issued.cert_chain_pems[0].write_to_path(folder / f"{name}.pem")
    return folder


@pytest.fixture(scope="session")
def shared_encrypted_server(
    tmp_path_factory: pytest.TempPathFactory, certificates: Path
) -> Iterator[RedisServer]:
    folder = tmp_path_factory.mktemp("encrypted")
    with RedisServer(folder, tls=certificates, password="kit") as server:
        yield server


@pytest.fixture
def encrypted_server(shared_encrypted_server: RedisServer) -> RedisServer:
    """An empty server that speaks TLS and asks for the password ``kit``."""
    shared_encrypted_server.run("FLUSHALL")
    return shared_encrypted_server


@pytest.fixture
def proxied(server: RedisServer) -> Iterator[Proxy]:
    """A proxy in front of the server."""
    with Proxy("127.0.0.1", server.port) as proxy:
        yield proxy
