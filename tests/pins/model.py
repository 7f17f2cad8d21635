"""What pins there ought to be, by what was asked for and what was answered."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping
from dataclasses import dataclass, field

from lmcache_core.config import ANYWHERE
from lmcache_core.controller.ends import ON_HIT_GRACE_SECONDS


@dataclass
class Pin:
    """A pin that was acknowledged.

    Attributes:
        version: As the ledger said.
        tokens: What it covers.
        location: The tier, or any.
        ttl: How long it lives, or None.
        since: When its time began.
        renews: Whether a hit starts its time anew.
        hit_at: When a hit, or an engine that was asked anew, may last have done so.
        slept: Seconds since its time began that its engine does not know of.
        floor: Tokens that it held when it was last looked at, and has to hold.
    """

    version: int
    tokens: tuple[int, ...]
    location: str
    ttl: float | None
    since: float
    renews: bool
    hit_at: float = 0.0
    slept: float = 0.0
    floor: int = 0

    def left(self, now: float) -> float:
        """Seconds that it lives at least."""
        return math.inf if self.ttl is None else self.ttl - (now - self.since)

    def most_left(self, now: float) -> float:
        """Seconds that it may live, if hits have renewed it."""
        if self.ttl is None or not self.renews:
            return self.left(now)
        return self.ttl + self.slept - (now - max(self.since, self.hit_at))


@dataclass
class Model:
    """Prompts that were served and pins that were acknowledged, times in seconds that passed.

    Attributes:
        heard_from: Since when the controller hears of hits.
    """

    served: set[tuple[int, ...]] = field(default_factory=set)
    living: dict[str, Pin] = field(default_factory=dict)
    highest: int = 0
    heard_from: float = 0.0

    def raised(self, version: int) -> int:
        """Take the version of a change, which is above all before it."""
        assert version > self.highest
        self.highest = version
        return version

    def note_served(self, tokens: tuple[int, ...], now: float) -> None:
        self.served.add(tokens)
        self.may_be_renewed(now)

    def may_be_renewed(self, now: float) -> None:
        """Pins that hits renew may have been, if they have not ended."""
        for pin in self.living.values():
            if pin.most_left(now) > 0:
                pin.hit_at = now

    def slept(self, seconds: float) -> None:
        """To the engine less time has passed, by which it may prolong what hits renew."""
        for pin in self.living.values():
            pin.slept += seconds

    def expire(self, now: float, living: Container[str]) -> None:
        """Forget the pins whose time is up, and those it may be up of, if the ledger has."""
        for pin_id, pin in list(self.living.items()):
            over = pin.most_left(now) <= 0
            if pin.renews:
                grace = ON_HIT_GRACE_SECONDS - (now - self.heard_from)
                over = max(pin.most_left(now) + ON_HIT_GRACE_SECONDS, grace) <= 0
                over = over or (pin.left(now) <= 0 and pin_id not in living)
            if over:
                del self.living[pin_id]

    def lost(self, location: str, elsewhere: Mapping[str, int]) -> None:
        """A tier has lost what was pinned there, or may have.

        Args:
            location: The tier.
            elsewhere: By pin that is in no one tier, the tokens that another tier holds.
        """
        for pin_id, pin in self.living.items():
            if pin.location == ANYWHERE:
                pin.floor = min(pin.floor, elsewhere.get(pin_id, 0))
            elif pin.location == location:
                pin.floor = 0

    def longest_known(self, tokens: tuple[int, ...]) -> int:
        """The longest beginning of some tokens that was ever served."""
        return max((shared(tokens, known) for known in self.served), default=0)


def shared(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """The length of what two sequences begin with alike."""
    count = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        count += 1
    return count
