"""One engine's admissions and evictions, in order, and what follows from them."""

from __future__ import annotations

from lmcache_core.api.messages import Events
from lmcache_core.keys import KEY_BYTES
from lmcache_core.log import get_logger

log = get_logger(__name__)

SHORT_BITS = 60
"""A key is kept as the 60 bits that make a Python integer of the smallest size.

Two of a million chunks are mistaken for each other with a chance of 1e-6
altogether, and then a look-up, not a pin, is wrong by a chunk.
"""

MAX_KEYS = 1 << 24
"""Keys kept of one engine; a terabyte of 64 KiB chunks."""

_SHORT_MASK = (1 << SHORT_BITS) - 1


def short_key(key: bytes) -> int:
    """The part of a key that is kept."""
    return int.from_bytes(key[:8], "little") & _SHORT_MASK


def short_keys(packed: bytes) -> list[int]:
    """The parts of packed keys that are kept."""
    return [short_key(packed[at : at + 8]) for at in range(0, len(packed), KEY_BYTES)]


class EventStream:
    """Applies batches in order, notices gaps, takes snapshots.

    After a gap nothing is known, because what was missed may be evictions:
    the engine is asked for a snapshot and until it comes only what was
    admitted since counts.

    Attributes:
        held: Short keys by location.
        wants_snapshot: Whether the engine has to be asked for a snapshot.
        gaps: How often events were missed.
    """

    def __init__(self) -> None:
        self.held: dict[str, set[int]] = {}
        self.wants_snapshot = True
        self.gaps = 0
        self._seen = -1
        self._staging: dict[str, set[int]] | None = None
        self._torn = False

    @property
    def is_receiving(self) -> bool:
        """Whether a part of a snapshot has come and its end has not."""
        return self._staging is not None or self._torn

    def start(self, sequence: int, locations: tuple[str, ...]) -> bool:
        """The engine has registered; say whether it is to send a snapshot."""
        if not self.wants_snapshot and sequence == self._seen and set(locations) == set(self.held):
            return False
        self.held = {location: set() for location in locations}
        self.wants_snapshot = True
        self._seen = sequence
        self._staging = None
        self._torn = False
        return True

    def note(self, sequence: int) -> None:
        """The engine says what it has sent; a higher number than was seen is a gap."""
        if sequence > self._seen:
            self._miss(sequence, torn=False)

    def take(self, events: Events) -> None:
        """Apply a batch."""
        if events.sequence <= self._seen:
            return
        misshapen = len(events.admitted) % KEY_BYTES or len(events.evicted) % KEY_BYTES
        if events.sequence != self._seen + 1 or misshapen or events.location not in self.held:
            # What the batch before it was is not known either: a part of a
            # snapshot that follows a gap may not be the snapshot's first.
            self._miss(events.sequence, torn=events.snapshot)
        self._seen = events.sequence
        if misshapen or events.location not in self.held:
            return
        if events.snapshot:
            self._take_part(events)
        else:
            held = self.held[events.location]
            held.update(short_keys(events.admitted))
            held.difference_update(short_keys(events.evicted))
            self._bound(self.held, events.location)

    def _take_part(self, events: Events) -> None:
        if self._torn:
            self._torn = not events.last
            return
        if self._staging is None:
            self._staging = {location: set() for location in self.held}
        self._staging[events.location].update(short_keys(events.admitted))
        self._bound(self._staging, events.location)
        if events.last:
            self.held, self._staging = self._staging, None
            self.wants_snapshot = False

    def _miss(self, sequence: int, *, torn: bool) -> None:
        self.gaps += 1
        self.held = {location: set() for location in self.held}
        self.wants_snapshot = True
        self._seen = sequence
        self._staging = None
        self._torn = torn

    @staticmethod
    def _bound(held: dict[str, set[int]], location: str) -> None:
        if len(held[location]) > MAX_KEYS:
            log.warning("placement.overflow", location=location, keys=len(held[location]))
            held[location] = set()
