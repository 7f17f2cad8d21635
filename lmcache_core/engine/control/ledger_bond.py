"""Which pin ledger an engine serves."""

from __future__ import annotations

from lmcache_core.api.messages import (
    Command,
    PinCommand,
    RenewCommand,
    UnpinCommand,
    Welcome,
)
from lmcache_core.engine.tiers.stack import TierStack
from lmcache_core.errors import ConflictError
from lmcache_core.log import get_logger

log = get_logger(__name__)


class LedgerBond:
    """Keeps an engine's pins out of the hands of a ledger that does not know them.

    An engine that holds pins serves the ledger they are in. Another one's
    pins and releases are refused until that one is to take them over: a new
    ledger does so by itself, any other when its operator says so. An engine
    without pins serves whichever ledger welcomes it.

    Args:
        tiers: The engine's tiers and pins.
    """

    def __init__(self, tiers: TierStack) -> None:
        self._tiers = tiers
        self._other: str | None = None

    @property
    def serves(self) -> str:
        """The ledger that the pins are in; empty where there is none yet."""
        with self._tiers.lock:
            return self._tiers.keeping.ledger_id if len(self._tiers.pins) else ""

    def welcome(self, message: Welcome) -> None:
        """A controller has registered this engine."""
        if not self._tiers.recovered:
            return  # Which ledger it serves is not known yet; it registers again when it is.
        serves = self.serves
        if serves in ("", message.ledger_id) or message.adopts:
            self._serve(message.ledger_id)
        else:
            self._other = message.ledger_id
            log.warning("agent.other_ledger", serves=serves, controllers=message.ledger_id)

    def check(self, command: Command) -> None:
        """Refuse what is not this controller's to change.

        Raises:
            ConflictError: The pins are in another ledger.
        """
        changes = isinstance(command, PinCommand | RenewCommand | UnpinCommand)
        if self._other is None or not changes:
            return
        serves = self.serves
        if serves in ("", self._other):
            self._serve(self._other)
            return
        message = (
            f"this engine's pins are in the ledger {serves}, and this controller's is "
            f"{self._other}; point the engine at the controller of its ledger, or let this one "
            "take its pins over with POST /v1/instances/ID/adopt"
        )
        raise ConflictError(message)

    def _serve(self, ledger_id: str) -> None:
        self._other = None
        with self._tiers.lock:
            self._tiers.keeping.serve(ledger_id)
