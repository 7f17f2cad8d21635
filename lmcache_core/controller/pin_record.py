"""A pin as the ledger's file keeps it.

In two records: what was asked for is written once a version, how it stands
whenever that changes. What engines hold is not kept but asked of them.
"""

from __future__ import annotations

import msgspec

from lmcache_core.api.pins import PinState
from lmcache_core.controller.pin_row import PinContent, PinRow, PlaceState

PINS = "pins"
STANDINGS = "standings"
META = "meta"
META_KEY = "ledger"

RESTARTED = "the controller has restarted and the engine has not reported since"


class LedgerMeta(msgspec.Struct, frozen=True):
    """What is kept of the ledger as a whole.

    Attributes:
        ledger_id: Names it to engines.
        highest: The highest version given out.
        written_at: Unix time of the last version.
    """

    ledger_id: str
    highest: int
    written_at: float


class PinRecord(msgspec.Struct, frozen=True):
    """What was asked for; fields as in :class:`PinRow`."""

    version: int
    content: PinContent
    created_at: float
    updated_at: float
    adopted: bool

    @classmethod
    def of(cls, row: PinRow) -> PinRecord:
        """What is kept of a pin."""
        return cls(row.version, row.content, row.created_at, row.updated_at, row.adopted)


class PlaceRecord(msgspec.Struct, frozen=True):
    """One engine; fields as in :class:`PlaceState`."""

    location: str
    identity: bytes
    covered: int
    joined: bool = False


class Standing(msgspec.Struct, frozen=True):
    """How a pin stands; fields as in :class:`PinRow`."""

    expires_at: float | None
    ended: PinState | None
    places: dict[str, PlaceRecord]

    @classmethod
    def of(cls, row: PinRow) -> Standing:
        """What is kept of a pin."""
        places = {
            name: PlaceRecord(place.location, place.identity, place.covered, place.joined)
            for name, place in row.places.items()
        }
        return cls(row.expires_at, row.ended, places)


def row_of(pin_id: str, record: PinRecord, standing: Standing) -> PinRow:
    """The pin of two records; nothing is known of what engines hold."""
    return PinRow(
        pin_id=pin_id,
        version=record.version,
        content=record.content,
        expires_at=standing.expires_at,
        created_at=record.created_at,
        updated_at=record.updated_at,
        places={
            name: PlaceState(
                location=place.location,
                identity=place.identity,
                covered=place.covered,
                reason=RESTARTED,
                joined=place.joined,
                # Who serves a model may be another by now; it says so itself.
                away=place.joined,
            )
            for name, place in standing.places.items()
        },
        ended=standing.ended,
        adopted=record.adopted,
    )
