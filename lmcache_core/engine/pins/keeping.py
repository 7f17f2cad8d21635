"""An engine's pins on their way into its durable tiers, and back after a restart.

What is asked here is only queued: the tiers' own threads write and sync, many
pins at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from lmcache_core.engine.pins.pin import Pin
from lmcache_core.engine.pins.record import PinRecord
from lmcache_core.keys import TOKEN_BYTES

LEDGER = ":ledger"
"""Name of the record that says which ledger the pins are in; no pin is called so."""

RENEWED_SHARE = 8
"""A pin that hits renew is kept anew when this part of its time has gone by."""

Done = Callable[[str | None], None]


class RecordStore(Protocol):
    """What keeping pins needs of a durable tier; all of it under the engine's lock."""

    @property
    def failing(self) -> bool:
        """Whether it has failed lately, so that it is not waited for in vain."""

    def keep(self, name: str, body: Callable[[], bytes], done: Done, *, syncs: bool) -> None:
        """Queue a record, and a sync behind it where ``syncs``."""

    def remove(self, name: str, done: Done, *, syncs: bool) -> None:
        """Queue the removal of a record, and a sync behind it where ``syncs``."""

    def sync(self, name: str, done: Done) -> None:
        """Queue a sync."""


class Receipt:
    """Whether what was queued of a pin has been carried out.

    Args:
        parts: In how many tiers it has to be.

    Attributes:
        failure: What has failed when it was tried last, or None.
    """

    __slots__ = ("_missing", "failure")

    def __init__(self, parts: int = 1) -> None:
        self._missing = parts
        self.failure: str | None = None

    @property
    def over(self) -> bool:
        """Whether it has been tried."""
        return self.failure is not None or self.kept

    @property
    def kept(self) -> bool:
        """Whether it has been carried out everywhere."""
        return self._missing <= 0

    def note(self, failure: str | None) -> None:
        """It was tried in one tier."""
        self.failure = failure
        self._missing -= failure is None


class PinKeeping:
    """Which tier keeps the record of which pin, and whether it does yet.

    A pin of a durable tier is kept with it, and counts only once its record
    and its bytes are durable. Any other is kept with the first durable tier;
    its bytes go with the process, so nobody waits for a sync of its record.
    A release is durable before it is acknowledged, whatever it released: an
    acknowledged release is what a ledger forgets.

    Not thread-safe: the engine's lock is held around every call.

    Args:
        stores: The durable tiers by name, from the top.
        identity: The identity of the engine's namespace.
        wall: Unix time.

    Attributes:
        ledger_id: The ledger that the pins are in; empty where none is known.
        settled: Called with the id of each pin that has become durable.
        carried_out: Called when something that was queued has been tried.
    """

    def __init__(
        self,
        stores: dict[str, RecordStore],
        *,
        identity: bytes,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.ledger_id = ""
        self.settled: Callable[[str], None] = lambda _pin_id: None
        self.carried_out: Callable[[], None] = lambda: None
        self._stores = stores
        self._identity = identity
        self._wall = wall
        self._homes: dict[str, str] = {}
        self._kept_until: dict[str, float] = {}
        self._receipts: dict[str, Receipt] = {}

    @property
    def keeps(self) -> bool:
        """Whether there is a tier to keep pins with."""
        return bool(self._stores)

    @property
    def _first(self) -> str:
        return next(iter(self._stores))

    def is_durable(self, location: str) -> bool:
        """Whether what is marked there is to be durable."""
        return location in self._stores

    def receipt(self, pin_id: str) -> Receipt | None:
        """What was queued last of a pin; None where nothing is under way."""
        return self._receipts.get(pin_id)

    def is_failing(self, pin_id: str) -> bool:
        """Whether the tier that keeps a pin has failed lately."""
        return self._stores[self._homes.get(pin_id, self._first)].failing

    def serve(self, ledger_id: str) -> None:
        """The pins are in a ledger from now on."""
        if ledger_id == self.ledger_id:
            return
        self.ledger_id = ledger_id
        if self._stores:
            self.keep_ledger()

    def keep_ledger(self) -> None:
        """Write which ledger the pins are in, ahead of those that it will ask for."""
        self._stores[self._first].keep(
            LEDGER, self.ledger_id.encode, lambda _failure: None, syncs=False
        )

    def made(self, pin: Pin, left_seconds: float | None) -> None:
        """A pin was made or changed.

        Args:
            pin: The pin.
            left_seconds: How long it lives; None for no end.
        """
        pin_id, location = pin.request.pin_id, pin.request.location
        durable = location in self._stores
        home = location if durable else self._first
        before = self._homes.get(pin_id)
        if before is not None and before != home:
            self._stores[before].remove(pin_id, lambda _failure: None, syncs=False)
        self._homes[pin_id] = home
        pin.settled = not durable
        self._keep(pin, left_seconds, syncs=durable)

    def renewed(self, pin: Pin, left_seconds: float) -> None:
        """A hit has given a pin its time anew."""
        pin_id = pin.request.pin_id
        ends_at = self._wall() + left_seconds
        if ends_at - self._kept_until.get(pin_id, 0.0) > left_seconds / RENEWED_SHARE:
            self._keep(pin, left_seconds, syncs=False)

    def covered(self, pin: Pin) -> None:
        """All that a pin waited for has come."""
        pin_id, location = pin.request.pin_id, pin.request.location
        store = self._stores.get(location)
        if store is not None:
            pin.settled = False
            store.sync(pin_id, self._done(pin_id, pin))

    def restored(self, pin: Pin, store: str, ends_at: float | None) -> None:
        """A pin was made from its record."""
        pin_id = pin.request.pin_id
        self._homes[pin_id] = store
        self._note_end(pin_id, ends_at)
        # What has the name of a chunk may have been written just before a kill.
        self.covered(pin)

    def ended(self, pin_id: str) -> None:
        """A pin is held no more."""
        self._kept_until.pop(pin_id, None)
        home = self._homes.pop(pin_id, None)
        if home is not None:
            self._stores[home].remove(pin_id, self._done(pin_id, None), syncs=False)

    def release(self, pin_id: str) -> None:
        """A pin is to be gone for good; its :meth:`receipt` tells when it is."""
        # Where its record is is not known before the stores were gone through.
        done = self._done(pin_id, None, parts=len(self._stores))
        for store in self._stores.values():
            store.remove(pin_id, done, syncs=True)

    def leave_out(self, store: str) -> None:
        """A tier cannot be used: nothing is there, and nothing is kept with it."""
        del self._stores[store]

    def _keep(self, pin: Pin, left_seconds: float | None, *, syncs: bool) -> None:
        request = pin.request
        ends_at = None if left_seconds is None else self._wall() + left_seconds
        record = PinRecord(
            request=request,
            ends_at=ends_at,
            wanted_tokens=len(pin.wanted) // TOKEN_BYTES,
            namespace=self._identity,
        )
        self._note_end(request.pin_id, ends_at)
        done = self._done(request.pin_id, pin)
        self._stores[self._homes[request.pin_id]].keep(
            request.pin_id, record.pack, done, syncs=syncs
        )

    def _note_end(self, pin_id: str, ends_at: float | None) -> None:
        if ends_at is None:
            self._kept_until.pop(pin_id, None)
        else:
            self._kept_until[pin_id] = ends_at

    def _done(self, pin_id: str, pin: Pin | None, *, parts: int = 1) -> Done:
        receipt = self._receipts[pin_id] = Receipt(parts)

        def done(failure: str | None) -> None:
            receipt.note(failure)
            if receipt.kept and self._receipts.get(pin_id) is receipt:
                del self._receipts[pin_id]
                if pin is not None and not pin.settled:
                    pin.settled = True
                    self.settled(pin_id)
            self.carried_out()

        return done
