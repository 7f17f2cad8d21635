"""The hooks a plugin's entry-point module may implement.

pluggy runs when an engine or a controller is made and never on the data
path. Each registering hook returns specs and does no work; the host asks
each plugin in turn and never through one shared call, so that a broken
plugin is a record and not an abort.
"""

from __future__ import annotations

from collections.abc import Sequence

import pluggy

from lmcache_core.api import (
    ConnectorSpec,
    EvictionPolicySpec,
    MemoryBackendSpec,
    SerdeSpec,
    StorageBackendSpec,
    TransportSpec,
)
from lmcache_core.api.pins import PinReport

hookspec = pluggy.HookspecMarker("lmcache_core")


@hookspec
def lmcache_register_storage_backends() -> Sequence[StorageBackendSpec | MemoryBackendSpec]:  # type: ignore[empty-body]
    """Offer storage and memory backends.

    Called once by the registry when it loads the plugin. Any plugin may
    implement it. The names of the specs become selectable in ``storage``.
    """


@hookspec
def lmcache_register_serdes() -> Sequence[SerdeSpec]:  # type: ignore[empty-body]
    """Offer serdes.

    Called once by the registry when it loads the plugin. Any plugin may
    implement it. The names of the specs become selectable in a tier's
    ``serde``.
    """


@hookspec
def lmcache_register_controller_transports() -> Sequence[TransportSpec]:  # type: ignore[empty-body]
    """Offer controller transports.

    Called once by the registry when it loads the plugin. Any plugin may
    implement it. The scheme of ``controller_url`` selects one.
    """


@hookspec
def lmcache_register_engine_connectors() -> Sequence[ConnectorSpec]:  # type: ignore[empty-body]
    """Offer engine connectors.

    Called once by the registry when it loads the plugin. Any plugin may
    implement it. They are listed; a serving engine instantiates its own.
    """


@hookspec
def lmcache_register_eviction_policies() -> Sequence[EvictionPolicySpec]:  # type: ignore[empty-body]
    """Offer eviction policies.

    Called once by the registry when it loads the plugin. Any plugin may
    implement it. The names of the specs become selectable in ``cache_policy``.
    """


@hookspec
def lmcache_engine_started(instance_id: str) -> None:
    """Note that an engine has started.

    Called by the engine once, after its tiers are open and before its first
    request, on the thread that makes it. The return value is ignored.
    """


@hookspec
def lmcache_engine_stopping(instance_id: str) -> None:
    """Note that an engine is about to stop.

    Called by the engine once, before its tiers close. The return value is
    ignored.
    """


@hookspec
def lmcache_pin_changed(instance_id: str, report: PinReport) -> None:
    """Note that a pin was made, changed or ended.

    Called by the engine's control thread, off the data path. The return
    value is ignored.
    """
