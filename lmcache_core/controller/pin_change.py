"""What a pin is to be changed to, and what came of it."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from lmcache_core.api.pins import Renew
from lmcache_core.controller.failures import PreconditionError
from lmcache_core.controller.pin_row import PinContent, PinRow
from lmcache_core.errors import LMCacheError

ANY_VERSION = -1
"""A precondition that every existing version meets."""


class Kept(NamedTuple):
    """What came of asking for a pin.

    Attributes:
        row: The pin.
        created: Whether it is new.
        num_tokens: Tokens pinned, by the engines' own answers.
    """

    row: PinRow
    created: bool
    num_tokens: int


class Released(NamedTuple):
    """What came of releasing a pin.

    Attributes:
        row: The pin, ended.
        num_tokens: Tokens released, by the engines' own answers.
        failures: Why engines have not acknowledged it; they are told again.
    """

    row: PinRow
    num_tokens: int
    failures: list[LMCacheError]


class Amendment(NamedTuple):
    """What is to be changed of a pin; what is unset stays.

    Attributes:
        ttl_seconds: How long it lives from now on, or None for no end.
        renew: Whether a hit starts the time anew.
        labels: The operator's own notes.
    """

    ttl_seconds: float | msgspec.UnsetType | None
    renew: Renew | msgspec.UnsetType
    labels: dict[str, str] | msgspec.UnsetType

    def of(self, content: PinContent) -> PinContent:
        """A content with the changes made."""
        changes = {k: v for k, v in self._asdict().items() if v is not msgspec.UNSET}
        return msgspec.structs.replace(content, **changes)


def check_version(pin_id: str, row: PinRow | None, if_match: int | None) -> None:
    """Make sure that a precondition holds of a pin, where there is one.

    Raises:
        PreconditionError: It does not.
    """
    if if_match is None:
        return
    if row is None:
        message = f"pin {pin_id!r} does not exist, so that If-Match cannot hold"
        raise PreconditionError(message)
    if if_match not in (ANY_VERSION, row.version):
        message = f"pin {pin_id!r} is at version {row.version}, not {if_match}; read it again"
        raise PreconditionError(message)
