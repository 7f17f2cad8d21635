"""Structured logging, quiet by default inside a serving process.

Loggers are structlog's over the standard library, under the name
``lmcache``, so that a host application keeps control: without
:func:`configure` only warnings and worse appear, as the standard library
decides. The command-line programs call :func:`configure`.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, MutableMapping
from contextvars import ContextVar
from typing import Any, cast

import structlog
from structlog.stdlib import BoundLogger

ROOT = "lmcache"


_bound: ContextVar[Mapping[str, str]] = ContextVar("lmcache_bound_fields", default={})  # noqa: B039 - never changed in place


def get_logger(name: str) -> BoundLogger:
    """Return the structured logger of a module.

    Args:
        name: The module's ``__name__``.
    """
    logger = structlog.wrap_logger(
        logging.getLogger(f"{ROOT}.{name.removeprefix('lmcache_core.')}"),
        wrapper_class=BoundLogger,
        processors=[
            structlog.stdlib.filter_by_level,
            _add_bound,
            structlog.processors.format_exc_info,
            structlog.processors.KeyValueRenderer(key_order=["event"]),
        ],
    )
    # What structlog returns makes such a logger anew for each line, also for
    # one that nobody asked to see.
    return cast("BoundLogger", logger.bind())


class bound:  # noqa: N801 - reads as the block it opens
    """Add fields to all lines that are logged in a block, in this thread or task.

    structlog's own takes a context variable per field, which costs the
    engine's control thread a tenth of a whole pin command.

    Args:
        fields: What to add.
    """

    def __init__(self, **fields: str) -> None:
        self._fields = fields

    def __enter__(self) -> None:
        """Add the fields to those of the blocks around it."""
        self._token = _bound.set({**_bound.get(), **self._fields})

    def __exit__(self, *failure: object) -> None:
        """Take them away again."""
        _bound.reset(self._token)


def bound_field(name: str) -> str:
    """What :class:`bound` has set a field to here, or an empty string."""
    return _bound.get().get(name, "")


def _add_bound(_logger: object, _method: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    return {**_bound.get(), **event}


def configure(level: str = "INFO") -> None:
    """Send the project's log lines to standard error.

    Args:
        level: A standard level name; unknown names raise ``ValueError``.
    """
    logger = logging.getLogger(ROOT)
    logger.setLevel(level.upper())
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s %(message)s"))
        logger.addHandler(handler)
        logger.propagate = False
