"""Telling a controller that has welcomed the engine of the pins it holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from lmcache_core.api.messages import Held
from lmcache_core.api.pins import PinReport, PinRequest
from lmcache_core.engine.pins.table import PINS_AT_ONCE
from lmcache_core.engine.tiers.stack import TierStack

BYTES_AT_ONCE = 1 << 16
"""Of tokens; a longer pin is a part by itself."""


class Roll:
    """Names all pins, part by part, so that thousands of them never stall a step.

    Args:
        tiers: The engine's tiers.
        send: Hands a message to the link; False when it is dropped.
        instance_id: The engine's id.
        incarnation: Its start time.
    """

    def __init__(
        self,
        tiers: TierStack,
        send: Callable[[Held], bool],
        instance_id: str,
        incarnation: int,
    ) -> None:
        self._tiers = tiers
        self._send = send
        self._instance_id = instance_id
        self._incarnation = incarnation
        self._parts: Iterator[Held] | None = None

    @property
    def under_way(self) -> bool:
        """Whether there is more to tell."""
        return self._parts is not None

    def begin(self) -> None:
        """Name all pins that are held now."""
        self._parts = self._made()

    def cut(self) -> None:
        """Leave the rest; whoever welcomes the engine next is told anew."""
        self._parts = None

    def send_some(self) -> bool:
        """Send the next part; False when the link has dropped it, and the rest is left."""
        part = None if self._parts is None else next(self._parts)
        if part is None:
            return True
        sent = self._send(part)
        if part.last or not sent:
            self._parts = None
        return sent

    def _made(self) -> Iterator[Held]:
        with self._tiers.lock:
            pin_ids = self._tiers.pins.ids()
        part: list[tuple[PinRequest, PinReport]] = []
        for pin_id in pin_ids:
            with self._tiers.lock:
                held = self._tiers.pins.held([pin_id])
            nbytes = sum(len(request.tokens) for request, _ in part + held)
            if part and (len(part) == PINS_AT_ONCE or nbytes > BYTES_AT_ONCE):
                yield self._part(part, last=False)
                part = []
            part += held
        yield self._part(part, last=True)

    def _part(self, held: list[tuple[PinRequest, PinReport]], *, last: bool) -> Held:
        return Held(
            instance_id=self._instance_id,
            incarnation=self._incarnation,
            pins=tuple(report for _, report in held),
            pin_requests=tuple(request for request, _ in held),
            last=last,
        )
