"""``/plugins``: what is installed and what became of it."""

from __future__ import annotations

import msgspec
from litestar import Controller, get

from lmcache_core.api import PLUGIN_API, PluginSpec, StorageBackendSpec
from lmcache_core.controller.plane import ControlPlane
from lmcache_core.plugins import PluginRecord


class Offer(msgspec.Struct, frozen=True):
    """One thing a plugin offers."""

    kind: str
    name: str
    summary: str
    capabilities: list[str]
    config_keys: list[str]


class PluginView(msgspec.Struct, frozen=True):
    """One plugin."""

    name: str
    module: str
    distribution: str
    version: str
    api: str | None
    status: str
    reason: str
    offers: list[Offer]


class PluginList(msgspec.Struct, frozen=True):
    """All plugins, and the interface version of this core."""

    plugin_api: str
    plugins: list[PluginView]


class PluginRoutes(Controller):
    """The plugins of this controller's environment."""

    tags = ("plugins",)

    @get("/plugins", sync_to_thread=False)
    def plugins(self, plane: ControlPlane) -> PluginList:
        """List every plugin that was found, loaded or not."""
        return PluginList(str(PLUGIN_API), [_view(record) for record in plane.registry.records])


def _view(record: PluginRecord) -> PluginView:
    return PluginView(
        name=record.name,
        module=record.module,
        distribution=record.distribution,
        version=record.version,
        api=record.api,
        status=record.status.value,
        reason=record.reason,
        offers=[_offer(spec) for spec in record.specs],
    )


def _offer(spec: PluginSpec[object]) -> Offer:
    flags = spec.capabilities if isinstance(spec, StorageBackendSpec) else ()
    return Offer(
        kind=spec.kind,
        name=spec.name,
        summary=spec.summary,
        capabilities=[flag.name.lower() for flag in flags if flag.name],
        config_keys=[field.encode_name for field in msgspec.structs.fields(spec.config)],
    )
