"""Whether the native page movers are there, and why not."""

from __future__ import annotations

import functools
from types import ModuleType

import msgspec

REBUILD_HINT = (
    "the pure-Python copies are used; install a C++20 compiler and reinstall lmcache-core "
    "(`pip install --force-reinstall --no-binary lmcache-core lmcache-core`) to have it"
)


class NativeStatus(msgspec.Struct, frozen=True):
    """What ``lmcache doctor`` says of the native library.

    Attributes:
        available: Whether it is loaded.
        detail: What it can do, or why it is not there and what to do.
    """

    available: bool
    detail: str


@functools.cache
def load_native() -> tuple[ModuleType | None, NativeStatus]:
    """Load the library at first use; programs that move no page never do."""
    try:
        from lmcache_core.memory import _native  # noqa: PLC0415 - see above
    except ImportError as error:
        return None, NativeStatus(available=False, detail=f"{error}; {REBUILD_HINT}")
    cuda = "with" if _native.WITH_CUDA else "without"
    detail = f"{_native.copy_isa()} copies, {cuda} CUDA"
    return _native, NativeStatus(available=True, detail=detail)


def native_available() -> bool:
    """Whether pages are moved by the native library."""
    return native_status().available


def native_status() -> NativeStatus:
    """Whether the native library is loaded, and what there is to say of it."""
    return load_native()[1]
