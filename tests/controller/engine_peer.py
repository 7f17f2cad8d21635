"""A scripted engine: real messages over the real transport, and every fault on demand.

``python -m tests.controller.engine_peer ADDRESS INSTANCE_ID`` runs one that
caches every token below 1000, for tests that kill or freeze a process.
"""

from __future__ import annotations

import itertools
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import msgspec

from lmcache_core.api.messages import (
    Adopted,
    ClearCommand,
    Command,
    Events,
    Goodbye,
    Heartbeat,
    Held,
    Identify,
    MoveCommand,
    PinCommand,
    PlanCommand,
    Progress,
    RecodeCommand,
    Refused,
    Register,
    RenewCommand,
    Reply,
    SettleCommand,
    TierStatus,
    UnpinCommand,
    WantSnapshot,
    Welcome,
)
from lmcache_core.api.pins import OnMissing, PinReport, PinRequest, PinState
from lmcache_core.api.transport import EngineLink
from lmcache_core.keys import EMPTY_SCOPE, KeyChain, Namespace, Scope, tokens_to_bytes
from lmcache_core.plugins import PluginRegistry

MEMORY = "LocalCPUBackend"
DISK = "LocalDiskBackend"
CHUNK_TOKENS = 16
NAMESPACE = Namespace(model="peer", weights="00", chunk_size=CHUNK_TOKENS)
PATIENCE_SECONDS = 15.0

_incarnations = itertools.count(time.time_ns())


def tier(location: str, store_id: str = "") -> TierStatus:
    return TierStatus(location=location, kind="memory", capacity_bytes=1 << 20, store_id=store_id)


def eventually(holds: Callable[[], Any]) -> Any:
    """Ask until something is true; return it."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        if found := holds():
            return found
        time.sleep(0.01)
    raise AssertionError("it did not come true")


class EnginePeer:
    """One engine.

    Every call runs on the thread that owns the link, as in a real engine.

    Attributes:
        answering: False lets commands go unanswered.
        beating: False lets heartbeats stop.
        naming: False lets the pins that it holds get lost on their way.
        refusal: A failure that pins are answered with, or None.
        facts: What chunks that were encoded anew are answered with.
        moves: Tokens that moves are answered with.
        store_id: Names the store below, which it shares with others; empty for none.
        ledger_id: The ledger that its pins are in; empty for none.
        before_reply: Called with each command before it is answered.
        commands: What was asked, in order.
        held: Pins by id.
        adopted: Versions of pins of requests that the ledger has acknowledged.
        refused: Reasons the controller gave for refusing this engine.
        welcomes: How often it was welcomed.
    """

    def __init__(
        self,
        address: str,
        instance_id: str = "peer",
        *,
        namespace: Namespace = NAMESPACE,
        locations: Sequence[str] = (MEMORY, DISK),
        heartbeat_seconds: float = 0.2,
        serving_url: str | None = None,
        incarnation: int | None = None,
        held: Mapping[str, PinRequest] = {},
        store_id: str = "",
        ledger_id: str = "",
    ) -> None:
        spec = PluginRegistry.discover().transport(address)
        self.link: EngineLink = spec.load()(spec.config()).dial(address)
        self.instance_id = instance_id
        self.incarnation = next(_incarnations) if incarnation is None else incarnation
        self.namespace = namespace
        self.locations = tuple(locations)
        self.heartbeat_seconds = heartbeat_seconds
        self.serving_url = serving_url
        self.answering = True
        self.beating = True
        self.naming = True
        self.refusal: tuple[str, dict[str, int]] | None = None
        self.before_reply: Callable[[Command], None] = lambda _command: None
        self.tells_facts = False
        self.facts: dict[str, int] = {}
        self.moves = 0
        self.store_id = store_id
        self.ledger_id = ledger_id
        self.commands: list[Command] = []
        self.held: dict[str, PinRequest] = dict(held)
        self.adopted: dict[str, int] = {}
        self.refused: list[str] = []
        self.welcomes = 0
        self.snapshots = 0
        self.identified = 0
        self.keys: dict[str, set[bytes]] = {name: set() for name in self.locations}
        self.sequence = 0
        self._versions: dict[str, int] = {}
        self._due: dict[str, float] = {}
        self._calls: queue.Queue[Callable[[], None]] = queue.Queue()
        self._welcomed = False
        self._stop = threading.Event()
        self._paused = threading.Event()
        self._still = threading.Event()
        self._next_register = 0.0
        self._next_beat = 0.0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        self.wait_welcome()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # -- what a test does ------------------------------------------------

    def wait_welcome(self, times: int = 1) -> None:
        eventually(lambda: self.welcomes >= times)

    def call(self, act: Callable[[], None]) -> None:
        """Run something on the peer's thread and wait for it."""
        done = threading.Event()
        self._calls.put(lambda: (act(), done.set()))  # type: ignore[func-returns-value,arg-type]
        self.link.wake()
        assert done.wait(PATIENCE_SECONDS)

    def cache(
        self, tokens: Sequence[int], location: str = MEMORY, scope: Scope = EMPTY_SCOPE
    ) -> None:
        """Cache some tokens and tell the controller."""
        self.call(lambda: self._admit(self._keys(tokens_to_bytes(tokens), scope), location))

    def evict(
        self, tokens: Sequence[int], location: str = MEMORY, scope: Scope = EMPTY_SCOPE
    ) -> None:
        keys = self._keys(tokens_to_bytes(tokens), scope)

        def act() -> None:
            self.keys[location] -= set(keys)
            self._send_events(location, evicted=b"".join(keys))

        self.call(act)

    def skip_event(self) -> None:
        """Lose a batch on the way."""

        def act() -> None:
            self.sequence += 1

        self.call(act)

    def send(self, message: Any) -> None:
        self.call(lambda: self.link.send(message))

    def send_raw(self, *parts: bytes) -> None:
        """Send bytes that are no message."""
        self.call(lambda: self.link._socket.send_multipart(list(parts)))  # type: ignore[attr-defined]

    def tell_progress(self, command: Command, done: int, total: int) -> None:
        """Say how far a command is that is not answered yet."""
        self.send(
            Progress(
                instance_id=self.instance_id,
                incarnation=self.incarnation,
                request_id=command.request_id,
                done=done,
                total=total,
            )
        )

    def pause(self) -> None:
        """Read and send nothing, as a stopped process."""
        self._still.clear()
        self._paused.set()
        if threading.current_thread() is not self._thread:
            assert self._still.wait(PATIENCE_SECONDS)

    def resume(self) -> None:
        self._paused.clear()

    def stop(self, *, goodbye: bool = True) -> None:
        if self._stop.is_set():
            return
        if goodbye and not self._paused.is_set():
            self.send(Goodbye(instance_id=self.instance_id, incarnation=self.incarnation))
        self._stop.set()
        self.link.wake()
        self._thread.join(PATIENCE_SECONDS)
        self.link.close()

    def asked(self, kind: type[Command]) -> list[Any]:
        return [command for command in self.commands if isinstance(command, kind)]

    # -- what an engine does ---------------------------------------------

    def _run(self) -> None:
        while not self._stop.is_set():
            if self._paused.is_set():
                self._still.set()
                time.sleep(0.01)
                continue
            while not self._calls.empty():
                self._calls.get()()
            message = self.link.receive(0.02)
            if message is not None:
                self._take(message)
            now = time.monotonic()
            self._expire(now)
            if not self._welcomed and now >= self._next_register:
                self._next_register = now + 0.2
                self._register()
            elif self._welcomed and self.beating and now >= self._next_beat:
                self._beat(now)

    def _take(self, message: Any) -> None:
        if isinstance(message, Command):
            self.commands.append(message)
            if self.answering:
                self.before_reply(message)
                self.link.send(self._answer(message))
        elif isinstance(message, Identify):
            self.identified += 1
            self._welcomed = False
            self._next_register = 0.0
        elif isinstance(message, WantSnapshot):
            self._send_snapshot()
        elif isinstance(message, Adopted):
            self.adopted |= message.versions
        elif isinstance(message, Refused) and message.incarnation == self.incarnation:
            self.refused.append(message.reason)
        elif isinstance(message, Welcome) and message.incarnation == self.incarnation:
            self._welcomed = True
            self._next_beat = time.monotonic() + self.heartbeat_seconds
            if self.naming:
                self._name_pins()
            if message.want_snapshot:
                self._send_snapshot()
            self.welcomes += 1

    def _tiers(self) -> tuple[TierStatus, ...]:
        return tuple(tier(name, self.store_id * (name == DISK)) for name in self.locations)

    def introduction(self) -> dict[str, Any]:
        """What it registers with."""
        return {
            "instance_id": self.instance_id,
            "incarnation": self.incarnation,
            "namespace": self.namespace,
            "tiers": self._tiers(),
            "sequence": self.sequence,
            "pid": os.getpid(),
            "host": "peerhost",
            "serving_url": self.serving_url,
            "heartbeat_seconds": self.heartbeat_seconds,
            "ledger_id": self.ledger_id,
        }

    def _register(self) -> None:
        self.link.send(Register(**self.introduction()))

    def _name_pins(self) -> None:
        self.link.send(
            Held(
                instance_id=self.instance_id,
                incarnation=self.incarnation,
                pins=tuple(self._report(request) for request in self.held.values()),
                pin_requests=tuple(self._left(request) for request in self.held.values()),
                last=True,
            )
        )

    def _beat(self, now: float) -> None:
        self._next_beat = now + self.heartbeat_seconds
        self.link.send(
            Heartbeat(
                instance_id=self.instance_id,
                incarnation=self.incarnation,
                sequence=self.sequence,
                tiers=self._tiers(),
                counters={"hit_tokens": 3},
                pins=tuple(self._report(request) for request in self.held.values()),
            )
        )

    def _answer(self, command: Command) -> Reply:
        if isinstance(command, PinCommand):
            return self._hold(command, command.pin)
        if isinstance(command, RenewCommand):
            return self._renew(command)
        if isinstance(command, PlanCommand):
            return self._plan(command)
        if isinstance(command, UnpinCommand):
            return self._unpin(command)
        if isinstance(command, ClearCommand):
            return self._reply(command, num_tokens=self._clear(command))
        if isinstance(command, SettleCommand) and self.tells_facts:
            facts = {
                name: self._prefix(command.tokens, command.scope, name) for name in self.locations
            }
            return self._reply(command, facts=facts)
        if isinstance(command, MoveCommand):
            return self._reply(command, num_tokens=self.moves)
        if isinstance(command, RecodeCommand):
            return self._reply(command, facts=self.facts)
        return self._reply(command)

    def _hold(self, command: Command, request: PinRequest) -> Reply:
        if self.refusal is not None:
            error, facts = self.refusal
            return self._reply(command, error=error, detail=f"refused: {error}", facts=facts)
        if self._versions.get(request.pin_id, 0) > request.version:
            return self._reply(command, error="conflict", detail="a higher version is held")
        self.held[request.pin_id] = request
        self._versions[request.pin_id] = request.version
        if request.ttl_seconds is not None:
            self._due[request.pin_id] = time.monotonic() + request.ttl_seconds
        report = self._report(request)
        return self._reply(command, num_tokens=report.tokens_pinned, pin=report)

    def _renew(self, command: RenewCommand) -> Reply:
        renewal = command.renewal
        held = self.held.get(renewal.pin_id)
        if held is None or held.version != renewal.since:
            return self._reply(command, error="not_held", detail="ask for it with its tokens")
        return self._hold(command, renewal.of(held))

    def _plan(self, command: PlanCommand) -> Reply:
        cached = self._prefix(command.pin.tokens, command.pin.scope, command.pin.location)
        facts = {
            "cached_tokens": cached,
            "asked_bytes": cached * 4,
            "pinned_bytes": 0,
            "pin_limit_bytes": 128,
            "charged_bytes": cached * 4,
            "owner_bytes": 0,
        }
        return self._reply(command, num_tokens=cached, facts=facts)

    def _unpin(self, command: UnpinCommand) -> Reply:
        if self._versions.get(command.pin_id, 0) > command.version:
            return self._reply(command, error="conflict", detail="a higher version is held")
        self._versions[command.pin_id] = command.version
        request = self.held.pop(command.pin_id, None)
        pinned = 0 if request is None else self._report(request).tokens_pinned
        return self._reply(command, num_tokens=pinned)

    def _clear(self, command: ClearCommand) -> int:
        count = len(self.keys[command.location])
        self.keys[command.location].clear()
        self._send_snapshot()
        return count

    def _report(self, request: PinRequest) -> PinReport:
        asked = len(request.tokens) // 4
        pinned = self._prefix(request.tokens, request.scope, request.location)
        waits = request.on_missing is OnMissing.RESERVE and not pinned
        state = PinState.PENDING if waits else PinState.PARTIAL
        due = self._due.get(request.pin_id)
        return PinReport(
            pin_id=request.pin_id,
            version=request.version,
            state=PinState.ACTIVE if pinned == asked else state,
            tokens_asked=asked,
            tokens_pinned=pinned,
            first_missing=None if pinned == asked else pinned,
            pinned_bytes=pinned * 4,
            ttl_seconds=None if due is None else max(0.0, due - time.monotonic()),
        )

    def _left(self, request: PinRequest) -> PinRequest:
        due = self._due.get(request.pin_id)
        if due is None:
            return request
        return msgspec.structs.replace(request, ttl_seconds=max(0.0, due - time.monotonic()))

    def _expire(self, now: float) -> None:
        for pin_id, due in list(self._due.items()):
            if due <= now:
                del self._due[pin_id]
                self.held.pop(pin_id, None)

    def _prefix(self, tokens: bytes, scope: Scope, location: str) -> int:
        found = 0
        for key in self._keys(tokens, scope):
            if key not in self.keys[location]:
                break
            found = min(found + CHUNK_TOKENS, len(tokens) // 4)
        return found

    def _keys(self, tokens: bytes, scope: Scope) -> list[bytes]:
        chain = KeyChain(
            KeyChain.seed(self.namespace.digest(), scope.digest()), self.namespace.chunk_size
        )
        chain.extend_bytes(tokens)
        rest = len(tokens) // 4 % self.namespace.chunk_size
        return [*chain.keys, *([chain.key(len(chain.keys), rest)] if rest else [])]

    def _admit(self, keys: list[bytes], location: str) -> None:
        self.keys[location].update(keys)
        self._send_events(location, admitted=b"".join(keys))

    def _send_events(self, location: str, **fields: Any) -> None:
        self.sequence += 1
        self.link.send(
            Events(
                instance_id=self.instance_id,
                incarnation=self.incarnation,
                sequence=self.sequence,
                location=location,
                **fields,
            )
        )

    def _send_snapshot(self) -> None:
        self.snapshots += 1
        for name in self.locations:
            self._send_events(
                name,
                admitted=b"".join(self.keys[name]),
                snapshot=True,
                last=name == self.locations[-1],
            )

    def _reply(self, command: Command, **fields: Any) -> Reply:
        return Reply(
            instance_id=self.instance_id,
            incarnation=self.incarnation,
            request_id=command.request_id,
            **fields,
        )


def main() -> None:
    """Run one engine until it is killed."""
    peer = EnginePeer(sys.argv[1], sys.argv[2], heartbeat_seconds=float(sys.argv[3]))
    peer.wait_welcome()
    peer.cache(list(range(1000)))
    print("ready", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
