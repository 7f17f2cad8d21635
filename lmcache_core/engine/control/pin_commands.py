"""What the controller may ask of an engine's pins."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import msgspec

from lmcache_core.api.messages import (
    PinCommand,
    PlanCommand,
    RenewCommand,
    UnpinCommand,
)
from lmcache_core.api.pins import PinReport, PinRequest
from lmcache_core.engine.cache.engine import CacheEngine
from lmcache_core.engine.control.descent import Descent

AboutPins: TypeAlias = PinCommand | RenewCommand | PlanCommand | UnpinCommand


class Outcome(NamedTuple):
    """What the answer to such a command says.

    Attributes:
        num_tokens: Tokens pinned, released or found.
        pin: The report on a pin that was made or renewed.
        facts: Numbers.
    """

    num_tokens: int
    pin: PinReport | None = None
    facts: dict[str, int] | None = None


class PinCommands:
    """Carries them out, on the control agent's thread.

    Args:
        engine: The engine.
    """

    def __init__(self, engine: CacheEngine) -> None:
        self._engine = engine
        self._descents: dict[str, Descent] = {}

    def must_wait(self, command: PinCommand) -> bool:
        """Whether a pin could hold more once what is under way is done."""
        return self._stores_open_for(command.pin) or self._descends(command)

    def run(self, command: AboutPins) -> Outcome:
        """Carry a command out.

        Raises:
            LMCacheError: It is refused, and says why.
        """
        tiers = self._engine.tiers
        if isinstance(command, PinCommand):
            descent = self._descents.pop(command.request_id, None)
            if descent is not None:
                descent.end()
        with tiers.lock:
            if isinstance(command, PinCommand):
                report = tiers.pins.pin(command.pin)
                return Outcome(report.tokens_pinned, report)
            if isinstance(command, RenewCommand):
                report = tiers.pins.renew(command.renewal)
                return Outcome(report.tokens_pinned, report)
            if isinstance(command, UnpinCommand):
                return Outcome(tiers.pins.unpin(command.pin_id, command.version))
            cost = tiers.pins.plan(command.pin)
        known = {name: n for name, n in msgspec.structs.asdict(cost).items() if n is not None}
        return Outcome(cost.cached_tokens, facts=known)

    def _stores_open_for(self, pin: PinRequest) -> bool:
        """Whether stores are under way that a pin could hold more by."""
        engine = self._engine
        if not engine.open_jobs:
            return False
        with engine.tiers.lock:
            if engine.tiers.pins.holds(pin):
                return False
        return engine.stores_open_for(pin.tokens, pin.scope)

    def _descends(self, command: PinCommand) -> bool:
        """Whether what a pin asks for is on its way to a storage tier; it is brought there."""
        descent = self._descents.get(command.request_id)
        if descent is None:
            tiers, pin = self._engine.tiers, command.pin
            target = tiers.storage_tier(pin.location)
            if target is None:
                return False
            descent = self._descents[command.request_id] = Descent(
                tiers,
                target,
                tiers.chain_of(pin.tokens, pin.scope),
                name=command.request_id,
                progressed=self._engine.note_progress,
            )
        return not descent.advance()
