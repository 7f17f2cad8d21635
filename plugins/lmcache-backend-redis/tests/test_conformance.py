"""The promises of the contract, over real servers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lmcache_backend_redis.plugin import lmcache_register_storage_backends
from lmcache_core.api import StorageBackend
from lmcache_core.keys import Key
from lmcache_core.testing import StorageBackendTests
from tests.net.ports import free_port
from tests.net.redis_servers import RedisCluster, RedisServer

PASSWORD = "kit"

(SPEC,) = lmcache_register_storage_backends()

Make = Callable[..., StorageBackend]


def name(key: Key) -> str:
    return f"lmcache:{key.hex()}"


class RedisTests(StorageBackendTests):
    capabilities = SPEC.capabilities

    @pytest.fixture
    def make_unusable_backend(self, make: Make) -> Callable[[], StorageBackend]:
        return lambda: make(url=f"redis://127.0.0.1:{free_port()}")


class TestOneServer(RedisTests):
    @pytest.fixture
    def make_backend(self, make: Make, server: RedisServer) -> Callable[[], StorageBackend]:
        return lambda: make(url=server.url)

    @pytest.fixture
    def peek(self, server: RedisServer) -> Callable[[Key], bytes | None]:
        return lambda key: server.run("GET", name(key))

    @pytest.fixture
    def plant(self, server: RedisServer) -> Callable[[Key, bytes], None]:
        return lambda key, frame: server.run("SET", name(key), frame)


class TestCluster(RedisTests):
    @pytest.fixture
    def make_backend(self, make: Make, cluster: RedisCluster) -> Callable[[], StorageBackend]:
        return lambda: make(url=cluster.url)

    @pytest.fixture
    def peek(self, cluster: RedisCluster) -> Callable[[Key], bytes | None]:
        return lambda key: cluster.owner(name(key).encode()).run("GET", name(key))

    @pytest.fixture
    def plant(self, cluster: RedisCluster) -> Callable[[Key, bytes], None]:
        return lambda key, frame: cluster.owner(name(key).encode()).run("SET", name(key), frame)


class TestEncrypted(RedisTests):
    @pytest.fixture
    def make_backend(
        self,
        make: Make,
        encrypted_server: RedisServer,
        certificates: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> Callable[[], StorageBackend]:
        # The client library reads the system's authorities for each new
        # connection, a tenth of a second; here there are none but ours.
        monkeypatch.setenv("SSL_CERT_FILE", str(certificates / "ca.pem"))
        monkeypatch.setenv("SSL_CERT_DIR", str(certificates / "none"))
        ca = str(certificates / "ca.pem")
        return lambda: make(url=encrypted_server.url, password=PASSWORD, tls_ca=ca)
