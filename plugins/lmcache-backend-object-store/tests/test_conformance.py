"""The promises of the contract, over a real S3 server and over a folder."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lmcache_backend_object_store.backend import ObjectStoreBackend
from lmcache_backend_object_store.config import ObjectStoreConfig
from lmcache_backend_object_store.plugin import lmcache_register_storage_backends
from lmcache_core.api import BackendContext, StorageBackend
from lmcache_core.keys import Key
from lmcache_core.testing import StorageBackendTests

(SPEC,) = lmcache_register_storage_backends()
CONTEXT = BackendContext(instance_id="kit", tier=SPEC.name)


class ObjectStoreTests(StorageBackendTests):
    capabilities = SPEC.capabilities

    @pytest.fixture
    def make_backend(self, place: Any) -> Callable[[], StorageBackend]:
        return place.make

    @pytest.fixture
    def peek(self, place: Any) -> Callable[[Key], bytes | None]:
        return place.peek

    @pytest.fixture
    def plant(self, place: Any) -> Callable[[Key, bytes], None]:
        return place.plant


class TestS3(ObjectStoreTests):
    @pytest.fixture
    def place(self, s3: Any) -> Any:
        return s3

    @pytest.fixture
    def make_unusable_backend(self, s3: Any) -> Callable[[], StorageBackend]:
        return lambda: s3.make(url="s3://no-such-bucket/kv")


class TestFolder(ObjectStoreTests):
    @pytest.fixture
    def place(self, folder: Any) -> Any:
        return folder

    @pytest.fixture
    def make_unusable_backend(self, tmp_path: Path) -> Callable[[], StorageBackend]:
        file = tmp_path / "file"
        file.write_text("in the way")
        return lambda: ObjectStoreBackend(ObjectStoreConfig(url=file.as_uri()), CONTEXT)

    @pytest.fixture
    def make_bounded_backend(self, tmp_path: Path) -> Iterator[Callable[[int], StorageBackend]]:
        mounted: list[Path] = []

        def make(nbytes: int) -> StorageBackend:
            path = tmp_path / f"small{len(mounted)}"
            path.mkdir()
            size = f"size={nbytes + (64 << 10)},mode=700"
            command = ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(path)]
            if subprocess.run(command, check=False, capture_output=True, timeout=30).returncode:
                pytest.skip("no file system may be mounted here")
            mounted.append(path)
            return ObjectStoreBackend(ObjectStoreConfig(url=path.as_uri()), CONTEXT)

        yield make
        for path in mounted:
            subprocess.run(["umount", "--lazy", str(path)], check=True, timeout=30)
