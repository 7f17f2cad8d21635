"""The conformance kit: every promise of the contract, over real files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from lmcache_core.api import BackendContext, StorageBackend
from lmcache_core.keys import Key
from lmcache_core.testing import StorageBackendTests

from lmcache_backend_shelf.config import Config
from lmcache_backend_shelf.plugin import lmcache_register_storage_backends

(SPEC,) = lmcache_register_storage_backends()


def make(path: Path) -> StorageBackend:
    context = BackendContext(instance_id="kit", tier=SPEC.name)
    return SPEC.load()(Config(path=str(path)), context)


class TestShelfBackend(StorageBackendTests):
    capabilities = SPEC.capabilities

    @pytest.fixture
    def make_backend(self, tmp_path: Path) -> Callable[[], StorageBackend]:
        return lambda: make(tmp_path)

    @pytest.fixture
    def make_unusable_backend(self, tmp_path: Path) -> Callable[[], StorageBackend]:
        in_the_way = tmp_path / "file"
        in_the_way.write_text("not a folder")
        return lambda: make(in_the_way)

    @pytest.fixture
    def peek(self, tmp_path: Path) -> Callable[[Key], bytes | None]:
        """Reads the store without the backend, so that it is not compared with itself."""

        def look(key: Key) -> bytes | None:
            file = tmp_path / "engine-kit" / key.hex()
            return file.read_bytes() if file.exists() else None

        return look

    @pytest.fixture
    def plant(self, tmp_path: Path) -> Callable[[Key, bytes], None]:
        """Writes into the store without the backend."""

        def write(key: Key, frame: bytes) -> None:
            file = tmp_path / "engine-kit" / key.hex()
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(frame)

        return write
