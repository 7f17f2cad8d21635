"""Structured logging, quiet by default inside a serving process.

Loggers are structlog's over the standard library, under the name
``lmcache``, so that a host application keeps control: without
:func:`configure` only warnings and worse appear, as the standard library
decides. The command-line programs call :func:`configure`.
"""

from __future__ import annotations

import logging
import sys
from contextlib import AbstractContextManager
from typing import cast

import structlog
from structlog.stdlib import BoundLogger

ROOT = "lmcache"


def get_logger(name: str) -> BoundLogger:
    """Return the structured logger of a module.

    Args:
        name: The module's ``__name__``.
    """
    return cast(
        "BoundLogger",
        structlog.wrap_logger(
            logging.getLogger(f"{ROOT}.{name.removeprefix('lmcache_core.')}"),
            wrapper_class=BoundLogger,
            processors=[
                structlog.stdlib.filter_by_level,
                structlog.contextvars.merge_contextvars,
                structlog.processors.format_exc_info,
                structlog.processors.KeyValueRenderer(key_order=["event"]),
            ],
        ),
    )


def bound(**fields: str) -> AbstractContextManager[object]:
    """Add fields to all lines that are logged in a block, in this thread or task."""
    return structlog.contextvars.bound_contextvars(**fields)


def bound_field(name: str) -> str:
    """What :func:`bound` has set a field to here, or an empty string."""
    return str(structlog.contextvars.get_contextvars().get(name, ""))


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
