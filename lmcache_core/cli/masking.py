"""What is left out of a configuration that is printed, because people paste it elsewhere."""

from __future__ import annotations

import re
from typing import Any

MASK = "***"

_SECRET_KEY = re.compile(r"(?:^|_)(?:password|secret|token|secret_access_key|account_key)$")
_USER_INFO = re.compile(r"(?<=://)[^/@\s]+(?=@)")


def masked(value: Any, key: str = "") -> Any:  # noqa: ANN401 - whatever YAML holds
    """Hide passwords and what stands before the host of a URL.

    Args:
        value: A value of a configuration, or a map or list of them.
        key: What it is called there.
    """
    if isinstance(value, dict):
        return {name: masked(inner, str(name)) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [masked(inner, key) for inner in value]
    if value is not None and _SECRET_KEY.search(key):
        return MASK
    return _USER_INFO.sub(MASK, value) if isinstance(value, str) else value
