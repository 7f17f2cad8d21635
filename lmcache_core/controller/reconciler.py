"""Telling an engine what it should hold, whenever it may not know."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from lmcache_core.api.deadline import Deadline
from lmcache_core.api.messages import Adopted, ControllerMessage, Heartbeat, Held
from lmcache_core.api.pins import PinReport, PinRequest
from lmcache_core.api.transport import Peer
from lmcache_core.controller.engine_record import SILENT_AFTER_HEARTBEATS, EngineRecord
from lmcache_core.controller.failures import EngineRefusedError, LedgerFullError
from lmcache_core.controller.keeper import PinKeeper
from lmcache_core.controller.ledger import Ledger
from lmcache_core.errors import LMCacheError
from lmcache_core.log import get_logger

log = get_logger(__name__)

COMMAND_SECONDS = 10.0
RETRY_SECONDS = 30.0
"""How long an engine that has refused a pin is left alone about it."""


class Reconciler:
    """Compares the ledger with what engines say they hold.

    Args:
        ledger: The pins.
        keeper: Tells engines.
        send: Hands a message to a peer.
    """

    def __init__(
        self,
        ledger: Ledger,
        keeper: PinKeeper,
        send: Callable[[Peer, ControllerMessage], Awaitable[bool]],
    ) -> None:
        self._ledger = ledger
        self._keeper = keeper
        self._send = send
        self._naming: dict[str, Deadline] = {}
        self._acknowledging: dict[str, asyncio.Task[None]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def registered(self, engine: EngineRecord) -> None:
        """An engine is welcomed and will name its pins; nothing is asked of it before."""
        name = engine.instance_id
        self._ledger.lose(name, "the engine has restarted or lost it")
        self._ledger.join(name, engine.identity, engine.pin_locations)
        self._naming[name] = _silence(engine)

    def take(self, engine: EngineRecord, message: Held) -> None:
        """An engine names some of its pins: adopt, release; after the last, ask for the rest."""
        name = engine.instance_id
        for request, report in zip(message.pin_requests, message.pins, strict=False):
            self._take_in(engine, request, report)
        if not message.last:
            self._naming[name] = _silence(engine)
            return
        self._naming.pop(name, None)
        for row in self._ledger.at(name):
            place = row.places[name]
            if row.ended or place.told == row.version:
                continue
            if place.identity == engine.identity:
                self._ledger.owe(name, row.pin_id, retry_at=0.0, reason=place.reason)
            else:
                place.reason = f"the instance now serves {engine.namespace.model!r} otherwise"
        self.nudge(engine)

    def misses(self, engine: EngineRecord) -> bool:
        """Whether pins that an engine was to name have not come and it should begin anew."""
        naming = self._naming.get(engine.instance_id)
        return naming is not None and naming.expired

    def adopt(self, engine: EngineRecord, message: Heartbeat) -> None:
        """Take in pins that requests have asked an engine for, and acknowledge them once synced.

        Who is being acknowledged to names the rest again with its next heartbeat.
        """
        name = engine.instance_id
        if name in self._acknowledging and not self._acknowledging[name].done():
            return
        reports = {report.pin_id: report for report in message.pins}
        taken = {
            request.pin_id: request.version
            for request in message.pin_requests
            if request.pin_id in reports and self._take_in(engine, request, reports[request.pin_id])
        }
        # What the ledger has ended or made otherwise the engine is to hear of.
        self.nudge(engine)
        self._acknowledging[name] = asyncio.create_task(self._acknowledge(engine, taken))

    async def _acknowledge(self, engine: EngineRecord, versions: dict[str, int]) -> None:
        try:
            await self._ledger.synced(Deadline(COMMAND_SECONDS))
        except LMCacheError as error:
            log.info("reconciler.not_adopted", instance_id=engine.instance_id, reason=str(error))
            return
        adopted = Adopted(
            instance_id=engine.instance_id, incarnation=engine.incarnation, versions=versions
        )
        await self._send(engine.peer, adopted)

    def _take_in(self, engine: EngineRecord, request: PinRequest, report: PinReport) -> bool:
        """Compare what an engine holds with the ledger; whether that has it so now."""
        name = engine.instance_id
        row = self._ledger.get(request.pin_id)
        buried = self._ledger.tombstones.version(request.pin_id, name)
        if buried is not None and buried >= request.version:
            return False
        if row is not None and not row.ended and row.content.owner != request.owner:
            self._ledger.tombstones.bury(request.pin_id, name, request.version)
            return False
        if row is not None and (row.ended or row.version > request.version):
            if row.ended or name not in row.places:
                self._ledger.tombstones.bury(request.pin_id, name, row.version)
            return False
        if row is not None and row.version == request.version and name in row.places:
            self._ledger.take(name, report)
            return True
        try:
            self._ledger.adopt(name, engine.identity, request, report)
        except LedgerFullError as error:
            log.warning("pin.not_adopted", pin_id=request.pin_id, reason=str(error))
            return False
        return True

    def gone(self, engine: EngineRecord) -> None:
        """An engine cannot be asked any more."""
        self._ledger.lose(engine.instance_id, f"the engine is {engine.state.value}")
        self._ledger.leave(engine.instance_id)
        self._naming.pop(engine.instance_id, None)
        for tasks in (self._tasks, self._acknowledging):
            task = tasks.pop(engine.instance_id, None)
            if task is not None:
                task.cancel()

    def nudge(self, engine: EngineRecord) -> None:
        """Tell an engine what it is owed, unless it is being told or has yet to name its pins."""
        name = engine.instance_id
        task = self._tasks.get(name)
        if name in self._naming or (task is not None and not task.done()):
            return
        self._tasks.pop(name, None)
        if self._ledger.owed(name, time.monotonic()) or self._ledger.tombstones.owed(name):
            self._tasks[name] = asyncio.create_task(self._settle(engine))

    async def close(self) -> None:
        """Stop telling."""
        tasks = [*self._tasks.values(), *self._acknowledging.values()]
        self._tasks.clear()
        self._acknowledging.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _settle(self, engine: EngineRecord) -> None:
        name = engine.instance_id
        try:
            await self._ledger.synced(Deadline(COMMAND_SECONDS))
            for pin_id, version in self._ledger.tombstones.owed(name):
                await self._tell_released(engine, pin_id, version)
            for row in self._ledger.owed(name, time.monotonic()):
                await self._tell(engine, row.pin_id)
        except LMCacheError as error:
            # It is away or slow; its next sign of life begins this again.
            log.info("reconciler.interrupted", instance_id=name, reason=str(error))
        except Exception:
            log.exception("reconciler.failed", instance_id=name)

    async def _tell_released(self, engine: EngineRecord, pin_id: str, version: int) -> None:
        try:
            await self._keeper.tell_released(engine, pin_id, version, Deadline(COMMAND_SECONDS))
        except EngineRefusedError as error:
            # It holds a higher version, which it will report or has reported.
            log.warning("pin.release_refused", pin_id=pin_id, reason=str(error))
            self._ledger.tombstones.acknowledge(pin_id, engine.instance_id, version)

    async def _tell(self, engine: EngineRecord, pin_id: str) -> None:
        try:
            await self._keeper.tell(engine, pin_id, Deadline(COMMAND_SECONDS))
        except EngineRefusedError as error:
            retry_at = time.monotonic() + RETRY_SECONDS
            row = self._ledger.get(pin_id)
            if row is not None and engine.instance_id in row.places:
                self._ledger.owe(engine.instance_id, pin_id, retry_at=retry_at, reason=str(error))
            log.warning("pin.not_held", pin_id=pin_id, reason=str(error))


def _silence(engine: EngineRecord) -> Deadline:
    """How long it may be until the next part of the pins that an engine names."""
    return Deadline(engine.heartbeat_seconds * SILENT_AFTER_HEARTBEATS)
