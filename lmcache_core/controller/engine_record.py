"""What the controller knows of one engine."""

from __future__ import annotations

import enum
import math

import msgspec

from lmcache_core.api.messages import Register, TierStatus
from lmcache_core.api.transport import Peer
from lmcache_core.config import ANYWHERE
from lmcache_core.errors import UnknownNameError
from lmcache_core.keys import Namespace

SILENT_AFTER_HEARTBEATS = 3
SHORTEST_HEARTBEAT_SECONDS = 0.05
LONGEST_HEARTBEAT_SECONDS = 60.0


class EngineState(enum.Enum):
    """Whether an engine can be asked."""

    LIVE = "live"
    SILENT = "silent"
    """It has not been heard of for three heartbeats."""
    STOPPED = "stopped"
    """It has said goodbye."""


def namespace_identity(namespace: Namespace) -> bytes:
    """What a pin's placement is bound to: the namespace at any epoch of its weights."""
    return msgspec.structs.replace(namespace, weights_epoch=0).digest()


class EngineRecord:
    """One engine, from its first registration on.

    Attributes:
        instance_id: Its configured id.
        incarnation: Its start time in nanoseconds.
        peer: Its connection.
        namespace: What its keys are seeded with.
        digest: The namespace's digest.
        identity: See :func:`namespace_identity`.
        tiers: Its tiers, from the top.
        counters: Its running totals.
        pid: Its process.
        host: Its host's name.
        serving_url: Where its server answers, or None.
        version: Version of its core.
        heartbeat_seconds: How often it says it will be heard of.
        state: Whether it can be asked.
        other_ledger: The ledger that its pins are in where that is not this
            controller's; None where it is.
        adopts: Whether this controller is to take its pins over.
        registered_at: Unix time of its registration.
        heard_at: Unix time of its last message.
    """

    def __init__(self, peer: Peer, message: Register, *, now: float, wall: float) -> None:
        self.instance_id = message.instance_id
        self.incarnation = message.incarnation
        self.registered_at = wall
        self.state = EngineState.LIVE
        self.counters: dict[str, int] = {}
        self.other_ledger: str | None = None
        self.adopts = False
        self.renew(peer, message, now=now, wall=wall)

    def renew(self, peer: Peer, message: Register, *, now: float, wall: float) -> None:
        """Take what a registration says, the first or a later one."""
        self.peer = peer
        self.namespace = message.namespace
        self.digest = message.namespace.digest()
        self.identity = namespace_identity(message.namespace)
        self.tiers: tuple[TierStatus, ...] = message.tiers
        self.pid = message.pid
        self.host = message.host
        self.serving_url = message.serving_url
        self.version = message.version
        self.heartbeat_seconds = _sane(message.heartbeat_seconds)
        self.state = EngineState.LIVE
        self.touch(now=now, wall=wall)

    def touch(self, *, now: float, wall: float) -> None:
        """It has been heard of."""
        self.heard_at = wall
        self._silent_at = now + self.heartbeat_seconds * SILENT_AFTER_HEARTBEATS

    def is_overdue(self, now: float) -> bool:
        """Whether it should have been heard of by now."""
        return now >= self._silent_at

    @property
    def is_live(self) -> bool:
        """Whether it can be asked."""
        return self.state is EngineState.LIVE

    @property
    def locations(self) -> tuple[str, ...]:
        """Names of its tiers, from the top."""
        return tuple(tier.location for tier in self.tiers)

    @property
    def pin_locations(self) -> tuple[str, ...]:
        """Where pins may be: in each of its tiers, or in all of them together."""
        return (*self.locations, ANYWHERE)

    def check_location(self, location: str) -> None:
        """Make sure it has a tier of a name.

        Raises:
            UnknownNameError: It has not.
        """
        self._check(location, self.locations)

    def check_pin_location(self, location: str) -> None:
        """Make sure that pins may be in a location of it.

        Raises:
            UnknownNameError: They may not.
        """
        self._check(location, self.pin_locations)

    def _check(self, location: str, known: tuple[str, ...]) -> None:
        if location not in known:
            kind, of = "location", f"instance {self.instance_id!r}"
            raise UnknownNameError(kind, location, known, of=of)


def _sane(seconds: float) -> float:
    if not math.isfinite(seconds):
        return LONGEST_HEARTBEAT_SECONDS
    return min(max(seconds, SHORTEST_HEARTBEAT_SECONDS), LONGEST_HEARTBEAT_SECONDS)
