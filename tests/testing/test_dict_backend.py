"""The reference backend passes the kit."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from lmcache_core.api import BackendContext
from lmcache_core.config import plugin_section
from lmcache_core.errors import ConfigError
from lmcache_core.keys import Key
from lmcache_core.testing import DictBackend, DictConfig, DictStore, StorageBackendTests

CONTEXT = BackendContext(instance_id="kit", tier="DictBackend")


class TestDictBackend(StorageBackendTests):
    capabilities = DictBackend.capabilities

    @pytest.fixture
    def store(self) -> DictStore:
        return DictStore()

    @pytest.fixture
    def make_backend(self, store: DictStore) -> Callable[[], DictBackend]:
        return lambda: DictBackend(DictConfig(), CONTEXT, store)

    @pytest.fixture
    def make_bounded_backend(self) -> Callable[[int], DictBackend]:
        return lambda nbytes: DictBackend(DictConfig(max_bytes=nbytes), CONTEXT)

    @pytest.fixture
    def peek(self, store: DictStore) -> Callable[[Key], bytes | None]:
        return store.frames.get

    @pytest.fixture
    def plant(self, store: DictStore) -> Callable[[Key, bytes], None]:
        return store.frames.__setitem__


def test_two_dictionaries_have_two_names() -> None:
    one, other = (DictBackend(DictConfig(), CONTEXT) for _ in range(2))
    assert one.store_id != other.store_id


def test_the_bound_is_validated_with_the_section() -> None:
    with pytest.raises(ConfigError, match="max_bytes"):
        plugin_section(DictConfig, {"max_bytes": 0}, "storage backend DictBackend")
