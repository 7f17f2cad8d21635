"""Pins that requests ask for themselves, on their way into the ledger.

Other pins are in the controller's ledger before an engine hears of them. Such
a pin is made here first and is *local* until the controller has said that it
is in the ledger; until then each sign of life names it.
"""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from lmcache_core.api.deadline import Deadline
from lmcache_core.api.pins import PinPromise, PinReport, PinRequest, PinWish
from lmcache_core.engine.cache.engine import CacheEngine
from lmcache_core.errors import ConflictError, LMCacheError
from lmcache_core.keys import Scope
from lmcache_core.log import get_logger

log = get_logger(__name__)

MAX_WAITING = 1024
"""Wishes that may wait for stores at once; more are refused."""

MAX_LOCAL = 4096
"""Pins that may wait for a ledger; where none is near, more are refused."""

WAIT_SECONDS = 10.0
"""How long a pin waits for stores of its tokens; then it covers what is there."""

TOLD_AT_ONCE = 16


class _Waiting(NamedTuple):
    request: PinRequest
    until: Deadline


class RequestPins:
    """Grants wishes within an owner, a quota and a longest time.

    ``ask`` is called on the thread that schedules requests, all else on the
    control agent's.

    Args:
        engine: The engine whose tokens are pinned.
        instance_id: The engine's id: a pin is one engine's, so that two which
            serve one prompt do not take it from each other.
        owner: Owner of all these pins; the pin table bounds what they take.
        max_ttl_seconds: How long one lives at most.
        wake: Lets the control agent look.
        wall: Unix time.
    """

    def __init__(
        self,
        engine: CacheEngine,
        *,
        instance_id: str,
        owner: str,
        max_ttl_seconds: float,
        wake: Callable[[], None],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._engine = engine
        self._instance_id = instance_id
        self._owner = owner
        self._max_ttl_seconds = max_ttl_seconds
        self._wake = wake
        self._wall = wall
        self._location = engine.tiers.memory.name
        self._waiting: deque[_Waiting] = deque()
        self._local: dict[str, int] = {}
        self._version = 0

    def ask(self, token_bytes: bytes, scope: Scope, plain: object) -> PinPromise:
        """Take a wish; see :meth:`lmcache_core.api.connector.CacheFacade.pin`.

        Raises:
            LMCacheError: It is wrong, or too many wait.
        """
        try:
            wish = msgspec.convert(plain, PinWish)
        except msgspec.ValidationError as error:
            message = f"the pin that was asked for cannot be read: {error}"
            raise LMCacheError(message) from error
        if len(self._waiting) >= MAX_WAITING or len(self._local) >= MAX_LOCAL:
            message = (
                f"{len(self._waiting)} pins of requests wait to be made and {len(self._local)} to "
                "be acknowledged by the controller; no more are taken until some are"
            )
            raise LMCacheError(message)
        # Above what a ledger has given, as far as clocks agree; see Ledger.
        self._version = max(int(self._wall() * 1000), self._version + 1)
        ttl = min(wish.ttl_s or self._max_ttl_seconds, self._max_ttl_seconds)
        request = PinRequest(
            pin_id=wish.pin_id or self._name(token_bytes, scope),
            version=self._version,
            location=self._location,
            tokens=token_bytes,
            owner=self._owner,
            scope=scope,
            ttl_seconds=ttl,
            on_missing=wish.on_missing,
        )
        self._waiting.append(_Waiting(request, Deadline(WAIT_SECONDS)))
        self._wake()
        return PinPromise(pin_id=request.pin_id, ttl_s=ttl)

    @property
    def waits(self) -> bool:
        """Whether a pin waits to be made."""
        return bool(self._waiting)

    def settle(self) -> bool:
        """Make the pins whose tokens are stored; whether any was made."""
        made = False
        for _ in range(min(len(self._waiting), TOLD_AT_ONCE)):
            waiting = self._waiting.popleft()
            request, until = waiting
            if not until.expired and self._engine.stores_open_for(request.tokens, request.scope):
                self._waiting.append(waiting)
                continue
            try:
                self._make(request)
                made = True
            except LMCacheError as error:
                log.warning("request_pin.refused", pin_id=request.pin_id, reason=str(error))
        return made

    def local(self) -> list[tuple[PinRequest, PinReport]]:
        """Some of the pins that no ledger has acknowledged, as they are held now."""
        tiers = self._engine.tiers
        told: list[tuple[PinRequest, PinReport]] = []
        for pin_id, version in list(self._local.items()):
            if len(told) == TOLD_AT_ONCE:
                break
            with tiers.lock:
                held = tiers.pins.held([pin_id])
            if not held or held[0][0].version != version:
                # It has ended, or the ledger has made another version of it.
                del self._local[pin_id]
                continue
            ((request, report),) = held
            self._local[pin_id] = self._local.pop(pin_id)  # Others come first the next time.
            told.append((request, msgspec.structs.replace(report, local=True)))
        return told

    def acknowledge(self, pin_id: str, version: int) -> bool:
        """A ledger has a pin; whether it was local until now."""
        if self._local.get(pin_id, version + 1) > version:
            return False
        del self._local[pin_id]
        return True

    def _make(self, request: PinRequest) -> None:
        tiers = self._engine.tiers
        with tiers.lock:
            ((held, _),) = tiers.pins.held([request.pin_id]) or ((None, None),)
            if held is not None and held.owner != self._owner:
                message = f"pin {request.pin_id!r} is there and belongs to another owner"
                raise ConflictError(message)
            tiers.pins.pin(request)
        self._local[request.pin_id] = request.version

    def _name(self, token_bytes: bytes, scope: Scope) -> str:
        digest = hashlib.sha256(b"lmcache:request-pin:1\0")
        for name in (self._instance_id, self._owner):
            digest.update(hashlib.sha256(name.encode()).digest())
        digest.update(self._engine.tiers.namespace.digest() + scope.digest())
        digest.update(token_bytes)
        return f"request-{digest.hexdigest()[:32]}"
