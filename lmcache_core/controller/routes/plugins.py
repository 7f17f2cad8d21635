"""``/plugins``: what is installed and what became of it."""

from __future__ import annotations

import msgspec
from litestar import Controller, get

from lmcache_core.api import PLUGIN_API
from lmcache_core.controller.plane import ControlPlane
from lmcache_core.controller.problems import responses
from lmcache_core.plugins import Offer, list_plugins


class PluginList(msgspec.Struct, frozen=True):
    """All that plugins offer, as ``lmcache plugins --json`` has it, and this core's interface.

    Attributes:
        plugin_api: The interface version of this core.
        plugins: One entry for each thing offered, and for each plugin that
            offers none.
    """

    plugin_api: str
    plugins: list[Offer]


class PluginRoutes(Controller):
    """The plugins of this controller's environment."""

    tags = ("plugins",)

    @get("/plugins", sync_to_thread=False, responses=responses())
    def plugins(self, plane: ControlPlane) -> PluginList:
        """List every plugin that was found, loaded or not."""
        return PluginList(str(PLUGIN_API), list_plugins(plane.registry))
