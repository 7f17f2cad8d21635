"""Putting a storage tier together from its configuration and the installed plugins."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial

from lmcache_core.api import EvictionPolicy, KVSpec
from lmcache_core.config import EngineConfig, SerdeConfig, TierConfig, plugin_section
from lmcache_core.engine.chunks.geometry import Geometry
from lmcache_core.engine.chunks.hit_rule import HitRule
from lmcache_core.engine.chunks.residents import Residents
from lmcache_core.engine.frames.decoder import Decoder
from lmcache_core.engine.frames.encoded import EncodedFrames
from lmcache_core.engine.frames.form import FrameForm
from lmcache_core.engine.frames.frame import FrameSeal
from lmcache_core.engine.frames.raw import RawFrames
from lmcache_core.engine.frames.serde_chain import Link
from lmcache_core.engine.frames.serde_shelf import SerdeShelf
from lmcache_core.engine.storage.frame_book import FrameBook
from lmcache_core.engine.storage.host import TierHost
from lmcache_core.engine.storage.tier import READERS, StorageTier
from lmcache_core.keys import Namespace
from lmcache_core.plugins import PluginRegistry


class TierStarter:
    """Makes the storage tiers of one engine.

    Args:
        config: The instance's configuration.
        registry: The installed plugins.
        namespace: What the engine's keys are seeded with.
        geometry: Its blocks.
        rule: Where a hit may end; None where it may end anywhere.
        seal: Writes and verifies frame headers.
        lock: The engine's lock.
    """

    def __init__(
        self,
        config: EngineConfig,
        registry: PluginRegistry,
        *,
        namespace: Namespace,
        geometry: Geometry,
        rule: HitRule | None,
        seal: FrameSeal,
        lock: threading.RLock,
    ) -> None:
        self._config = config
        self._registry = registry
        self._namespace = namespace
        self._geometry = geometry
        self._rule = rule
        self._seal = seal
        self._lock = lock

    def make(self, tier: TierConfig, policy: EvictionPolicy) -> StorageTier:
        """Make one tier, not opened yet.

        Args:
            tier: Its configuration.
            policy: Its eviction order.

        Raises:
            ConfigError: Its backend is none of storage, its section, or that
                of a serde, is wrong, or a serde refuses the engine's payloads.
            UnknownNameError: The backend or a serde is not installed.
            PluginError: A plugin that is named is broken.
        """
        spec = self._registry.storage_backend(tier.backend)
        section = plugin_section(spec.config, tier.options, f"storage backend {spec.name}")
        host = TierHost(self._config.instance_id, spec.name)
        residents = Residents(tier.capacity_bytes or 0, policy)
        form = self._form(tier.serdes)
        return StorageTier(
            spec.name,
            partial(spec.load(), section, host.context),
            residents,
            seal=self._seal,
            form=form,
            book=FrameBook(
                self._geometry,
                self._namespace.chunk_size,
                self._rule,
                residents,
                encoded=form.encoded,
            ),
            lock=self._lock,
            call_seconds=self._config.storage_timeout_seconds,
            capabilities=spec.capabilities,
            rules=tier.rules,
            host=host,
        )

    def _form(self, serdes: Sequence[SerdeConfig]) -> FrameForm:
        namespace = self._namespace
        spec = KVSpec(dtype=namespace.dtype, layout=namespace.layout, groups=self._geometry.groups)
        shelf = SerdeShelf(
            [self._link(serde) for serde in serdes],
            lambda name: self._link(SerdeConfig(name)),
            spec,
        )
        decoder = Decoder(self._seal, shelf, self._geometry.frame_bytes(namespace.chunk_size))
        readers = READERS + 1  # The thread that writes reads what it is about to evict.
        if serdes:
            return EncodedFrames(decoder, readers=readers)
        return RawFrames(self._seal, decoder, readers=readers)

    def _link(self, serde: SerdeConfig) -> Link:
        spec = self._registry.serde(serde.name)
        section = plugin_section(spec.config, serde.options, f"serde {spec.name}")
        return Link(spec.name, spec.load()(section), spec.authenticates)
