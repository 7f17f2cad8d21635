"""The region as two processes see it, and what is refused in which words."""

from __future__ import annotations

import fcntl
import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from lmcache_backend_local_cpu.backend import LocalCPUBackend
from lmcache_backend_local_cpu.bounds import tightest_bound
from lmcache_backend_local_cpu.config import LocalCPUConfig
from lmcache_backend_local_cpu.memfile import SHM, collect_stale
from lmcache_core.api import BackendContext, Extent, ExtentHandle
from lmcache_core.errors import BackendError

CONTEXT = BackendContext(instance_id="test", tier="LocalCPUBackend")
NBYTES = 3 * mmap.PAGESIZE + 100

OTHER_PROCESS = """
import sys, msgspec
from lmcache_backend_local_cpu.backend import LocalCPUBackend
from lmcache_backend_local_cpu.config import LocalCPUConfig
from lmcache_core.api import BackendContext, ExtentHandle
from lmcache_core.errors import BackendError
backend = LocalCPUBackend(
    LocalCPUConfig(), BackendContext(instance_id="other", tier="LocalCPUBackend")
)
handle = msgspec.json.decode(sys.argv[1], type=ExtentHandle)
try:
    extent = backend.attach(handle)
except BackendError as error:
    sys.exit(str(error))
print(bytes(extent.view(10, 4)).decode(), flush=True)
sys.stdin.readline()
extent.view(handle.nbytes - 4, 4)[:] = b"back"
backend.release(extent)
"""

MAKES_ONE_AND_WAITS = """
import sys, msgspec
from lmcache_backend_local_cpu.backend import LocalCPUBackend
from lmcache_backend_local_cpu.config import LocalCPUConfig
from lmcache_core.api import BackendContext
backend = LocalCPUBackend(
    LocalCPUConfig(shared=sys.argv[1]), BackendContext(instance_id="a", tier="LocalCPUBackend")
)
print(msgspec.json.encode(backend.create(8192).handle).decode(), flush=True)
sys.stdin.readline()
"""


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def python(source: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", source, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def backend(**config: object) -> LocalCPUBackend:
    return LocalCPUBackend(msgspec.convert(config, LocalCPUConfig), CONTEXT)


@pytest.fixture(params=["memfd", "shm", "auto"])
def shared(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def extent(shared: str) -> Iterator[Extent]:
    ours = backend(shared=shared)
    made = ours.create(NBYTES)
    yield made
    ours.release(made)


def test_another_process_reads_and_writes_the_same_bytes(extent: Extent) -> None:
    extent.view(10, 4)[:] = b"over"
    with python(OTHER_PROCESS, msgspec.json.encode(extent.handle).decode()) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "over\n"
        _, errors = other.communicate("\n", timeout=30)
        assert other.returncode == 0, errors
    assert bytes(extent.view(NBYTES - 4, 4)) == b"back"


def test_any_number_of_processes_attach_it_until_its_name_goes(extent: Extent) -> None:
    handle = msgspec.json.encode(extent.handle).decode()
    with python(OTHER_PROCESS, handle) as one, python(OTHER_PROCESS, handle) as two:
        for other in (one, two):
            assert other.stdout is not None
            assert other.stdout.readline() == "\0\0\0\0\n"
        ours = backend()
        last = ours.attach(extent.handle)
        ours.forget_name(last)
        if extent.handle.path is not None:
            assert not Path(extent.handle.path).exists()
            with pytest.raises(BackendError, match="cannot be opened"):
                ours.attach(extent.handle)
        last.view(10, 4)[:] = b"last"
        for other in (one, two):
            _, errors = other.communicate("\n", timeout=30)
            assert other.returncode == 0, errors
        ours.release(last)
    assert bytes(extent.view(10, 4)) == b"last"
    assert bytes(extent.view(NBYTES - 4, 4)) == b"back"


def test_the_attached_bytes_outlive_their_maker(shared: str) -> None:
    ours = backend()
    with python(MAKES_ONE_AND_WAITS, shared) as maker:
        assert maker.stdout is not None
        handle = msgspec.json.decode(maker.stdout.readline(), type=ExtentHandle)
        attached = ours.attach(handle)
        ours.forget_name(attached)
        maker.kill()
        maker.communicate(timeout=30)
    attached.view(8000, 1)[:] = b"x"
    with pytest.raises(BackendError, match=f"the region of process {handle.pid} cannot be opened"):
        ours.attach(handle)
    ours.release(attached)


def test_a_memory_file_cannot_be_resized_under_its_users() -> None:
    ours = backend(shared="memfd")
    made = ours.create(NBYTES)
    assert made.handle.path is None
    for nbytes in (0, NBYTES - 1, NBYTES + 1):
        with pytest.raises(PermissionError):
            os.ftruncate(made.handle.fd, nbytes)
    assert not os.get_inheritable(made.handle.fd)
    ours.release(made)


def test_a_file_in_dev_shm_is_ours_alone_and_goes_at_release() -> None:
    ours = backend(shared="shm")
    made = ours.create(NBYTES)
    assert made.handle.path is not None
    path = Path(made.handle.path)
    assert path.parent == SHM
    assert path.stat().st_mode & 0o7777 == 0o600
    assert path.stat().st_blocks * 512 >= NBYTES, "committed, so that it cannot be lost later"
    ours.release(made)
    ours.release(made)
    assert not path.exists()


def test_files_of_dead_owners_are_collected_and_those_of_living_ones_are_not() -> None:
    with python(MAKES_ONE_AND_WAITS, "shm") as dead, python(MAKES_ONE_AND_WAITS, "shm") as living:
        handles = []
        for maker in (dead, living):
            assert maker.stdout is not None
            handles.append(msgspec.json.decode(maker.stdout.readline(), type=ExtentHandle))
        dead.kill()
        dead.communicate(timeout=30)
        ours = backend(shared="shm")
        made = ours.create(NBYTES)
        assert not Path(str(handles[0].path)).exists()
        assert Path(str(handles[1].path)).exists()
        assert Path(str(made.handle.path)).exists()
        ours.release(made)
        living.kill()
        living.communicate(timeout=30)
    assert collect_stale() >= 1
    assert not Path(str(handles[1].path)).exists()


NOT_DUMPABLE = """
import ctypes, os, msgspec
import lmcache_backend_local_cpu.backend
if os.getuid() == 0:  # root may open everything
    os.setgid(65534)
    os.setuid(65534)
PR_SET_DUMPABLE = 4
ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
"""


@pytest.mark.parametrize("asked", ["auto", "memfd"])
def test_a_process_that_must_not_be_dumped_shares_by_name(asked: str) -> None:
    """The kernel refuses its descriptors to others of the same user."""
    with python(NOT_DUMPABLE + MAKES_ONE_AND_WAITS, asked) as maker:
        assert maker.stdout is not None
        handle = maker.stdout.readline().strip()
        with python(NOT_DUMPABLE + OTHER_PROCESS, handle) as other:
            out, errors = other.communicate("\n", timeout=60)
        maker.communicate("\n", timeout=60)
    if asked == "auto":
        assert other.returncode == 0, errors
        assert out == "\0\0\0\0\n"
        assert "/dev/shm/lmcache-" in handle
    else:
        assert other.returncode == 1
        assert "Permission denied; run both processes as one user, or set `shared: shm`" in errors


def test_a_region_of_another_host_is_refused(extent: Extent) -> None:
    elsewhere = msgspec.structs.replace(extent.handle, boot_id="0000")
    with pytest.raises(BackendError, match=r"on another host .* an instance is one host"):
        backend().attach(elsewhere)


def test_a_region_of_another_size_is_refused(extent: Extent) -> None:
    before = open_descriptors()
    for nbytes in (NBYTES - 1, NBYTES + 1):
        wrong = msgspec.structs.replace(extent.handle, nbytes=nbytes)
        with pytest.raises(BackendError, match=f"has {NBYTES} bytes, and .* region of {nbytes}"):
            backend().attach(wrong)
    assert open_descriptors() == before


def test_a_descriptor_that_was_used_again_is_noticed(tmp_path: Path) -> None:
    ours = backend(shared="memfd")
    made = ours.create(NBYTES)
    handle = made.handle
    ours.release(made)
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(NBYTES))
    taken = []
    while not taken or taken[-1] < handle.fd:
        taken.append(os.open(secret, os.O_RDWR))
    assert handle.fd in taken
    with pytest.raises(BackendError, match="not the region that process"):
        ours.attach(handle)
    for fd in taken:
        os.close(fd)


def test_a_memory_file_that_is_not_sealed_is_refused() -> None:
    fd = os.memfd_create(f"lmcache-{os.getpid()}", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, NBYTES)
    ours = backend()
    made = ours.create(NBYTES)
    with pytest.raises(BackendError, match="not sealed"):
        ours.attach(msgspec.structs.replace(made.handle, fd=fd))
    os.close(fd)
    ours.release(made)


def test_more_than_the_machine_has_is_refused_with_both_numbers() -> None:
    nbytes = 1 << 50
    with pytest.raises(BackendError, match=rf"{nbytes} bytes .*asked for, and \d+ are left \(.*;"):
        backend().create(nbytes)


def test_more_than_dev_shm_has_is_refused_with_both_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A container's is 64 MiB."""
    usage = os.statvfs(SHM)
    free = NBYTES - 1
    small = os.statvfs_result((1, 1, 64 << 20, free, free, *usage[5:]))
    monkeypatch.setattr("os.statvfs", lambda _: small)
    before = set(SHM.iterdir())
    with pytest.raises(BackendError, match=f"{NBYTES} bytes .* /dev/shm has {free} of {64 << 20}"):
        backend(shared="shm").create(NBYTES)
    assert set(SHM.iterdir()) == before


@pytest.mark.parametrize("nbytes", [0, -5])
def test_nothing_is_no_region(nbytes: int) -> None:
    with pytest.raises(BackendError, match="the least is 1"):
        backend().create(nbytes)


def resident_bytes(extent: Extent) -> int:
    return os.fstat(extent.handle.fd).st_blocks * 512


def test_memory_is_committed_as_it_is_used_unless_prefault_says_otherwise() -> None:
    nbytes = 80 << 20  # more than one step
    for prefault, committed in ((False, 0), (True, nbytes)):
        ours = backend(shared="memfd", prefault=prefault)
        made = ours.create(nbytes)
        assert resident_bytes(made) == committed
        ours.release(made)


def test_huge_pages_are_asked_for() -> None:
    ours = backend(shared="memfd", hugepages=True)
    made = ours.create(4 << 20)
    made.view(0, 1)[:] = b"x"
    text = Path("/proc/self/smaps").read_text()
    region = text[text.index(f"\n{made.address:x}-") :]
    flags = next(line for line in region.splitlines() if line.startswith("VmFlags:"))
    assert "hg" in flags.split()
    ours.release(made)


def test_the_tightest_of_machine_and_control_groups_binds(tmp_path: Path) -> None:
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (groups / "pod/app").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal: 999 kB\nMemAvailable: 100 kB\nSwapFree: 20 kB\n")
    assert tightest_bound(proc, groups) == (120 * 1024, "available memory and swap of the machine")

    (proc / "self/cgroup").write_text("1:cpu:/x\n0::/pod/app\n")
    (groups / "pod/app/memory.max").write_text("max\n")
    (groups / "pod/app/memory.current").write_text("5\n")
    bound = tightest_bound(proc, groups)
    assert bound is not None
    assert bound.free_bytes == 120 * 1024

    (groups / "pod/memory.max").write_text("90000\n")
    (groups / "pod/memory.current").write_text("80000\n")
    (groups / "pod/memory.stat").write_text("anon 1\ninactive_file 300\nactive_file 40\nshmem 9\n")
    bound = tightest_bound(proc, groups)
    assert bound is not None
    assert bound.free_bytes == 90000 - 80000 + 340
    assert "memory limit of 90000 bytes" in bound.what
    assert tightest_bound(tmp_path / "nothing", groups) is None


def test_the_lock_of_a_file_says_that_its_owner_lives() -> None:
    ours = backend(shared="shm")
    made = ours.create(NBYTES)
    fd = os.open(str(made.handle.path), os.O_RDWR)
    with pytest.raises(BlockingIOError):
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(fd)
    ours.release(made)
