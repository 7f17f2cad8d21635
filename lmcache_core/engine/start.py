"""Putting an engine together from its configuration and the installed plugins."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from lmcache_core.api.connector import KVGroup
from lmcache_core.api.deprecation import warn_of_inherited
from lmcache_core.api.pins import PinReport
from lmcache_core.config import EngineConfig
from lmcache_core.engine.cache.engine import CacheEngine
from lmcache_core.engine.chunks.geometry import Geometry, check_chunk
from lmcache_core.engine.chunks.hit_rule import HitRule
from lmcache_core.engine.control.agent import ControlAgent
from lmcache_core.engine.control.pin_expiry import PinExpiry
from lmcache_core.engine.control.request_pins import RequestPins
from lmcache_core.engine.frames.frame import FrameSeal
from lmcache_core.engine.storage.start import TierStarter
from lmcache_core.engine.tiers.stack import TierStack
from lmcache_core.keys import Namespace
from lmcache_core.log import get_logger
from lmcache_core.memory import HostRegion
from lmcache_core.plugins import PluginRegistry

log = get_logger(__name__)


def start(
    *,
    config: EngineConfig,
    namespace: Namespace,
    region: HostRegion,
    groups: Sequence[KVGroup],
    registry: PluginRegistry,
) -> CacheEngine:
    """Make an engine with opened tiers and, where one is asked for, a control link.

    Args:
        config: The instance's configuration.
        namespace: What its keys are seeded with.
        region: The shared region, attached in this process; the caller closes
            it after the engine.
        groups: The serving engine's KV groups, in the order of the block
            tables that it will hand over.
        registry: The installed plugins.

    Returns:
        The engine; the caller closes it.

    Raises:
        ConfigError: A tier's section or the controller's address is wrong, or
            the chunk does not fit the groups' blocks.
        UnknownNameError: A backend, policy or transport is not installed.
        PluginError: A plugin that is named is broken.
        BackendError: A store cannot be used, and ``on_start_failure`` forbids
            to serve without it.
    """
    lock = threading.RLock()
    geometry = Geometry(groups)
    check_chunk(geometry, namespace.chunk_size)
    rule = HitRule(groups, namespace.chunk_size) if geometry.windowed else None
    seal = FrameSeal(namespace.digest(), geometry)
    policy = registry.eviction_policy(config.cache_policy)
    make_policy = policy.load()
    memory_policy = make_policy(policy.config())
    warn_of_inherited(memory_policy)
    starter = TierStarter(
        config,
        registry,
        namespace=namespace,
        geometry=geometry,
        rule=rule,
        seal=seal,
        lock=lock,
    )
    memory = config.memory_tier
    with ExitStack() as on_failure:
        storage = []
        for tier in config.storage_tiers:
            storage.append(starter.make(tier, make_policy(policy.config())))
            on_failure.callback(storage[-1].close)
        tiers = TierStack(
            namespace=namespace,
            geometry=geometry,
            rule=rule,
            region=region,
            memory_name=memory.backend,
            capacity_bytes=memory.capacity_bytes or 0,
            staging_bytes=config.staging_bytes,
            policy=memory_policy,
            storage=storage,
            seal=seal,
            lock=lock,
            pin_share=config.pin_share,
            pin_owner_quota_bytes=config.pin_owner_quota_bytes,
            pin_quotas=_pin_quotas(config),
        )
        tiers.open(leave_out=config.on_start_failure == "serve")
        engine = CacheEngine(
            tiers,
            job_timeout_seconds=config.job_timeout_seconds,
            promotion_timeout_seconds=config.promotion_timeout_seconds,
            stranded_limit_bytes=config.staging_bytes,
        )
        if config.enable_controller and config.controller_url:
            _start_agent(engine, config, config.controller_url, registry)
        elif tiers.keeping.keeps:
            expiry = PinExpiry(tiers)
            expiry.start()
            engine.on_close.append(expiry.close)
        on_failure.pop_all()
    _notify(registry, "lmcache_engine_started", instance_id=config.instance_id)
    engine.on_close.append(
        lambda: _notify(registry, "lmcache_engine_stopping", instance_id=config.instance_id)
    )
    log.info("engine.started", instance_id=config.instance_id, tiers=tiers.locations)
    return engine


def _start_agent(
    engine: CacheEngine, config: EngineConfig, address: str, registry: PluginRegistry
) -> None:
    transport = registry.transport(address)
    link = transport.load()(transport.config()).dial(address)
    request_pins = None
    if config.request_pin_owner is not None and config.request_pin_max_ttl_seconds is not None:
        request_pins = RequestPins(
            engine,
            instance_id=config.instance_id,
            owner=config.request_pin_owner,
            max_ttl_seconds=config.request_pin_max_ttl_seconds,
            wake=link.wake,
        )
        engine.ask_pin = request_pins.ask
    agent = ControlAgent(
        engine,
        link,
        instance_id=config.instance_id,
        heartbeat_seconds=config.heartbeat_seconds,
        serving_url=config.serving_url,
        request_pins=request_pins,
        pin_changed=_pin_changed(config, registry),
    )
    agent.start()
    engine.on_close.append(agent.close)


def _pin_quotas(config: EngineConfig) -> dict[str, int]:
    owner, quota = config.request_pin_owner, config.request_pin_quota_bytes
    return {} if owner is None or quota is None else {owner: quota}


def _pin_changed(config: EngineConfig, registry: PluginRegistry) -> Callable[[PinReport], None]:
    if not registry.hook.lmcache_pin_changed.get_hookimpls():
        return lambda _report: None  # Nobody listens, and a hook call costs as much as a pin.
    return lambda report: _notify(
        registry, "lmcache_pin_changed", instance_id=config.instance_id, report=report
    )


def _notify(registry: PluginRegistry, hook: str, **facts: object) -> None:
    """Tell plugins; what one of them does wrong then is its own affair."""
    try:
        getattr(registry.hook, hook)(**facts)
    except Exception:
        log.exception("plugin.notification_failed", hook=hook)
