"""Reading one value strictly: what cannot be meant is an error in words.

A value comes from YAML or JSON with a type of its own, or from the
environment as text; both are read by the same rules.
"""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any

import msgspec
from msgspec import inspect

TRUE = frozenset({"true", "yes", "on", "1"})
FALSE = frozenset({"false", "no", "off", "0"})


def field_kinds(struct: type[msgspec.Struct]) -> dict[str, inspect.Type]:
    """The type of each field of a Struct, by name, in order."""
    info = inspect.type_info(struct)
    assert isinstance(info, inspect.StructType)  # noqa: S101 - what type_info answers for a Struct
    return {field.name: field.type for field in info.fields}


def read_value(raw: object, kind: inspect.Type) -> object:
    """Read ``raw`` as a value of a field's type.

    Args:
        raw: What YAML, JSON or the environment gave.
        kind: The field's type as ``msgspec.inspect`` tells it.

    Raises:
        ValueError: It is no such value; the message is the end of a sentence
            that begins with the key.
    """
    if isinstance(kind, inspect.Metadata):
        return read_value(raw, kind.type)
    if isinstance(kind, inspect.UnionType):  # always "something or None"
        return read_value(raw, kind.types[0])
    if isinstance(kind, inspect.BoolType):
        return _boolean(raw)
    if isinstance(kind, inspect.IntType):
        return _bounded(_whole(raw), kind)
    if isinstance(kind, inspect.FloatType):
        return _bounded(_number(raw), kind)
    if isinstance(kind, inspect.LiteralType):
        return _choice(raw, [str(value) for value in kind.values])
    if isinstance(kind, inspect.StrType):
        return _long_enough(_text(raw), kind)
    return raw


def read_list_of_maps(raw: object) -> list[dict[str, Any]]:
    """Read a list of maps, from text as JSON.

    Raises:
        ValueError: It is none.
    """
    if isinstance(raw, str):
        try:
            raw = msgspec.json.decode(raw)
        except msgspec.DecodeError as error:
            message = f"is no JSON list of maps: {error}"
            raise ValueError(message) from error
    if not isinstance(raw, list) or not all(isinstance(item, dict) for item in raw):
        message = f"has to be a list of maps, one for each tier, not {raw!r}"
        raise ValueError(message)
    return raw


def _boolean(raw: object) -> bool:
    word = str(raw).strip().lower()
    if word in TRUE:
        return True
    if word in FALSE:
        return False
    message = f"is {raw!r}; write true or false"
    raise ValueError(message)


def _whole(raw: object) -> int:
    if isinstance(raw, int) and not isinstance(raw, bool):
        return raw
    if isinstance(raw, str):
        with suppress(ValueError):
            return int(raw.strip())
    message = f"is {raw!r}, which is no whole number; write digits only, for example 256"
    raise ValueError(message)


def _number(raw: object) -> float:
    value = math.nan
    if isinstance(raw, int | float) and not isinstance(raw, bool):
        value = float(raw)
    elif isinstance(raw, str):
        with suppress(ValueError):
            value = float(raw.strip())
    if math.isfinite(value):
        return value
    message = f"is {raw!r}, which is no number; write it without a unit, for example 5 or 0.5"
    raise ValueError(message)


def _bounded(value: float, kind: inspect.IntType | inspect.FloatType) -> float:
    if kind.ge is not None and value < kind.ge:
        message = f"is {value:g}; it has to be at least {kind.ge:g}"
        raise ValueError(message)
    if kind.gt is not None and value <= kind.gt:
        message = f"is {value:g}; it has to be more than {kind.gt:g}"
        raise ValueError(message)
    if kind.le is not None and value > kind.le:
        message = f"is {value:g}; it has to be at most {kind.le:g}"
        raise ValueError(message)
    return value


def _long_enough(text: str, kind: inspect.StrType) -> str:
    if kind.min_length is not None and len(text) < kind.min_length:
        message = f"is {text!r}; it has to have at least {kind.min_length} characters"
        raise ValueError(message)
    return text


def _choice(raw: object, choices: list[str]) -> str:
    word = str(raw).strip().lower()
    if word in choices:
        return word
    message = f"is {raw!r}; write {' or '.join(sorted(choices))}"
    raise ValueError(message)


def _text(raw: object) -> str:
    if isinstance(raw, str) and raw.strip():
        return raw.strip()
    if isinstance(raw, int | float) and not isinstance(raw, bool):
        return str(raw)  # YAML reads an instance called 7 as a number
    message = f"is {raw!r}, which is no text"
    raise ValueError(message)
