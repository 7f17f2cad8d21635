"""An engine over a real disk and a controller over a real ledger, in one thread, on set clocks.

The engine's control agent and the controller's reception are the real ones;
the agent's thread is not started and is stepped on the controller's event
loop instead, so that the same steps always end in the same state.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
from collections.abc import Coroutine, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from lmcache_core.api.connector import KVGroup
from lmcache_core.api.deadline import Deadline
from lmcache_core.api.frames import HEADER_BYTES
from lmcache_core.api.messages import ControllerMessage, EngineMessage, Goodbye
from lmcache_core.config import TierConfig
from lmcache_core.controller.commands import Commands
from lmcache_core.controller.directory import Directory
from lmcache_core.controller.engine_record import EngineState
from lmcache_core.controller.journal import Journal
from lmcache_core.controller.keeper import PinKeeper
from lmcache_core.controller.ledger import Ledger
from lmcache_core.controller.ledger_clock import LedgerClock
from lmcache_core.controller.ledger_file import LedgerFile
from lmcache_core.controller.lookup import Lookup
from lmcache_core.controller.placement import Placement
from lmcache_core.controller.reception import Reception
from lmcache_core.controller.reconciler import Reconciler
from lmcache_core.engine.chunks.geometry import Geometry
from lmcache_core.engine.control.agent import ControlAgent
from lmcache_core.engine.pins.keeping import PinKeeping
from lmcache_core.engine.tiers.restoring import PinRestoring
from lmcache_core.engine.tiers.stack import TierStack
from lmcache_core.plugins import PluginRegistry
from lmcache_core.testing.queue_transport import QueueLink, QueueTransport
from tests.engine.rig import BLOCK_TOKENS, CHUNK_TOKENS, Rig
from tests.engine.test_storage_tier import settle, settle_reads

INSTANCE = "one"
MEMORY = "LocalCPUBackend"
DISK = "LocalDiskBackend"
BLOCK_BYTES = 4096
GROUP = KVGroup(BLOCK_TOKENS, BLOCK_BYTES, clears_tails=True)
SLOT_BYTES = Geometry([GROUP]).slot_bytes(CHUNK_TOKENS)
FRAME_BYTES = HEADER_BYTES + Geometry([GROUP]).payload_bytes(CHUNK_TOKENS)

_ports = itertools.count(1)


class Clocks:
    """What each process takes for the time.

    Attributes:
        passed: Seconds that have passed.
        suspended: Those that the engine's machine was suspended for.
        set_by: What somebody has set the controller's clock by.
    """

    def __init__(self) -> None:
        self.passed = 1000.0
        self.suspended = 0.0
        self.set_by = 1_800_000_000.0

    def elapsed(self) -> float:
        """The controller's seconds that nobody sets."""
        return self.passed

    def wall(self) -> float:
        """The controller's Unix time."""
        return self.passed + self.set_by

    def engine(self) -> float:
        """The engine's monotonic seconds."""
        return self.passed - self.suspended

    def engine_wall(self) -> float:
        """The engine's Unix time, which nobody sets."""
        return self.passed + 1_800_000_000.0


def make_rig(folder: Path, *, chunks: int, disk_chunks: int, **overrides: object) -> Rig:
    """An engine with little memory over a disk with little room."""
    tiers = (
        TierConfig(MEMORY, chunks * SLOT_BYTES),
        TierConfig(DISK, disk_chunks * FRAME_BYTES, {"path": str(folder), "scrub_rate": 0}),
    )
    return Rig(
        chunks=chunks,
        block_bytes=BLOCK_BYTES,
        groups=[GROUP],
        overrides={"tiers": tiers, "instance_id": INSTANCE, **overrides},
        registry=installed(),
    )


@cache
def installed() -> PluginRegistry:
    """The plugins, looked for once."""
    return PluginRegistry.discover()


class Cable(QueueLink):
    """The engine's end of the connection, which can be cut: then nothing comes through."""

    is_cut = False

    def send(self, message: EngineMessage) -> bool:
        return self.is_cut or super().send(message)

    def receive(self, timeout_seconds: float) -> ControllerMessage | None:
        return None if self.is_cut else super().receive(timeout_seconds)


@contextlib.contextmanager
def on_clocks(clocks: Clocks) -> Iterator[None]:
    """Let engines that start meanwhile take these for the time, from their first moment on."""
    with pytest.MonkeyPatch.context() as patch:
        for made, name, clock in (
            (TierStack, "clock", clocks.engine),
            (PinKeeping, "wall", clocks.engine_wall),
            (PinRestoring, "wall", clocks.engine_wall),
        ):
            defaults = made.__init__.__kwdefaults__
            assert name in defaults
            patch.setitem(defaults, name, clock)
        yield


def settle_records(rig: Rig) -> None:
    """Wait until all that was to be kept so far is kept."""
    for tier in rig.engine.tiers.storage:
        done = threading.Event()
        assert tier.records is not None
        with rig.engine.tiers.lock:
            tier.records.sync(":settled", lambda _failure, done=done: done.set())
        assert done.wait(10)
    settle(rig)  # What they made room for is evicted behind.


class EngineSide:
    """An engine, and its agent without a thread."""

    def __init__(self, folder: Path, address: str, clocks: Clocks, quota_bytes: int) -> None:
        with on_clocks(clocks):
            self.rig = make_rig(folder, chunks=5, disk_chunks=6, pin_owner_quota_bytes=quota_bytes)
        engine = self.rig.engine
        self.link = Cable(address)
        self.agent = ControlAgent(
            engine,
            self.link,
            instance_id=INSTANCE,
            heartbeat_seconds=1e9,
            pin_changed=lambda _report: None,
            clock=clocks.engine,
        )
        engine.tiers.events.enable()

    def step(self) -> bool:
        """What the agent's thread does in one turn; whether there was anything to do."""
        message = self.link.receive(0)
        if message is not None:
            self.agent._take(message)
        self.agent._tick()
        return message is not None

    @property
    def idle(self) -> bool:
        """Whether the agent has nothing under way."""
        agent = self.agent
        if self.link.is_cut:
            return True
        held = agent._held is not None and agent._held._held
        tells = agent._roll.under_way or agent._feeds
        return not (agent._waiting or held or tells or self.link._arrived)

    @property
    def cut(self) -> bool:
        """Whether nothing comes through to it and from it."""
        return self.link.is_cut

    def beat(self) -> None:
        """Be due for a sign of life, or for another try to register."""
        self.agent._next_heartbeat = self.agent._next_register = 0.0

    def close(self, *, goodbye: bool) -> None:
        if goodbye and self.agent._welcomed:
            agent = self.agent
            self.link.send(Goodbye(instance_id=INSTANCE, incarnation=agent._incarnation))
        self.link.close()
        self.rig.__exit__()


class ControllerSide:
    """A controller without its web server and its sweep."""

    def __init__(self, journal: Journal, listener: Any, clocks: Clocks) -> None:
        self.journal, self.listener = journal, listener
        self.directory = Directory(clock=clocks.elapsed, wall=clocks.wall)
        self.placement = Placement()
        self.ledger = Ledger(journal, LedgerClock(clocks.wall, clocks.elapsed))
        self.commands = Commands(listener.send)
        self.keeper = PinKeeper(self.directory, self.ledger, self.commands)
        self.lookup = Lookup(self.directory, self.placement, self.commands)
        self.reconciler = Reconciler(self.ledger, self.keeper, listener.send)
        self.reception = Reception(
            listener,
            directory=self.directory,
            placement=self.placement,
            ledger=self.ledger,
            commands=self.commands,
            reconciler=self.reconciler,
        )
        self._task = asyncio.create_task(self.reception.run())

    @classmethod
    async def open(cls, path: Path, address: str, clocks: Clocks) -> ControllerSide:
        listener = await QueueTransport().listen(address)
        return cls(Journal(LedgerFile.open(path)), listener, clocks)

    @property
    def idle(self) -> bool:
        """Whether nothing is under way."""
        reconciler, journal = self.reconciler, self.journal
        # What waits for a commit that is made anyway may be lost by a crash.
        hurries = journal._alarm is not None and not isinstance(journal._alarm, asyncio.TimerHandle)
        tasks = [*reconciler._tasks.values(), *reconciler._acknowledging.values()]
        return (
            not self.listener._arrived
            and not self.commands.open
            and all(task.done() for task in tasks)
            and journal._writing is None
            and not hurries
        )

    async def miss_engine(self) -> None:
        """Notice that nothing has been heard of the engine, as the sweep does."""
        for engine in self.directory.live():
            engine.state = EngineState.SILENT
            self.reception._gone(engine, "has not been heard of")

    async def close(self, *, orderly: bool) -> None:
        """End; without order nothing more is written."""
        self.commands.close()
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        await self.reconciler.close()
        await self.listener.close()
        if not orderly:
            await self._forget()
        await self.journal.close()

    async def _forget(self) -> None:
        """Let what no commit has begun with be lost."""
        journal = self.journal
        if journal._alarm is not None:
            journal._alarm.cancel()
            journal._alarm = None
        journal._hurried = True
        journal._names.clear()
        if journal._writing is not None:
            await asyncio.shield(journal._writing)


class World:
    """Both sides, each of which may be away.

    Args:
        folder: Where frames and the ledger are kept.
        quota_bytes: What the pins of one owner may take.

    Attributes:
        engine: The engine, or None while it is away.
        controller: The controller, or None while it is away.
    """

    def __init__(self, folder: Path, quota_bytes: int) -> None:
        self.clocks = Clocks()
        self.disk = folder / "disk"
        self.disk.mkdir()
        self._ledger = folder / "pins.sqlite"
        self._quota_bytes = quota_bytes
        self._address = f"queue://pins:{next(_ports)}"
        self.loop = asyncio.new_event_loop()
        self.engine: EngineSide | None = None
        self.controller: ControllerSide | None = None

    def start_engine(self) -> None:
        self.engine = EngineSide(self.disk, self._address, self.clocks, self._quota_bytes)

    def stop_engine(self, *, goodbye: bool) -> None:
        assert self.engine is not None
        self.engine.close(goodbye=goodbye)
        self.engine = None

    def start_controller(self) -> None:
        opening = ControllerSide.open(self._ledger, self._address, self.clocks)
        self.controller = self.loop.run_until_complete(opening)

    def stop_controller(self, *, orderly: bool) -> None:
        assert self.controller is not None
        self.loop.run_until_complete(self.controller.close(orderly=orderly))
        self.controller = None

    @property
    def connected(self) -> bool:
        """Whether both sides are there and hear of each other."""
        return self.controller is not None and self.engine is not None and not self.engine.cut

    def cut(self) -> None:
        """Let nothing come through, until the controller has noticed that."""
        assert self.engine is not None
        self.engine.link.is_cut = True
        if self.controller is not None:
            self.loop.run_until_complete(self.controller.miss_engine())

    def mend(self) -> None:
        """Let messages through; what was sent meanwhile is lost."""
        assert self.engine is not None
        self.engine.link._arrived.clear()
        self.engine.link.is_cut = False

    def run(self, asked: Coroutine[Any, Any, Any]) -> Any:
        """Let both sides work until something is answered."""
        return self.loop.run_until_complete(self._beside(asked))

    def settle(self) -> None:
        """Let both sides work until neither has anything left to do."""
        for _ in range(2):  # What the first sign of life brings about is told with the second.
            if self.engine is not None:
                settle_reads(self.engine.rig)
                settle(self.engine.rig)
                settle_records(self.engine.rig)
                self.engine.beat()
            self.loop.run_until_complete(self._quiet())
            if self.engine is not None:
                settle_records(self.engine.rig)

    async def _quiet(self) -> None:
        deadline = Deadline(20)
        quiet = 0
        while quiet < 3:
            deadline.check("everything to be settled")
            if self.controller is not None:
                self.controller.ledger.expire()
            busy = self.engine is not None and self.engine.step()
            quiet = 0 if busy or not self._idle else quiet + 1
            # A commit and a disk have the processor to themselves; the rest is in turns.
            await asyncio.sleep(0 if busy or quiet else 0.0002)

    @property
    def _idle(self) -> bool:
        if self.engine is not None and not self.engine.idle:
            return False
        if self.controller is None:
            return True
        return self.controller.idle and (self.engine is None or not self.engine.link.waiting)

    async def _beside(self, asked: Coroutine[Any, Any, Any]) -> Any:
        stepping = asyncio.create_task(self._step())
        try:
            return await asked
        finally:
            stepping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await stepping

    async def _step(self) -> None:
        while True:
            busy = self.engine is not None and self.engine.step()
            # While a disk works, the processor is its own.
            await asyncio.sleep(0 if busy else 0.0002)

    def close(self) -> None:
        if self.engine is not None:
            self.stop_engine(goodbye=True)
        if self.controller is not None:
            self.stop_controller(orderly=True)
        self.loop.close()
