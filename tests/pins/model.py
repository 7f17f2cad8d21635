"""What pins there ought to be, by what was asked for and what was answered."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field

from lmcache_core.controller.ends import ON_HIT_GRACE_SECONDS


@dataclass
class Pin:
    """A pin that was acknowledged.

    Attributes:
        version: As the ledger said.
        tokens: What it covers.
        location: The tier.
        ttl: How long it lives, or None.
        since: When its time began.
        renews: Whether a hit starts its time anew.
        hit_at: When a hit may last have done so.
        floor: Tokens that it held when it was last looked at, and has to hold.
    """

    version: int
    tokens: tuple[int, ...]
    location: str
    ttl: float | None
    since: float
    renews: bool
    hit_at: float = 0.0
    floor: int = 0

    def left(self, now: float) -> float:
        """Seconds that it lives at least; negative when it may be over."""
        assert self.ttl is not None
        return self.ttl - (now - self.since)

    def most_left(self, now: float) -> float:
        """Seconds that it may live at most."""
        assert self.ttl is not None
        return self.ttl - (now - max(self.since, self.hit_at if self.renews else 0.0))

    def may_be_over(self, now: float) -> bool:
        """Whether it has ended unless a hit has renewed it."""
        return self.ttl is not None and self.left(now) <= 0


@dataclass
class Model:
    """Prompts that were served and pins that were acknowledged, times in seconds that passed."""

    served: set[tuple[int, ...]] = field(default_factory=set)
    living: dict[str, Pin] = field(default_factory=dict)
    highest: int = 0

    def raised(self, version: int) -> int:
        """Take the version of a change, which is above all before it."""
        assert version > self.highest
        self.highest = version
        return version

    def note_served(self, tokens: tuple[int, ...], now: float) -> None:
        self.served.add(tokens)
        for pin in self.living.values():
            pin.hit_at = now

    def doubt_renewals(self, now: float) -> None:
        """What has happened may have renewed any pin that hits renew."""
        for pin in self.living.values():
            if pin.renews:
                pin.hit_at = now

    def expire(self, now: float, living: Container[str]) -> None:
        """Forget the pins whose time is up, and those it may be up of, if the ledger has."""
        for pin_id, pin in list(self.living.items()):
            if not pin.may_be_over(now):
                continue
            over = pin.most_left(now) <= -(ON_HIT_GRACE_SECONDS if pin.renews else 0.0)
            if over or (pin.renews and pin_id not in living):
                del self.living[pin_id]

    def lost(self, location: str) -> None:
        """A tier has lost what was pinned there, or may have."""
        for pin in self.living.values():
            if pin.location == location:
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
