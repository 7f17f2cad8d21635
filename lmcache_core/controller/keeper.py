"""Making, changing and releasing pins: the ledger first, then the engines."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import NamedTuple

import msgspec

from lmcache_core.api.deadline import Deadline
from lmcache_core.api.messages import PinCommand, RenewCommand, Reply, UnpinCommand
from lmcache_core.api.pins import OnMissing, PinState, Renew
from lmcache_core.controller.commands import Commands
from lmcache_core.controller.directory import Directory
from lmcache_core.controller.engine_record import EngineRecord
from lmcache_core.controller.failures import (
    EngineRefusedError,
    LedgerFullError,
    LedgerUnavailableError,
    PreconditionError,
)
from lmcache_core.controller.ledger import Ledger
from lmcache_core.controller.pin_row import PinContent, PinRow, PlaceState
from lmcache_core.errors import (
    ConflictError,
    DeadlineExceededError,
    LMCacheError,
    UnknownNameError,
)

ANY_VERSION = -1
"""A precondition that every existing version meets."""


class Kept(NamedTuple):
    """What came of asking for a pin.

    Attributes:
        row: The pin.
        created: Whether it is new.
        num_tokens: Tokens pinned, by the engines' own answers.
    """

    row: PinRow
    created: bool
    num_tokens: int


class Released(NamedTuple):
    """What came of releasing a pin.

    Attributes:
        row: The pin, ended.
        num_tokens: Tokens released, by the engines' own answers.
        failures: Why engines have not acknowledged it; they are told again.
    """

    row: PinRow
    num_tokens: int
    failures: list[LMCacheError]


class Amendment(NamedTuple):
    """What is to be changed of a pin; what is unset stays.

    Attributes:
        ttl_seconds: How long it lives from now on, or None for no end.
        renew: Whether a hit starts the time anew.
        labels: The operator's own notes.
    """

    ttl_seconds: float | msgspec.UnsetType | None
    renew: Renew | msgspec.UnsetType
    labels: dict[str, str] | msgspec.UnsetType

    def of(self, content: PinContent) -> PinContent:
        """A content with the changes made."""
        changes = {k: v for k, v in self._asdict().items() if v is not msgspec.UNSET}
        return msgspec.structs.replace(content, **changes)


class PinKeeper:
    """Carries out changes of pins, one at a time per pin.

    Args:
        directory: The engines.
        ledger: The pins.
        commands: How engines are asked.
    """

    def __init__(self, directory: Directory, ledger: Ledger, commands: Commands) -> None:
        self._directory = directory
        self._ledger = ledger
        self._commands = commands
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}

    async def put(
        self,
        pin_id: str,
        content: PinContent,
        deadline: Deadline,
        *,
        if_match: int | None = None,
        if_none_match: bool = False,
    ) -> Kept:
        """Pin by name: equal content is kept as it is, unlike content needs its version.

        Raises:
            ConflictError: It exists with other content and ``if_match`` is None.
            PreconditionError: ``if_match`` or ``if_none_match`` does not hold.
        """
        async with self._changing(pin_id, deadline):
            old = self._living(pin_id)
            if if_none_match and old is not None:
                message = f"pin {pin_id!r} exists, at version {old.version}"
                raise PreconditionError(message)
            _check_version(pin_id, old, if_match)
            if old is not None and if_match is None:
                if not old.is_for(content):
                    message = (
                        f"pin {pin_id!r} exists with other content, at version {old.version}; "
                        f'to replace it send If-Match: "{old.version}"'
                    )
                    raise ConflictError(message)
                if old.state is PinState.ACTIVE:
                    await self._ledger.synced(deadline)
                    return Kept(old, created=False, num_tokens=old.tokens_pinned)
                return await self._ask_again(old, deadline)
            return await self._change(pin_id, old, content, deadline)

    async def renew(self, pin_id: str, content: PinContent, deadline: Deadline) -> Kept:
        """Pin, or start the time of a pin anew; what covers nothing is not kept."""
        async with self._changing(pin_id, deadline):
            kept = await self._change(pin_id, self._living(pin_id), content, deadline)
            row = kept.row
            answered = all(place.told for place in row.places.values())
            empty = content.on_missing is OnMissing.PARTIAL and not row.tokens_pinned
            if empty and answered:
                await self._tell_released(self._ledger.release(row), deadline)
            return kept

    async def release(
        self, pin_id: str, deadline: Deadline, *, if_match: int | None = None
    ) -> Released:
        """Release a pin; engines that do not answer are told again when they do.

        Raises:
            UnknownNameError: There is no such pin.
            PreconditionError: ``if_match`` does not hold.
        """
        async with self._changing(pin_id, deadline):
            row = self._known(pin_id)
            _check_version(pin_id, row, if_match)
            return await self._tell_released(self._ledger.release(row), deadline)

    async def amend(
        self,
        pin_id: str,
        amendment: Amendment,
        deadline: Deadline,
        *,
        if_match: int | None = None,
    ) -> Kept:
        """Change how long a pin lives or what it is labelled with.

        Its time starts anew if the amendment names one, and with each change
        of a pin that hits renew.

        Raises:
            UnknownNameError: There is no such pin.
            PreconditionError: ``if_match`` does not hold.
        """
        async with self._changing(pin_id, deadline):
            old = self._known(pin_id)
            _check_version(pin_id, old, if_match)
            content = amendment.of(old.content)
            keep_end = amendment.ttl_seconds is msgspec.UNSET and content.renew is Renew.FIXED
            return await self._change(pin_id, old, content, deadline, keep_end=keep_end)

    def check(self, content: PinContent) -> dict[str, EngineRecord]:
        """Find the engines of a pin's places, and those of its namespaces that are live.

        Raises:
            UnknownNameError: An instance or a location is not known.
            EngineAwayError: An engine cannot be asked.
        """
        engines: dict[str, EngineRecord] = {}
        for place in content.places:
            engine = self._directory.get(place.instance_id)
            engine.check_pin_location(place.location)
            engines[place.instance_id] = engine
        for engine in engines.values():
            self._directory.live_members(engine.instance_id)
        for wanted in content.namespaces:
            serving = self._directory.serving(wanted.identity)
            having = [engine for engine in serving if wanted.location in engine.pin_locations]
            if serving and not having:
                serving[0].check_pin_location(wanted.location)
            engines |= {e.instance_id: e for e in having if e.instance_id not in engines}
        return engines

    async def ask_again(self, pin_id: str, instance_id: str, deadline: Deadline) -> PlaceState:
        """Ask an engine anew for a pin that it does not hold whole; what it holds then.

        Raises:
            UnknownNameError: There is no such pin, or it has no placement there.
            ConflictError: The engine serves another namespace than the pin's.
            EngineAwayError: It cannot be asked.
            EngineRefusedError: It will not.
        """
        async with self._changing(pin_id, deadline):
            row = self._known(pin_id)
            place = row.present.get(instance_id)
            if place is None:
                raise UnknownNameError(f"placement of pin {pin_id!r}", instance_id, row.present)
            engine = self._directory.get(instance_id)
            if place.identity != engine.identity:
                message = (
                    f"instance {instance_id!r} now serves {engine.namespace.model!r} otherwise "
                    f"than when pin {pin_id!r} was made"
                )
                raise ConflictError(message)
            if place.state is not PinState.ACTIVE:
                await self._ledger.synced(deadline)
                answer = await self._ask(engine, row, deadline)
                if isinstance(answer, LMCacheError):
                    raise answer
            await self._ledger.synced(deadline)
            return place

    async def tell(self, engine: EngineRecord, pin_id: str, deadline: Deadline) -> None:
        """Ask an engine again for a pin that it has lost or not answered for.

        Raises:
            EngineRefusedError: It will not.
        """
        name = engine.instance_id
        async with self._changing(pin_id, deadline):
            row = self._living(pin_id)
            place = row.places.get(name) if row else None
            if row is None or place is None or place.told == row.version:
                return
            request = row.again(name, now=self._ledger.now())
            self._take(await self._commands.ask(engine, deadline, PinCommand, pin=request))

    async def tell_released(
        self, engine: EngineRecord, pin_id: str, version: int, deadline: Deadline
    ) -> None:
        """Tell an engine again to release a pin, if it has not acknowledged that.

        Raises:
            EngineRefusedError: It holds a higher version.
        """
        async with self._changing(pin_id, deadline):
            # Whoever released it may be just telling, and answers what was let go.
            if self._ledger.tombstones.version(pin_id, engine.instance_id) == version:
                await self._release_in(engine, pin_id, version, deadline)

    async def _release_in(
        self, engine: EngineRecord, pin_id: str, version: int, deadline: Deadline
    ) -> int:
        reply = await self._commands.ask(
            engine, deadline, UnpinCommand, pin_id=pin_id, version=version
        )
        if reply.error is not None:
            raise EngineRefusedError(reply)
        self._ledger.tombstones.acknowledge(pin_id, engine.instance_id, version)
        return reply.num_tokens

    def _living(self, pin_id: str) -> PinRow | None:
        row = self._ledger.get(pin_id)
        return None if row is None or row.ended else row

    def _known(self, pin_id: str) -> PinRow:
        row = self._living(pin_id)
        if row is None:
            kind = "pin"
            raise UnknownNameError(kind, pin_id, (), hint="GET /v1/pins lists what is pinned.")
        return row

    async def _change(
        self,
        pin_id: str,
        old: PinRow | None,
        content: PinContent,
        deadline: Deadline,
        *,
        keep_end: bool = False,
    ) -> Kept:
        engines = self.check(content)
        places = places_of(content, engines)
        row = self._ledger.put(pin_id, content, places, keep_end=keep_end)
        try:
            # An engine must not hold what a crash would let the ledger forget.
            await self._ledger.synced(deadline)
        except (LedgerFullError, LedgerUnavailableError):
            self._undo(row, old)
            raise
        answers = await asyncio.gather(
            *(self._ask(engine, row, deadline, old) for engine in engines.values())
        )
        refused = [a for a in answers if isinstance(a, EngineRefusedError)]
        if refused:
            self._undo(row, old)
            await self._ledger.synced(deadline)
            raise refused[0]
        await self._ledger.synced(deadline)
        numbers = [a for a in answers if isinstance(a, int)]
        if engines and not numbers:
            raise next(a for a in answers if isinstance(a, LMCacheError))
        return Kept(row, created=old is None, num_tokens=max(numbers, default=0))

    def _undo(self, row: PinRow, old: PinRow | None) -> None:
        """Take back a change: it is made everywhere or nowhere.

        An engine that took it is told what holds instead when it is next heard of.
        """
        if old is None:
            self._ledger.release(row)
        else:
            self._ledger.restore(old)

    async def _ask_again(self, row: PinRow, deadline: Deadline) -> Kept:
        engines = self.check(row.content)
        waits = [
            self._ask(engine, row, deadline)
            for name, engine in engines.items()
            if name in row.places and row.places[name].state is not PinState.ACTIVE
        ]
        await self._ledger.synced(deadline)
        answers = await asyncio.gather(*waits)
        await self._ledger.synced(deadline)
        failures = [a for a in answers if isinstance(a, LMCacheError)]
        if failures and not row.tokens_pinned:
            raise failures[0]
        return Kept(row, created=False, num_tokens=row.tokens_pinned)

    async def _ask(
        self, engine: EngineRecord, row: PinRow, deadline: Deadline, old: PinRow | None = None
    ) -> int | LMCacheError:
        try:
            reply = None if old is None else await self._ask_to_renew(engine, row, old, deadline)
            if reply is None:
                reply = await self._ask_in_full(engine, row, deadline)
            self._take(reply)
        except LMCacheError as error:
            return error
        return reply.num_tokens

    async def _ask_to_renew(
        self, engine: EngineRecord, row: PinRow, old: PinRow, deadline: Deadline
    ) -> Reply | None:
        """The answer of an engine that holds it whole; None where none does."""
        renewal = row.renewal(engine.instance_id, old, now=self._ledger.now())
        if renewal is None:
            return None
        reply = await self._commands.ask(engine, deadline, RenewCommand, renewal=renewal)
        return None if reply.error == "not_held" else reply

    async def _ask_in_full(self, engine: EngineRecord, row: PinRow, deadline: Deadline) -> Reply:
        now, name = self._ledger.now(), engine.instance_id
        # What was lost stays reserved; what was never there is looked for anew.
        lost = row.places[name].state is PinState.DEGRADED
        request = row.again(name, now=now) if lost else row.request(name, now=now)
        return await self._commands.ask(engine, deadline, PinCommand, pin=request)

    def _take(self, reply: Reply) -> None:
        if reply.error is not None or reply.pin is None:
            raise EngineRefusedError(reply)
        self._ledger.take(reply.instance_id, reply.pin)

    async def _tell_released(self, row: PinRow, deadline: Deadline) -> Released:
        await self._ledger.synced(deadline)
        answers = await asyncio.gather(
            *(self._tell_one(name, row, deadline) for name in row.present)
        )
        return Released(
            row,
            max((a for a in answers if isinstance(a, int)), default=0),
            [a for a in answers if isinstance(a, LMCacheError)],
        )

    async def _tell_one(
        self, instance_id: str, row: PinRow, deadline: Deadline
    ) -> int | LMCacheError:
        try:
            engine = self._directory.live_members(instance_id)[0]
            return await self._release_in(engine, row.pin_id, row.version, deadline)
        except LMCacheError as error:
            return error

    @contextlib.asynccontextmanager
    async def _changing(self, pin_id: str, deadline: Deadline) -> AsyncIterator[None]:
        """Let one change of a pin happen at a time; engines would refuse the older of two."""
        lock, waiting = self._locks.get(pin_id, (asyncio.Lock(), 0))
        self._locks[pin_id] = (lock, waiting + 1)
        try:
            try:
                async with asyncio.timeout(deadline.remaining_seconds):
                    await lock.acquire()
            except TimeoutError as error:
                what = f"another change of pin {pin_id!r}"
                raise DeadlineExceededError(what, deadline.seconds) from error
            try:
                yield
            finally:
                lock.release()
        finally:
            lock, waiting = self._locks.pop(pin_id)
            if waiting > 1:
                self._locks[pin_id] = (lock, waiting - 1)


def places_of(content: PinContent, engines: dict[str, EngineRecord]) -> dict[str, PlaceState]:
    """A place in each engine, by what asks for it."""
    named = {place.instance_id: place.location for place in content.places}
    serving = {wanted.identity: wanted.location for wanted in content.namespaces}
    return {
        name: PlaceState(
            location=named.get(name) or serving[engine.identity],
            identity=engine.identity,
            joined=name not in named,
        )
        for name, engine in engines.items()
    }


def _check_version(pin_id: str, row: PinRow | None, if_match: int | None) -> None:
    if if_match is None:
        return
    if row is None:
        message = f"pin {pin_id!r} does not exist, so that If-Match cannot hold"
        raise PreconditionError(message)
    if if_match not in (ANY_VERSION, row.version):
        message = f"pin {pin_id!r} is at version {row.version}, not {if_match}; read it again"
        raise PreconditionError(message)
