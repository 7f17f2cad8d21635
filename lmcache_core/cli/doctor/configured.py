"""What an engine and a controller with this configuration would use."""

from __future__ import annotations

import http.client
import os
import socket
from collections.abc import Iterator
from functools import partial
from urllib.parse import urlsplit

from lmcache_core.api import (
    BackendContext,
    Capability,
    MemoryBackendSpec,
    StorageBackendSpec,
)
from lmcache_core.cli.doctor.finding import Finding
from lmcache_core.config import (
    EngineConfig,
    SerdeConfig,
    TierConfig,
    load_engine_config,
    plugin_section,
)
from lmcache_core.config.controller import load_controller_config
from lmcache_core.config.engine import DEFAULT_CONTROLLER_URL, GIB
from lmcache_core.engine.frames.calls import BackendCalls
from lmcache_core.errors import BackendError, ConfigError, LMCacheError
from lmcache_core.memory import HostRegion
from lmcache_core.plugins import PluginRegistry

ANSWER_SECONDS = 1.0
"""How long another process on the network may take to answer."""


def findings() -> Iterator[Finding]:
    """The configuration, its tiers, its memory, its controller; then a controller's ports."""
    try:
        resolved = load_engine_config()
    except ConfigError as error:
        yield Finding("configuration", "wrong", _sentence(error))
    else:
        sources = ", ".join(sorted(set(resolved.origin.values())))
        text = "; ".join([f"from {sources}", *resolved.notices])
        yield Finding("configuration", "note" if resolved.notices else "ok", text)
        yield from _engine(resolved.config)
    yield from _controller_ports()


def _engine(config: EngineConfig) -> Iterator[Finding]:
    try:
        registry = PluginRegistry.discover()
    except LMCacheError:
        return  # said among the plugins
    for number, tier in enumerate(config.tiers):
        what = f"tier {tier.backend}"
        try:
            if number:
                yield _store(config, tier, registry.storage_backend(tier.backend))
            else:
                memory = registry.memory_backend(tier.backend)
                yield Finding(what, "ok", _try_memory(config, memory))
        except LMCacheError as error:
            yield Finding(what, "wrong", _sentence(error))
        for serde in tier.serdes:
            yield _serde(registry, serde, tier.backend)
    if config.enable_controller:
        yield _controller(config.controller_url or DEFAULT_CONTROLLER_URL)


def _store(config: EngineConfig, tier: TierConfig, spec: StorageBackendSpec) -> Finding:
    what = f"tier {tier.backend}"
    section = plugin_section(spec.config, tier.options, f"storage backend {tier.backend}")
    if Capability.SHARED not in spec.capabilities:
        # A store of an engine's own is whose it is that opens it.
        return Finding(what, "ok", spec.summary)
    context = BackendContext(instance_id=config.instance_id, tier=tier.backend)
    calls = BackendCalls(
        tier.backend, partial(spec.load(), section, context), config.storage_timeout_seconds
    )
    try:
        calls.open()
    except BackendError as error:
        outcome = (
            "with on_start_failure: fail an engine's start ends"
            if config.on_start_failure == "fail"
            else "engines serve without it and go on trying meanwhile"
        )
        return Finding(what, "note", f"{_sentence(error)}; {outcome}")
    finally:
        calls.close()
    return Finding(what, "ok", f"{spec.summary}; it can be opened")


def _serde(registry: PluginRegistry, serde: SerdeConfig, tier: str) -> Finding:
    what = f"serde {serde.name} of tier {tier}"
    try:
        spec = registry.serde(serde.name)
        plugin_section(spec.config, serde.options, f"serde {serde.name}")
    except LMCacheError as error:
        return Finding(what, "wrong", _sentence(error))
    return Finding(what, "ok", spec.summary)


def _try_memory(config: EngineConfig, spec: MemoryBackendSpec) -> str:
    """Ask for the region as a worker would, and give it back.

    Raises:
        LMCacheError: It cannot be had.
    """
    tier = config.memory_tier
    nbytes = (tier.capacity_bytes or 0) + config.staging_bytes
    context = BackendContext(instance_id=config.instance_id, tier=tier.backend)
    with HostRegion.create(spec, tier.options, context, nbytes):
        return f"{nbytes / GIB:.2f} GiB of shared memory can be had"


def _controller(url: str) -> Finding:
    parts = urlsplit(url)
    try:
        socket.create_connection((parts.hostname, parts.port), ANSWER_SECONDS).close()
    except OSError as error:
        return Finding(
            "controller",
            "note",
            f"nothing listens at {url} ({error}); start `lmcache controller serve` there; "
            "engines go on trying meanwhile",
        )
    return Finding("controller", "ok", f"something listens at {url}")


def _controller_ports() -> Iterator[Finding]:
    """Whether a controller could start here, or has."""
    try:
        config = load_controller_config(file=None, environ=os.environ, flags={})
    except ConfigError as error:
        yield Finding("controller configuration", "wrong", _sentence(error))
        return
    for what, host, port, flag in (
        ("controller port", config.host, config.port, "--port"),
        ("monitor port", config.monitor_name, config.monitor_port, "--monitor-port"),
    ):
        if not _in_use(host, port):
            yield Finding(what, "ok", f"{host}:{port} is free")
        elif _is_controller(config.host, config.port):
            yield Finding(what, "ok", f"a controller serves at {host}:{port}")
        else:
            text = (
                f"{host}:{port} is taken by another program; give a controller here another {flag}"
            )
            yield Finding(what, "note", text)


def _in_use(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), ANSWER_SECONDS).close()
    except OSError:
        return False
    return True


def _is_controller(host: str, port: int) -> bool:
    connection = http.client.HTTPConnection(host, port, timeout=ANSWER_SECONDS)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _sentence(error: LMCacheError) -> str:
    return " ".join(str(error).split())
