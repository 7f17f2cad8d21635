"""A backend over real files, and a look at them behind its back."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from lmcache_backend_local_disk.backend import LocalDiskBackend
from lmcache_backend_local_disk.calls import SYSTEM, SystemCalls
from lmcache_backend_local_disk.config import LocalDiskConfig
from lmcache_core.api import BackendContext, Deadline, PutStatus
from lmcache_core.api.host import KeyEvents, MetricSink
from lmcache_core.keys import Key
from lmcache_core.testing.material import aligned_buffer, sample_frame, sample_key

PAGE = 4096


class Metrics(MetricSink):
    """Keeps the numbers of all backends of a disk.

    Attributes:
        totals: What was counted, by name.
        gauges: What was told last, by name.
    """

    def __init__(self) -> None:
        self.totals: Counter[str] = Counter()
        self.gauges: dict[str, int] = {}

    def count(self, name: str, amount: int = 1) -> None:
        self.totals[name] += amount

    def gauge(self, name: str, value: int) -> None:
        self.gauges[name] = value

    def observe(self, name: str, seconds: float) -> None:
        raise NotImplementedError


class Events(KeyEvents):
    """Keeps what has come and gone."""

    def __init__(self) -> None:
        self.have_come: list[tuple[Key, int]] = []
        self.have_gone: list[Key] = []

    def came(self, frames: Sequence[tuple[Key, int]]) -> None:
        self.have_come += frames

    def gone(self, keys: Sequence[Key]) -> None:
        self.have_gone += keys


class Disk:
    """One engine's backend, and the folder it keeps.

    Attributes:
        path: The configured folder, the first where there are several.
        backend: The backend, open.
    """

    def __init__(self, *paths: Path, calls: SystemCalls = SYSTEM, **options: Any) -> None:
        self.path = paths[0]
        self.calls = calls
        self.metrics, self.events = Metrics(), Events()
        given = [str(path) for path in paths]
        self._options = {"path": given if len(given) > 1 else given[0], "scrub_rate": 0, **options}
        self.backend = self.make()
        self.backend.open()

    @property
    def root(self) -> Path:
        """The instance's own folder."""
        return self.path / "one"

    def make(self) -> LocalDiskBackend:
        context = BackendContext(
            instance_id="one", tier="LocalDiskBackend", metrics=self.metrics, events=self.events
        )
        return LocalDiskBackend(LocalDiskConfig(**self._options), context, self.calls)

    def reopen(self) -> None:
        self.backend.close()
        self.backend = self.make()
        self.backend.open()

    def close(self) -> None:
        self.backend.close()

    def put(self, number: int, nbytes: int = 2 * PAGE) -> PutStatus:
        frame = sample_frame(number, nbytes)
        return self.backend.put([sample_key(number)], [frame], Deadline(30))[0]

    def get(self, number: int, nbytes: int = 2 * PAGE) -> bytes | None:
        buffer = aligned_buffer(nbytes)
        length = self.backend.get([sample_key(number)], [buffer], Deadline(30))[0]
        return None if length is None else bytes(buffer[:length])

    def stat(self, number: int) -> int | None:
        return self.backend.stat([sample_key(number)], Deadline(30))[0]

    def remove(self, number: int) -> bool:
        return self.backend.remove([sample_key(number)], Deadline(30))[0]

    def quarantine(self, number: int, reason: str = "it smells") -> bool:
        return self.backend.quarantine([sample_key(number)], [reason], Deadline(30))[0]

    def file(self, number: int) -> Path:
        return self.file_of(sample_key(number))

    def file_of(self, key: Key) -> Path:
        return self.root / "frames" / key.hex()[:2] / key.hex()

    def files(self) -> dict[str, int]:
        """Names and lengths of what is in the shards."""
        return {file.name: file.lstat().st_size for file in self.root.glob("frames/*/*")}

    def aside(self) -> list[str]:
        return [file.name for file in (self.root / "aside").iterdir()]

    def quarantined(self) -> dict[str, str]:
        """Reasons by the name that the file had."""
        return {
            file.name.partition("-")[2]: file.with_name(f"{file.name}.reason").read_text().strip()
            for file in (self.root / "quarantine").iterdir()
            if not file.name.endswith(".reason")
        }

    def assert_exact(self) -> None:
        """What the backend says it holds is what the files take."""
        self.assert_usage_exact()
        assert self.aside() == []

    def assert_usage_exact(self) -> None:
        files = self.files()
        assert self.backend.usage() == (sum(files.values()), len(files))


@pytest.fixture
def make_disk(tmp_path: Path) -> Iterator[Callable[..., Disk]]:
    """Make disks; the kit closes them."""
    with ExitStack() as stack:

        def make(*paths: Path, **options: Any) -> Disk:
            disk = Disk(*(paths or (tmp_path,)), **options)
            stack.callback(disk.close)
            return disk

        yield make


@pytest.fixture
def disk(make_disk: Callable[..., Disk]) -> Disk:
    return make_disk()


@pytest.fixture
def small_file_system(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mount file systems of a few pages, where this user may."""
    mounted: list[Path] = []

    def mount(nbytes: int) -> Path:
        place = tmp_path / f"small{len(mounted)}"
        place.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={nbytes},mode=700", "tmpfs", str(place)]
        if subprocess.run(command, check=False, capture_output=True, timeout=30).returncode:
            pytest.skip("no file system may be mounted here")
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", "--lazy", str(place)], check=True, timeout=30)
