"""Telling the author of a plugin, at the line that is to change, what will not go on working."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

Method = TypeVar("Method", bound=Callable[..., Any])

_MARK = "__lmcache_deprecated_default__"


class _Notice(NamedTuple):
    since: str
    advice: str


def deprecated_default(since: str, advice: str) -> Callable[[Method], Method]:
    """Mark a method of a contract that implementations should no longer inherit.

    Args:
        since: The plugin API that made it so, for example ``0.2``.
        advice: What to do, and by when.
    """

    def mark(method: Method) -> Method:
        setattr(method, _MARK, _Notice(since, advice))
        return method

    return mark


def warn_of_inherited(implementation: object) -> None:
    """Warn of each marked method that an implementation inherits.

    The warning is a ``DeprecationWarning`` at the file and line of the
    implementation's class, not of whoever uses it.

    Args:
        implementation: What a plugin's factory has made.
    """
    kind = type(implementation)
    for name in dir(kind):
        notice = getattr(getattr(kind, name, None), _MARK, None)
        if notice is None:
            continue
        message = (
            f"{kind.__module__}.{kind.__qualname__} inherits {name}, deprecated since plugin API "
            f"{notice.since}: {notice.advice}"
        )
        file, line = _where(kind)
        warnings.warn_explicit(message, DeprecationWarning, file, line, kind.__module__)


def _where(kind: type) -> tuple[str, int]:
    try:
        return inspect.getsourcefile(kind) or "unknown", inspect.getsourcelines(kind)[1]
    except (OSError, TypeError):  # it has no source to be read
        return kind.__module__, 1
