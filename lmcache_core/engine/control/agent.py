"""The engine's end of the control connection: one thread, one outgoing link."""

from __future__ import annotations

import os
import random
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from lmcache_core import __version__
from lmcache_core.api.deadline import Deadline
from lmcache_core.api.messages import (
    Adopted,
    Command,
    ControllerMessage,
    Goodbye,
    Heartbeat,
    Identify,
    Refused,
    Register,
    Reply,
    SettleCommand,
    WantSnapshot,
    Welcome,
)
from lmcache_core.api.pins import PinReport
from lmcache_core.api.transport import EngineLink
from lmcache_core.engine.cache.engine import CacheEngine
from lmcache_core.engine.control.commands import CommandRunner
from lmcache_core.engine.control.event_feed import EventFeed
from lmcache_core.engine.control.held_replies import HeldReplies
from lmcache_core.engine.control.pin_expiry import PinExpiry
from lmcache_core.engine.control.progress import ProgressTeller
from lmcache_core.engine.control.request_pins import RequestPins
from lmcache_core.engine.control.roll import Roll
from lmcache_core.engine.pins.table import PINS_AT_ONCE
from lmcache_core.log import bound, get_logger

log = get_logger(__name__)

TICK_SECONDS = 0.05
"""How often events are sent and deadlines looked at while nothing else happens."""

PINS_TOLD_SECONDS = 0.25
"""How soon a command's effect on other pins is told at the latest; its own is
in the answer. A heartbeat after each would cost the serving step as much as the commands."""

FIRST_RETRY_SECONDS = 0.5
LONGEST_RETRY_SECONDS = 10.0
PAUSE_SECONDS = 0.003
"""Between two parts of long work. While this thread runs Python the serving
thread does not, so it does a fraction of a millisecond and waits for ten times that."""

MAX_WAITING = 1024
"""Commands that may wait for stores at once; more are answered as things stand."""

CLOSE_SECONDS = 2.0


class Waiting(NamedTuple):
    """A command that waits for stores of its tokens."""

    command: Command
    until: Deadline


class ControlAgent:
    """Registers, heartbeats, streams events and answers commands.

    Args:
        engine: The engine it speaks for.
        link: The connection; the agent closes it.
        instance_id: The engine's configured id.
        heartbeat_seconds: How often it is heard of at least.
        serving_url: Where the serving engine answers, or None.
        request_pins: Pins that requests ask for, or None where they may not.
        pin_changed: Called with each report of a pin that changed, off the
            data path.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        engine: CacheEngine,
        link: EngineLink,
        *,
        instance_id: str,
        heartbeat_seconds: float,
        serving_url: str | None = None,
        request_pins: RequestPins | None = None,
        pin_changed: Callable[[PinReport], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._link = link
        self._instance_id = instance_id
        self._incarnation = time.time_ns()
        self._heartbeat_seconds = heartbeat_seconds
        self._serving_url = serving_url
        self._request_pins = request_pins
        self._pin_changed = pin_changed
        self._clock = clock
        self._runner = CommandRunner(engine, instance_id, self._incarnation)
        self._progress = ProgressTeller(link.send, instance_id, self._incarnation)
        self._roll = Roll(engine.tiers, link.send, instance_id, self._incarnation)
        self._feed = EventFeed(engine.tiers, link.send, instance_id, self._incarnation)
        self._feeds = False
        self._expiry = PinExpiry(engine.tiers)
        self._waiting: list[Waiting] = []
        tiers = engine.tiers
        self._held = HeldReplies(tiers, tiers.keeping, link.wake) if tiers.keeping.keeps else None
        self._recovered = tiers.recovered
        self._welcomed = False
        self._namespace = engine.tiers.namespace
        self._retry_seconds = FIRST_RETRY_SECONDS
        self._next_register = 0.0
        self._next_heartbeat = 0.0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lmcache-control", daemon=True)

    def start(self) -> None:
        """Start the thread; the engine tells it when stores are done."""
        self._engine.tiers.events.enable()
        self._engine.settled = self._wake_if_waiting
        if self._held is not None:
            self._engine.tiers.keeping.carried_out = self._held.note
        self._thread.start()

    def close(self) -> None:
        """Say goodbye and stop, within a bound; idempotent."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        self._engine.settled = None
        self._engine.tiers.keeping.carried_out = lambda: None
        self._link.wake()
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            log.warning("agent.close_abandoned", seconds=CLOSE_SECONDS)

    def _wake_if_waiting(self) -> None:
        if self._waiting or (self._request_pins is not None and self._request_pins.waits):
            self._link.wake()

    def _run(self) -> None:
        next_tick = 0.0
        try:
            while not self._stopping.is_set():
                busy = self._roll.under_way or self._feeds
                pause = PAUSE_SECONDS if busy else TICK_SECONDS
                message = self._link.receive(pause)
                try:
                    if message is not None:
                        self._take(message)
                    if self._held is not None and self._held.due:
                        self._answer_held()
                    if isinstance(message, Command) and self._clock() < next_tick:
                        continue  # Many commands are not each followed by a look at all else.
                    self._tick()
                    next_tick = self._clock() + TICK_SECONDS
                except Exception:
                    # One bad message or a defect must not end the control
                    # connection for good; the engine serves on either way.
                    log.exception("agent.tick_failed")
            if self._welcomed:
                self._link.send(
                    Goodbye(instance_id=self._instance_id, incarnation=self._incarnation)
                )
        finally:
            self._link.close()

    def _tick(self) -> None:
        now = self._clock()
        self._answer_waiting()
        self._answer_held()
        self._tell_of_restored()
        if self._request_pins is not None and self._request_pins.settle():
            self._next_heartbeat = min(self._next_heartbeat, now + PINS_TOLD_SECONDS)
        self._expiry.look()
        if self._engine.tiers.namespace is not self._namespace:
            # The weights' epoch was raised: the controller computes keys too.
            self._leave()
            self._next_register = 0.0
        if not self._welcomed:
            if now >= self._next_register:
                self._register(now)
            return
        if not self._roll.under_way:
            self._feeds = self._feed.send_some()
        elif not self._roll.send_some():
            # Who has not heard of all pins must not believe that it has.
            self._leave()
            return
        if now >= self._next_heartbeat:
            self._heartbeat(now)

    def _take(self, message: ControllerMessage) -> None:
        if isinstance(message, Command):
            self._take_command(message)
        elif isinstance(message, Identify):
            # It comes for each message that was on the way to a controller
            # which has forgotten this engine; one registration answers all.
            if self._welcomed:
                self._leave()
                self._next_register = 0.0
        elif isinstance(message, WantSnapshot):
            self._feed.begin_snapshot()
        elif message.incarnation != self._incarnation:
            return
        elif isinstance(message, Adopted):
            self._note_adopted(message)
        elif isinstance(message, Welcome):
            self._welcomed = True
            self._runner.bond.welcome(message)
            self._retry_seconds = FIRST_RETRY_SECONDS
            self._next_heartbeat = self._clock() + self._heartbeat_seconds
            self._roll.begin()
            if message.want_snapshot:
                self._feed.begin_snapshot()
        elif isinstance(message, Refused):
            self._leave()
            log.warning("agent.refused", reason=message.reason)

    def _leave(self) -> None:
        """Be unknown to the controller until it welcomes this engine again."""
        self._welcomed = False
        self._feeds = False
        self._roll.cut()
        self._feed.cut()

    def _take_command(self, command: Command) -> None:
        if len(self._waiting) < MAX_WAITING and self._runner.must_wait(command):
            # Some of the caller's time is kept for the answer's way back.
            self._waiting.append(Waiting(command, Deadline(command.deadline_seconds * 0.8)))
        else:
            self._answer(command)

    def _answer_waiting(self) -> None:
        if not self._waiting:
            return
        still = []
        for waiting in self._waiting:
            if waiting.until.expired or not self._runner.must_wait(waiting.command):
                self._answer(waiting.command)
            else:
                still.append(waiting)
        self._waiting = still
        commands = (waiting.command for waiting in still)
        progress = {one.request_id: self._runner.progress(one) for one in commands}
        self._progress.tell({name: far for name, far in progress.items() if far is not None})

    def _answer_held(self) -> None:
        if self._held is not None:
            for command, reply in self._held.take():
                self._send_reply(command, reply)

    def _tell_of_restored(self) -> None:
        if not self._recovered and self._engine.tiers.recovered:
            # Who has registered it meanwhile is to hear of its pins, and of their ledger.
            self._recovered = True
            self._leave()
            self._next_register = 0.0

    def _answer(self, command: Command) -> None:
        with bound(request_id=command.http_request_id):
            reply = self._runner.run(command)
        if isinstance(command, SettleCommand):
            # Who asks for this will look into the controller's index next.
            while self._feed.send_some():
                pass
        now = reply if self._held is None else self._held.hold(command, reply)
        if now is not None:
            self._send_reply(command, now)
        if self._engine.tiers.pins.has_changed:
            # The next heartbeat carries the pins that this has changed.
            self._next_heartbeat = min(self._next_heartbeat, self._clock() + PINS_TOLD_SECONDS)

    def _send_reply(self, command: Command, reply: Reply) -> None:
        sent = self._link.send(reply)
        if not sent:
            log.warning("agent.reply_dropped", request_id=command.request_id)
        if reply.pin is None:
            return
        if sent:
            self._pin_changed(reply.pin)
        else:
            self._note_untold([reply.pin])

    def _register(self, now: float) -> None:
        tiers = self._engine.tiers
        self._namespace = tiers.namespace
        self._link.send(
            Register(
                instance_id=self._instance_id,
                incarnation=self._incarnation,
                namespace=self._namespace,
                tiers=tiers.status(),
                sequence=self._feed.sequence,
                pid=os.getpid(),
                host=socket.gethostname(),
                serving_url=self._serving_url,
                version=__version__,
                heartbeat_seconds=self._heartbeat_seconds,
                ledger_id=self._runner.bond.serves,
            )
        )
        # Jitter keeps a fleet from knocking in step after a controller's restart.
        self._next_register = now + self._retry_seconds * random.uniform(0.5, 1.0)  # noqa: S311
        self._retry_seconds = min(self._retry_seconds * 2, LONGEST_RETRY_SECONDS)

    def _heartbeat(self, now: float) -> None:
        self._next_heartbeat = now + self._heartbeat_seconds
        local = [] if self._request_pins is None else self._request_pins.local()
        names = {report.pin_id for _, report in local}
        changed = [report for report in self._take_changed() if report.pin_id not in names]
        changed += [report for _, report in local]
        sent = self._link.send(
            Heartbeat(
                instance_id=self._instance_id,
                incarnation=self._incarnation,
                sequence=self._feed.sequence,
                tiers=self._engine.tiers.status(),
                counters=dict(self._engine.counters()),
                pins=tuple(changed),
                pin_requests=tuple(request for request, _ in local),
            )
        )
        if not sent:
            self._note_untold(changed)
            return
        for report in changed:
            self._pin_changed(report)

    def _note_adopted(self, message: Adopted) -> None:
        tiers = self._engine.tiers
        for pin_id, version in message.versions.items():
            if self._request_pins is None or not self._request_pins.acknowledge(pin_id, version):
                continue
            with tiers.lock:
                report = tiers.pins.report(pin_id)
            if report is not None:
                self._pin_changed(report)

    def _note_untold(self, reports: Sequence[PinReport]) -> None:
        with self._engine.tiers.lock:
            self._engine.tiers.pins.note_untold(report.pin_id for report in reports)

    def _take_changed(self) -> list[PinReport]:
        tiers = self._engine.tiers
        changed: list[PinReport] = []
        while True:
            with tiers.lock:
                batch = tiers.pins.take_changed()
            changed += batch
            if len(batch) < PINS_AT_ONCE:
                return changed
            self._stopping.wait(PAUSE_SECONDS)
