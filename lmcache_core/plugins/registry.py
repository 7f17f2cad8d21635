"""The plugin registry: every outcome a record, selection by name."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from email import message_from_string
from importlib.metadata import Distribution, EntryPoint, entry_points
from inspect import isfunction
from types import ModuleType
from typing import Any, TypeVar

import pluggy

from lmcache_core.api import (
    PLUGIN_API,
    ApiVersion,
    EvictionPolicySpec,
    MemoryBackendSpec,
    PluginSpec,
    SerdeSpec,
    StorageBackendSpec,
    TransportSpec,
)
from lmcache_core.errors import ConfigError, PluginError, UnknownNameError
from lmcache_core.log import get_logger
from lmcache_core.plugins import hookspecs
from lmcache_core.plugins.record import PluginRecord, PluginStatus
from lmcache_core.plugins.trace import VARIABLE as TRACE_VARIABLE
from lmcache_core.plugins.trace import PluginTrace

log = get_logger(__name__)

PROJECT = "lmcache_core"
"""pluggy's project name, the marker and the entry-point group, in one string."""

REGISTERING_HOOKS = (
    "lmcache_register_storage_backends",
    "lmcache_register_serdes",
    "lmcache_register_controller_transports",
    "lmcache_register_engine_connectors",
    "lmcache_register_eviction_policies",
)

HOOK_PREFIX = "lmcache_"

INSTALL_HINTS = {
    "LocalCPUBackend": "lmcache-backend-local-cpu",
    "LocalDiskBackend": "lmcache-backend-local-disk",
    **dict.fromkeys(("LRU", "MRU", "FIFO", "LFU", "S3-FIFO"), "lmcache-eviction-policies"),
    "redis": "lmcache-backend-redis",
    "object-store": "lmcache-backend-object-store",
    "tcp": "lmcache-transport-zmq",
    "zstd": "lmcache-serde-zstd",
    "aesgcm": "lmcache-serde-aesgcm",
}
"""Which distribution brings a well-known name; for messages and nothing else."""

SpecT = TypeVar("SpecT", bound=PluginSpec[Any])


class PluginRegistry:
    """Loads plugins one by one and answers for what they offer.

    pluggy's own ``load_setuptools_entrypoints`` is not used: one plugin that
    fails to import ends the host there, and a second plugin of the same name
    is dropped in silence.

    Args:
        points: Entry points to load, in order.
        blocked: Names of plugins to leave out.
        strict: Whether any broken plugin is fatal, used or not.
        trace: Logs what is asked of plugins; None for nobody.

    Raises:
        PluginError: ``strict`` is set and a plugin is broken.
    """

    def __init__(
        self,
        points: Iterable[EntryPoint],
        *,
        blocked: Iterable[str] = (),
        strict: bool = False,
        trace: PluginTrace | None = None,
    ) -> None:
        self._trace = trace
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self._blocked = frozenset(blocked)
        self._specs: dict[tuple[str, str], PluginSpec[Any]] = {}
        self._records: list[PluginRecord] = []
        for point in points:
            began = time.perf_counter()
            record = self._load(point)
            self._records.append(record)
            if trace is not None:
                trace.found(record, time.perf_counter() - began)
            if record.status in (PluginStatus.LOADED, PluginStatus.BLOCKED):
                continue
            if strict:
                raise PluginError(record.name, f"{record.status.value}: {record.reason}")
            log.warning(
                "plugin.not_loaded",
                plugin=record.name,
                status=record.status.value,
                reason=record.reason,
            )

    @classmethod
    def discover(cls, environ: Mapping[str, str] | None = None) -> PluginRegistry:
        """Load every plugin that is installed.

        Args:
            environ: Where ``LMCACHE_PLUGINS_BLOCKED`` (names, by comma),
                ``LMCACHE_PLUGINS_STRICT`` and ``LMCACHE_TRACE_PLUGINS`` (``1``)
                are read; the process's own by default.

        Raises:
            PluginError: Strictness is asked for and a plugin is broken.
        """
        env = os.environ if environ is None else environ
        found = sorted(entry_points(group=PROJECT), key=lambda point: (point.name, point.value))
        names = env.get("LMCACHE_PLUGINS_BLOCKED", "").split(",")
        return cls(
            found,
            blocked=[name.strip() for name in names if name.strip()],
            strict=env.get("LMCACHE_PLUGINS_STRICT") == "1",
            trace=PluginTrace() if env.get(TRACE_VARIABLE) == "1" else None,
        )

    def offer(self, spec: PluginSpec[Any]) -> None:
        """Take in a spec that the host program brings itself, without a distribution.

        Raises:
            PluginError: An installed plugin offers one of that kind and name.
        """
        if (spec.kind, spec.name) in self._specs:
            raise PluginError(spec.name, f"another plugin offers a {spec.kind} of this name")
        self._specs[spec.kind, spec.name] = spec

    @property
    def records(self) -> tuple[PluginRecord, ...]:
        """What became of each plugin, in the order of loading."""
        return tuple(self._records)

    @property
    def hook(self) -> pluggy.HookRelay:
        """The notifications; never called on the data path."""
        return self._manager.hook

    def specs(self, kind: type[SpecT]) -> list[SpecT]:
        """All specs of a kind, by name."""
        return [spec for _, spec in sorted(self._specs.items()) if isinstance(spec, kind)]

    def backend(self, name: str) -> StorageBackendSpec | MemoryBackendSpec:
        """The storage or memory backend called ``name``.

        Raises:
            PluginError: The plugin that offers it, by its record, is broken.
            UnknownNameError: No plugin offers it.
        """
        for kind in (MemoryBackendSpec, StorageBackendSpec):
            spec = self._specs.get((kind.kind, name))
            if isinstance(spec, kind):
                return spec
        known = [spec.name for spec in self.specs(MemoryBackendSpec)]
        known += [spec.name for spec in self.specs(StorageBackendSpec)]
        raise self._unknown("backend", name, known)

    def memory_backend(self, name: str) -> MemoryBackendSpec:
        """The memory backend called ``name``, for the first tier.

        Raises:
            ConfigError: It is a storage backend.
            PluginError: The plugin that offers it, by its record, is broken.
            UnknownNameError: No plugin offers it.
        """
        spec = self.backend(name)
        if isinstance(spec, MemoryBackendSpec):
            return spec
        message = (
            f"the first tier is {name}, a {spec.kind}; the first tier has to be a memory backend, "
            "for example LocalCPUBackend"
        )
        raise ConfigError(message, key="storage")

    def storage_backend(self, name: str) -> StorageBackendSpec:
        """The storage backend called ``name``, for a tier below the first.

        Raises:
            ConfigError: It is a memory backend.
            PluginError: The plugin that offers it, by its record, is broken.
            UnknownNameError: No plugin offers it.
        """
        spec = self.backend(name)
        if isinstance(spec, StorageBackendSpec):
            return spec
        message = f"{name} is a {spec.kind}; below the first tier a storage backend goes"
        raise ConfigError(message, key="storage")

    def serde(self, name: str) -> SerdeSpec:
        """The serde called ``name``.

        Raises:
            PluginError: The plugin that offers it, by its record, is broken.
            UnknownNameError: No plugin offers it.
        """
        spec = self._specs.get((SerdeSpec.kind, name))
        if isinstance(spec, SerdeSpec):
            return spec
        raise self._unknown("serde", name, [spec.name for spec in self.specs(SerdeSpec)])

    def eviction_policy(self, name: str) -> EvictionPolicySpec:
        """The eviction policy called ``name``, in any case.

        Raises:
            UnknownNameError: No plugin offers it.
        """
        specs = self.specs(EvictionPolicySpec)
        for spec in specs:
            if spec.name.lower() == name.lower():
                return spec
        raise self._unknown("eviction policy", name, [spec.name for spec in specs])

    def transport(self, address: str) -> TransportSpec:
        """The transport that serves the scheme of an address.

        Raises:
            UnknownNameError: No plugin serves it.
        """
        scheme = address.partition("://")[0]
        specs = self.specs(TransportSpec)
        for spec in specs:
            if scheme in spec.schemes:
                return spec
        known = [scheme for spec in specs for scheme in spec.schemes]
        raise self._unknown("controller transport", scheme, known)

    def _unknown(self, kind: str, name: str, known: Iterable[str]) -> Exception:
        broken = [
            record
            for record in self._records
            if record.status is not PluginStatus.LOADED
            and name in (record.name, *(spec.name for spec in record.specs))
        ]
        if broken:
            record = broken[0]
            return PluginError(record.name, f"{record.status.value}: {record.reason}")
        dist = INSTALL_HINTS.get(name)
        hint = f"Install it with `pip install {dist}`." if dist else None
        return UnknownNameError(kind, name, known, hint=hint)

    def _load(self, point: EntryPoint) -> PluginRecord:
        distribution, version = _named(point.dist)

        def record(
            status: PluginStatus,
            reason: str = "",
            api: ApiVersion | None = None,
            specs: tuple[PluginSpec[Any], ...] = (),
        ) -> PluginRecord:
            return PluginRecord(
                name=point.name,
                module=point.value,
                distribution=distribution,
                version=version,
                api=str(api) if api else None,
                status=status,
                reason=reason,
                specs=specs,
            )

        if point.name in self._blocked:
            return record(PluginStatus.BLOCKED, "named in LMCACHE_PLUGINS_BLOCKED")
        if self._manager.has_plugin(point.name):
            return record(
                PluginStatus.SHADOWED, f"another plugin is called {point.name!r} and came first"
            )
        api: ApiVersion | None = None
        try:
            module = point.load()
            api = _declared_api(module)
            if not PLUGIN_API.accepts(api):
                return record(
                    PluginStatus.INCOMPATIBLE,
                    f"built for plugin API {api}, this core has {PLUGIN_API}; "
                    "install versions that match",
                    api,
                )
            _refuse_misspelt(module)
            plugin = module if self._trace is None else self._trace.traced(point.name, module)
            specs = _collect(plugin, module.__name__)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a stranger's import raises
            return record(PluginStatus.FAILED, f"{type(error).__name__}: {error}", api)
        taken = [spec for spec in specs if (spec.kind, spec.name) in self._specs]
        if taken:
            names = ", ".join(f"{spec.kind} {spec.name!r}" for spec in taken)
            return record(
                PluginStatus.SHADOWED, f"offers {names}, which another plugin offers", api, specs
            )
        try:
            self._manager.register(plugin, name=point.name)
            self._manager.check_pending()  # a hook of a name that nobody calls
        except (ValueError, pluggy.PluginValidationError) as error:
            self._manager.unregister(name=point.name)  # the hooks before the wrong one are in
            return record(PluginStatus.FAILED, f"{type(error).__name__}: {error}", api, specs)
        for spec in specs:
            self._specs[spec.kind, spec.name] = spec
        return record(PluginStatus.LOADED, "", api, specs)


def _named(dist: Distribution | None) -> tuple[str, str]:
    """Name and version of a distribution, without reading its description as well."""
    if dist is None:
        return "", ""
    text = dist.read_text("METADATA") or dist.read_text("PKG-INFO") or ""
    headers = message_from_string(text.partition("\n\n")[0])
    return headers["Name"] or "", headers["Version"] or ""


def _declared_api(module: ModuleType) -> ApiVersion:
    """Read ``LMCACHE_PLUGIN_API``; the version a plugin was written against."""
    declared = getattr(module, "LMCACHE_PLUGIN_API", None)
    if declared is None:
        message = (
            "the module does not say which plugin API it was built for; "
            f"add LMCACHE_PLUGIN_API = {tuple(PLUGIN_API)} to it"
        )
        raise PluginError(module.__name__, message)
    return ApiVersion(*declared)


def _collect(plugin: object, module: str) -> tuple[PluginSpec[Any], ...]:
    """Call a plugin's registering hooks and check what they return."""
    found: list[PluginSpec[Any]] = []
    for hook in REGISTERING_HOOKS:
        implementation: Callable[[], Iterable[object]] | None = getattr(plugin, hook, None)
        if implementation is None:
            continue
        for spec in implementation():
            if not isinstance(spec, PluginSpec):
                message = f"{hook} returned {spec!r}, which is no PluginSpec"
                raise PluginError(module, message)
            found.append(spec)
    return tuple(found)


def _refuse_misspelt(module: ModuleType) -> None:
    """Find functions that were meant to be hooks, marked or not, and that nobody would call."""
    hooks = [name for name in vars(hookspecs) if name.startswith(HOOK_PREFIX)]
    for name, function in vars(module).items():
        if not name.startswith(HOOK_PREFIX[:2]) or not isfunction(function):
            continue  # comparing it would cost more than all else that is done here
        own = function.__module__ == module.__name__
        if own and name not in hooks and get_close_matches(name, hooks, n=1, cutoff=0.85):
            raise UnknownNameError("hook", name, hooks)
