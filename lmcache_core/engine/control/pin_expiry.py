"""Ending pins whose time is up, whether or not a controller is there."""

from __future__ import annotations

import threading

from lmcache_core.engine.tiers.stack import TierStack
from lmcache_core.log import get_logger

log = get_logger(__name__)

PERIOD_SECONDS = 0.25
CLOSE_SECONDS = 2.0


class PinExpiry:
    """Looks at the pins' times: in its owner's thread, or in one of its own.

    The control agent looks while it waits for messages. An engine without one
    has the pins that its durable tier has kept, and their times go on.

    Args:
        tiers: The engine's tiers.
    """

    def __init__(self, tiers: TierStack) -> None:
        self._tiers = tiers
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lmcache-pin-expiry", daemon=True)

    def look(self) -> None:
        """End the pins whose time is up, some under each hold of the engine's lock."""
        while True:
            with self._tiers.lock:
                if not self._tiers.pins.alarmed:
                    return
                ended = self._tiers.pins.expire()
            for pin_id in ended:
                log.info("pin.expired", pin_id=pin_id)

    def start(self) -> None:
        """Look from a thread, again and again, until :meth:`close`."""
        self._thread.start()

    def close(self) -> None:
        """End the thread, within a bound."""
        self._stopping.set()
        self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        while not self._stopping.wait(PERIOD_SECONDS):
            try:
                self.look()
            except Exception:
                # A defect must not keep all other pins for good.
                log.exception("pin_expiry.look_failed")
