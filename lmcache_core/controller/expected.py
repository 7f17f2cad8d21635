"""What a value of a request has to be, in words."""

from __future__ import annotations

from typing import Any

from msgspec import inspect

_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


def expected(kind: Any) -> str | None:  # noqa: ANN401 - any type that msgspec knows
    """Describe a type: the values of an enumeration, the bounds of a number; None for others."""
    info = _inner(inspect.type_info(kind))
    if isinstance(info, inspect.EnumType):
        return f"one of {', '.join(str(member.value) for member in info.cls)}"
    if not isinstance(info, inspect.IntType | inspect.FloatType):
        return None
    named = "an integer" if isinstance(info, inspect.IntType) else "a number"
    bounds = [(words, getattr(info, name)) for name, words in _BOUNDS.items()]
    said = [f"{words} {bound:g}" for words, bound in bounds if bound is not None]
    return f"{named}, {' and '.join(said)}" if said else named


def _inner(info: inspect.Type) -> inspect.Type:
    """A type without what it says for documents, and without its None."""
    if isinstance(info, inspect.Metadata):
        return _inner(info.type)
    if isinstance(info, inspect.UnionType):
        return _inner(next(one for one in info.types if not isinstance(one, inspect.NoneType)))
    return info
