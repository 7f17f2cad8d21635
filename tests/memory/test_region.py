"""The region of an instance, made and attached through a real memory backend."""

from __future__ import annotations

from ctypes import c_char
from pathlib import Path

import pytest

from lmcache_core.api import BackendContext, MemoryBackendSpec
from lmcache_core.errors import BackendError, ConfigError, LMCacheError
from lmcache_core.memory import HostRegion
from lmcache_core.plugins import PluginRegistry

CONTEXT = BackendContext(instance_id="test", tier="LocalCPUBackend")
NBYTES = 1 << 16


@pytest.fixture(scope="module")
def spec() -> MemoryBackendSpec:
    found = PluginRegistry.discover({}).backend("LocalCPUBackend")
    assert isinstance(found, MemoryBackendSpec)
    return found


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def mapped() -> int:
    return Path("/proc/self/maps").read_text().count("/memfd:lmcache-")


def test_both_ends_see_the_same_bytes(spec: MemoryBackendSpec) -> None:
    with (
        HostRegion.create(spec, {}, CONTEXT, NBYTES) as made,
        HostRegion.attach(spec, {}, CONTEXT, made.extent.handle) as attached,
    ):
        assert made.nbytes == attached.nbytes == NBYTES
        assert made.address != attached.address
        assert bytes(made.view(0, NBYTES)) == bytes(NBYTES)
        made.view(100, 5)[:] = b"hello"
        assert bytes(attached.view(100, 5)) == b"hello"
        attached.view(NBYTES - 3, 3)[:] = b"end"
        assert bytes(made.view(NBYTES - 3, 3)) == b"end"
        assert (c_char * 5).from_address(made.address + 100).raw == b"hello"


def test_nothing_is_left_of_a_closed_region(spec: MemoryBackendSpec) -> None:
    before = open_descriptors(), mapped()
    made = HostRegion.create(spec, {}, CONTEXT, NBYTES)
    attached = HostRegion.attach(spec, {}, CONTEXT, made.extent.handle)
    assert open_descriptors() > before[0]
    assert mapped() == before[1] + 2
    for region in (attached, made, made):
        region.close()
    assert (open_descriptors(), mapped()) == before
    with pytest.raises(LMCacheError, match="closed"):
        made.view(0, 1)


def test_all_attach_before_the_name_goes(spec: MemoryBackendSpec) -> None:
    with HostRegion.create(spec, {"shared": "shm"}, CONTEXT, NBYTES) as made:
        handle = made.extent.handle
        with (
            HostRegion.attach(spec, {}, CONTEXT, handle) as one,
            HostRegion.attach(spec, {}, CONTEXT, handle) as last,
        ):
            last.forget_name()
            one.view(0, 3)[:] = b"all"
            assert bytes(last.view(0, 3)) == bytes(made.view(0, 3)) == b"all"
            with pytest.raises(BackendError):
                HostRegion.attach(spec, {}, CONTEXT, handle)


def test_a_view_outlives_the_region(spec: MemoryBackendSpec) -> None:
    """A storage call may still read when the engine closes."""
    before = mapped()
    region = HostRegion.create(spec, {}, CONTEXT, NBYTES)
    view = region.view(0, 4)
    region.close()
    view[:] = b"safe"
    assert bytes(view) == b"safe"
    assert mapped() == before + 1
    view.release()
    del view
    assert mapped() == before


@pytest.mark.parametrize(("offset", "nbytes"), [(-1, 1), (0, NBYTES + 1), (NBYTES, 1), (8, -1)])
def test_a_view_stays_inside(spec: MemoryBackendSpec, offset: int, nbytes: int) -> None:
    with (
        HostRegion.create(spec, {}, CONTEXT, NBYTES) as region,
        pytest.raises(LMCacheError, match=f"extent of {NBYTES} bytes"),
    ):
        region.view(offset, nbytes)


def test_a_released_region_cannot_be_attached(spec: MemoryBackendSpec) -> None:
    region = HostRegion.create(spec, {}, CONTEXT, NBYTES)
    handle = region.extent.handle
    region.close()
    with pytest.raises(BackendError, match="has ended, has released the region"):
        HostRegion.attach(spec, {}, CONTEXT, handle)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"huge_pages": True}, "memory backend LocalCPUBackend has no key 'huge_pages'.*hugepages"),
        ({"shared": "disk"}, "memory backend LocalCPUBackend, key 'shared'"),
    ],
)
def test_options_are_the_backends_own(
    spec: MemoryBackendSpec, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        HostRegion.create(spec, options, CONTEXT, NBYTES)
