"""Taking what engines send, one message at a time."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter

from lmcache_core.api.messages import (
    EngineMessage,
    Events,
    Goodbye,
    HealthCommand,
    Heartbeat,
    Held,
    Identify,
    Progress,
    Refused,
    Register,
    Reply,
    WantSnapshot,
    Welcome,
)
from lmcache_core.api.transport import ControllerListener, Peer
from lmcache_core.controller.commands import Commands
from lmcache_core.controller.directory import Directory
from lmcache_core.controller.engine_record import EngineRecord, EngineState
from lmcache_core.controller.ledger import Ledger
from lmcache_core.controller.placement import Placement
from lmcache_core.controller.reconciler import Reconciler
from lmcache_core.errors import LMCacheError
from lmcache_core.log import get_logger

log = get_logger(__name__)

MESSAGES_PER_TURN = 16
"""A queue that is never empty must not keep requests from being served."""

SWEEP_SECONDS = 0.25
PROBE_SECONDS = 1.0


class Reception:
    """The controller's ear: keeps directory, placement and ledger true.

    Args:
        listener: Where engines dial.
        directory: The engines.
        placement: Who holds what.
        ledger: The pins.
        commands: Where replies go.
        reconciler: Told of engines that come and go.
    """

    def __init__(
        self,
        listener: ControllerListener,
        *,
        directory: Directory,
        placement: Placement,
        ledger: Ledger,
        commands: Commands,
        reconciler: Reconciler,
    ) -> None:
        self._listener = listener
        self._directory = directory
        self._placement = placement
        self._ledger = ledger
        self._commands = commands
        self._reconciler = reconciler
        self.messages: Counter[str] = Counter()

    async def run(self) -> None:
        """Take messages for ever; a defect costs the message that showed it."""
        while True:
            for _ in range(MESSAGES_PER_TURN):
                peer, message = await self._listener.receive()
                self.messages[type(message).__name__.lower()] += 1
                try:
                    await self._take(peer, message)
                except LMCacheError as error:
                    log.warning("reception.message_refused", reason=str(error))
                except Exception:
                    log.exception("reception.message_failed", message=type(message).__name__)
            await asyncio.sleep(0)

    async def sweep(self) -> None:
        """Notice for ever engines that are silent and pins whose time is up."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            try:
                for engine in self._directory.sweep():
                    self._gone(engine, "has not been heard of for three heartbeats")
                for row in self._ledger.expire():
                    log.info("pin.expired", pin_id=row.pin_id)
            except Exception:
                log.exception("reception.sweep_failed")

    async def _take(self, peer: Peer, message: EngineMessage) -> None:
        if isinstance(message, Register):
            await self._register(peer, message)
            return
        if isinstance(message, Reply):
            # A reply that comes after its deadline still tells what is held.
            if not self._commands.take(message) and message.pin is not None:
                self._ledger.take(message.instance_id, message.pin)
            return
        engine = self._directory.heard(peer, message.instance_id, message.incarnation)
        if engine is not None:
            await self._hear(engine, message)
        elif not isinstance(message, Goodbye):
            await self._listener.send(peer, Identify())

    async def _hear(self, engine: EngineRecord, message: EngineMessage) -> None:
        """Take what a registered engine says."""
        if isinstance(message, Heartbeat):
            await self._heartbeat(engine, message)
        elif isinstance(message, Held):
            if engine.other_ledger is None:
                self._reconciler.take(engine, message)
        elif isinstance(message, Progress):
            self._commands.note_progress(message)
        elif isinstance(message, Events):
            if self._placement.take(message):
                await self._listener.send(engine.peer, WantSnapshot())
        else:
            engine.state = EngineState.STOPPED
            self._gone(engine, "has said goodbye")

    async def _register(self, peer: Peer, message: Register) -> None:
        rival = self._directory.rival(message)
        if rival is not None:
            if await self._is_connected(rival):
                reason = (
                    f"another engine, process {rival.pid} on host {rival.host!r}, is live under "
                    f"the id {message.instance_id!r}; set lmcache_instance_id to another one"
                )
                log.warning("engine.refused", instance_id=message.instance_id, reason=reason)
                await self._listener.send(
                    peer,
                    Refused(
                        instance_id=message.instance_id,
                        incarnation=message.incarnation,
                        reason=reason,
                    ),
                )
                return
            self._gone(rival, "has lost its connection and another has taken its id")
        known = next((e for e in self._directory if e.instance_id == message.instance_id), None)
        engine = self._directory.register(peer, message)
        ledger = self._ledger
        adopts = engine.adopts or ledger.is_new
        others = message.ledger_id not in ("", ledger.ledger_id) and not adopts
        engine.other_ledger = message.ledger_id if others else None
        want = self._placement.start(engine, message.sequence, anew=engine is not known)
        log.info(
            "engine.registered",
            instance_id=engine.instance_id,
            incarnation=engine.incarnation,
            host=engine.host,
            pid=engine.pid,
            model=engine.namespace.model,
            locations=engine.locations,
        )
        await self._listener.send(
            peer,
            Welcome(
                instance_id=engine.instance_id,
                incarnation=engine.incarnation,
                ledger_id=ledger.ledger_id,
                want_snapshot=want,
                adopts=adopts,
            ),
        )
        if engine.other_ledger is None:
            self._reconciler.registered(engine)
        else:
            log.warning(
                "engine.other_ledger", instance_id=engine.instance_id, serves=message.ledger_id
            )
            ledger.lose(engine.instance_id, f"its pins are in the ledger {message.ledger_id}")

    async def adopt(self, engine: EngineRecord) -> bool:
        """Take over the pins of an engine that serves another ledger; whether it hears of it."""
        engine.adopts = True
        return await self._listener.send(engine.peer, Identify())

    async def _is_connected(self, engine: EngineRecord) -> bool:
        """Whether an engine's connection stands; a killed process's is gone at once."""
        probe = HealthCommand(request_id=f"probe.{uuid.uuid4()}", deadline_seconds=PROBE_SECONDS)
        return await self._listener.send(engine.peer, probe)

    async def _heartbeat(self, engine: EngineRecord, message: Heartbeat) -> None:
        engine.tiers = message.tiers or engine.tiers
        engine.counters = dict(message.counters)
        if engine.other_ledger is None:
            for report in message.pins:
                self._ledger.take(engine.instance_id, report)
            if message.pin_requests:
                self._reconciler.adopt(engine, message)
            self._reconciler.nudge(engine)
            if self._reconciler.misses(engine):
                await self._listener.send(engine.peer, Identify())
        if self._placement.note(engine.instance_id, message.sequence):
            await self._listener.send(engine.peer, WantSnapshot())

    def _gone(self, engine: EngineRecord, reason: str) -> None:
        log.info("engine.gone", instance_id=engine.instance_id, reason=reason)
        self._placement.drop(engine.instance_id)
        self._commands.abandon(engine, reason)
        self._reconciler.gone(engine)
