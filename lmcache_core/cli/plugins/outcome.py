"""What became of one check of a plugin."""

from __future__ import annotations

from typing import Literal

import msgspec


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """One check.

    Attributes:
        of: What was checked: a plugin, or something that it offers.
        check: The check's name.
        result: ``passed``, ``skipped`` or ``failed``.
        reason: Why it was skipped or failed, or what was seen; may be empty.
        seconds: How long it took.
    """

    of: str
    check: str
    result: Literal["passed", "skipped", "failed"]
    reason: str = ""
    seconds: float = 0.0
