"""What pins take of their tiers and of their owners' quotas, and whether it fits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from lmcache_core.api.pins import PinCost
from lmcache_core.engine.pins.pin import Pin
from lmcache_core.errors import CapacityError


class Need(NamedTuple):
    """What a pin would take where it is to be.

    Attributes:
        tier: The tier's name.
        asked_bytes: What it would mark or reserve there anew.
        full_bytes: What it would mark and wait for, whoever does so already.
        taken_bytes: What pins take there now.
        limit_bytes: What they may take, or None for no bound.
    """

    tier: str
    asked_bytes: int
    full_bytes: int
    taken_bytes: int
    limit_bytes: int | None


class Quotas:
    """What owners are charged for their pins, each in full, and what they may be.

    Args:
        default_bytes: Bound of each owner; None for no bound.
        own_bytes: Bounds of owners that have one of their own.

    Attributes:
        charged: What each owner is charged for now.
    """

    def __init__(self, default_bytes: int | None, own_bytes: Mapping[str, int]) -> None:
        self.charged: dict[str, int] = {}
        self._default = default_bytes
        self._own = own_bytes

    def charge(self, owner: str, nbytes: int) -> None:
        """Charge an owner, or give back where it is less than nothing."""
        total = self.charged.pop(owner, 0) + nbytes
        if total:
            self.charged[owner] = total

    def cost(self, new: Pin, old: Pin | None, need: Need) -> PinCost:
        """What a pin would cost.

        Args:
            new: The pin.
            old: The one that it replaces.
            need: What it would take.
        """
        owner = new.request.owner
        charged = self.charged.get(owner, 0)
        if old is not None and old.request.owner == owner:
            charged -= old.charge
        return PinCost(
            cached_tokens=new.tokens_pinned,
            asked_bytes=need.asked_bytes,
            pinned_bytes=need.taken_bytes,
            pin_limit_bytes=need.limit_bytes,
            charged_bytes=need.full_bytes,
            owner_bytes=charged,
            owner_limit_bytes=self._own.get(owner, self._default),
        )

    def check(self, new: Pin, old: Pin | None, need: Need) -> int:
        """Refuse a pin that does not fit; return what its owner is charged.

        Raises:
            CapacityError: It does not fit; pins never evict pins.
        """
        cost = self.cost(new, old, need)
        if cost.pin_limit_bytes is not None and not cost.fits_tier:
            raise CapacityError(
                f"pins of tier {need.tier}",
                asked_bytes=cost.asked_bytes,
                used_bytes=cost.pinned_bytes,
                limit_bytes=cost.pin_limit_bytes,
                advice="release pins, raise pin_max_share, or give the tier more room",
            )
        if cost.owner_limit_bytes is not None and not cost.fits_owner:
            owner = new.request.owner
            key = "request_pin_quota" if owner in self._own else "pin_owner_quota"
            raise CapacityError(
                f"pins of owner {owner}",
                asked_bytes=cost.charged_bytes,
                used_bytes=cost.owner_bytes,
                limit_bytes=cost.owner_limit_bytes,
                advice=f"release pins of this owner or raise {key}",
            )
        return cost.charged_bytes
