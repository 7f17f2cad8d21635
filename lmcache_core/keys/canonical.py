"""The digest of a record: SHA-256 over a domain label and canonical JSON.

Canonical JSON here is what every language can produce: keys sorted by code
point, no white space, UTF-8 without escapes for non-ASCII, integers only (a
float has no single spelling and is refused).
"""

from __future__ import annotations

import hashlib
import json

import msgspec


def record_digest(domain: str, record: object) -> bytes:
    """Digest a record of strings, integers, booleans, nulls, lists and maps.

    Args:
        domain: What kind of record it is; unlike kinds never collide.
        record: A msgspec Struct or a plain value.

    Returns:
        32 bytes.

    Raises:
        ValueError: The record holds a float.
    """
    plain = msgspec.to_builtins(record)
    _refuse_floats(plain)
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(domain.encode() + b"\0" + text.encode()).digest()


def _refuse_floats(value: object) -> None:
    if isinstance(value, float):
        message = f"{value!r} is a float, which has no canonical spelling; write it as a string"
        raise ValueError(message)  # noqa: TRY004 - the value is wrong, not the caller's type
    if isinstance(value, dict):
        for item in value.values():
            _refuse_floats(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _refuse_floats(item)
