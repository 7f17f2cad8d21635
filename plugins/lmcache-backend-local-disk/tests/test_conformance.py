"""The promises of the contract, over real files."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lmcache_backend_local_disk.backend import LocalDiskBackend
from lmcache_backend_local_disk.config import LocalDiskConfig
from lmcache_backend_local_disk.plugin import lmcache_register_storage_backends
from lmcache_core.api import BackendContext, StorageBackend
from lmcache_core.keys import Key
from lmcache_core.testing import StorageBackendTests

(SPEC,) = lmcache_register_storage_backends()
CONTEXT = BackendContext(instance_id="kit", tier=SPEC.name)


class DiskTests(StorageBackendTests):
    capabilities = SPEC.capabilities
    direct_io = True
    durability = "none"

    def make(self, path: Path) -> StorageBackend:
        config = LocalDiskConfig(
            path=str(path), direct_io=self.direct_io, durability=self.durability, scrub_rate=0
        )
        return SPEC.load()(config, CONTEXT)

    @pytest.fixture
    def place(self, tmp_path: Path) -> Path:
        return tmp_path

    @pytest.fixture
    def make_backend(self, place: Path) -> Callable[[], StorageBackend]:
        return lambda: self.make(place)

    @pytest.fixture
    def make_bounded_backend(
        self, small_file_system: Callable[[int], Path]
    ) -> Callable[[int], StorageBackend]:
        return lambda nbytes: self.make(small_file_system(nbytes + (64 << 10)))

    @pytest.fixture
    def make_unusable_backend(self, tmp_path: Path) -> Callable[[], StorageBackend]:
        file = tmp_path / "file"
        file.write_text("in the way")
        return lambda: LocalDiskBackend(LocalDiskConfig(path=str(file)), CONTEXT)

    @pytest.fixture
    def file_of(self, place: Path) -> Callable[[Key], Path]:
        return lambda key: place / "kit" / "frames" / key.hex()[:2] / key.hex()

    @pytest.fixture
    def peek(self, file_of: Callable[[Key], Path]) -> Callable[[Key], bytes | None]:
        def look(key: Key) -> bytes | None:
            file = file_of(key)
            return file.read_bytes() if file.exists() else None

        return look

    @pytest.fixture
    def plant(self, file_of: Callable[[Key], Path]) -> Callable[[Key, bytes], None]:
        def write(key: Key, frame: bytes) -> None:
            file_of(key).parent.mkdir(parents=True)
            file_of(key).write_bytes(frame)

        return write


class TestDirect(DiskTests):
    """Past the page cache, where the file system of the tests lets us."""


class TestBuffered(DiskTests):
    """Through the cache and synced, in memory where that can be, as syncs are slow on a disk."""

    direct_io = False
    durability = "always"

    @pytest.fixture
    def place(self) -> Iterator[Path]:
        memory = Path("/dev/shm")
        with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
            yield Path(name)
