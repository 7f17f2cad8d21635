"""What is asked of plugins, line by line, for whoever looks for the one that misbehaves."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from inspect import isfunction
from types import ModuleType, SimpleNamespace
from typing import Any

from lmcache_core.log import get_logger
from lmcache_core.plugins.record import PluginRecord

log = get_logger(__name__)

VARIABLE = "LMCACHE_TRACE_PLUGINS"


class PluginTrace:
    """Logs each plugin that is found and each hook that is called, with how long it took.

    The lines are warnings: somebody has asked for them, and a host that says
    nothing of log lines shows no others.
    """

    def found(self, record: PluginRecord, seconds: float) -> None:
        """Note what has become of a plugin, and what its import and its hooks took."""
        log.warning(
            "plugin.traced",
            plugin=record.name,
            module=record.module,
            distribution=record.distribution,
            outcome=record.status.value,
            reason=record.reason,
            milliseconds=_milliseconds(seconds),
        )

    def traced(self, name: str, module: ModuleType) -> SimpleNamespace:
        """The functions of a plugin's module, each of which logs its calls."""
        functions = {
            hook: self._timed(name, hook, function)
            for hook, function in vars(module).items()
            if isfunction(function)
        }
        return SimpleNamespace(**functions)

    def _timed(self, plugin: str, hook: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - whatever the hook is given
            outcome = "returned"
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            except BaseException as error:
                outcome = f"raised {type(error).__name__}: {error}"
                raise
            finally:
                log.warning(
                    "plugin.hook_traced",
                    plugin=plugin,
                    hook=hook,
                    outcome=outcome,
                    milliseconds=_milliseconds(time.perf_counter() - began),
                )

        return call


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1e3, 3)
