"""Making, changing and releasing pins: the ledger first, then the engines."""

from __future__ import annotations

import asyncio

import msgspec

from lmcache_core.api.deadline import Deadline
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
from lmcache_core.controller.holders import Holders
from lmcache_core.controller.ledger import Ledger
from lmcache_core.controller.pin_change import Amendment, Kept, Released, check_version
from lmcache_core.controller.pin_places import engines_of, places_of
from lmcache_core.controller.pin_row import PinContent, PinRow, PlaceState
from lmcache_core.controller.turns import Turns
from lmcache_core.errors import ConflictError, LMCacheError, UnknownNameError


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
        self._holders = Holders(ledger, commands)
        # Of two changes at once engines would refuse the older.
        self._turns = Turns("pin")

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
        async with self._turns.of(pin_id, deadline):
            old = self._living(pin_id)
            if if_none_match and old is not None:
                message = f"pin {pin_id!r} exists, at version {old.version}"
                raise PreconditionError(message)
            check_version(pin_id, old, if_match)
            if old is not None and if_match is None:
                if not old.is_for(content):
                    message = (
                        f"pin {pin_id!r} exists with other content, at version {old.version}; "
                        f'to replace it send If-Match: "{old.version}", or give `lmcache pin` '
                        "the option --replace"
                    )
                    raise ConflictError(message)
                if old.state is PinState.ACTIVE:
                    await self._ledger.synced(deadline)
                    return Kept(old, created=False, num_tokens=old.tokens_pinned)
                return await self._ask_again(old, deadline)
            return await self._change(pin_id, old, content, deadline)

    async def renew(self, pin_id: str, content: PinContent, deadline: Deadline) -> Kept:
        """Pin, or start the time of a pin anew; what covers nothing is not kept."""
        async with self._turns.of(pin_id, deadline):
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
        async with self._turns.of(pin_id, deadline):
            row = self._known(pin_id)
            check_version(pin_id, row, if_match)
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
        async with self._turns.of(pin_id, deadline):
            old = self._known(pin_id)
            check_version(pin_id, old, if_match)
            content = amendment.of(old.content)
            keep_end = amendment.ttl_seconds is msgspec.UNSET and content.renew is Renew.FIXED
            return await self._change(pin_id, old, content, deadline, keep_end=keep_end)

    async def ask_again(self, pin_id: str, instance_id: str, deadline: Deadline) -> PlaceState:
        """Ask an engine anew for a pin that it does not hold whole; what it holds then.

        Raises:
            UnknownNameError: There is no such pin, or it has no placement there.
            ConflictError: The engine serves another namespace than the pin's.
            EngineAwayError: It cannot be asked.
            EngineRefusedError: It will not.
        """
        async with self._turns.of(pin_id, deadline):
            row = self._known(pin_id)
            place = row.present.get(instance_id)
            if place is None:
                kind, of = "placement", f"pin {pin_id!r}"
                raise UnknownNameError(kind, instance_id, row.present, of=of)
            engine = self._directory.get(instance_id)
            if place.identity != engine.identity:
                message = (
                    f"instance {instance_id!r} now serves {engine.namespace.model!r} otherwise "
                    f"than when pin {pin_id!r} was made"
                )
                raise ConflictError(message)
            if place.state is not PinState.ACTIVE:
                await self._ledger.synced(deadline)
                await self._holders.hold(engine, row, deadline)
            await self._ledger.synced(deadline)
            return place

    async def tell(self, engine: EngineRecord, pin_id: str, deadline: Deadline) -> None:
        """Ask an engine again for a pin that it has lost or not answered for.

        Raises:
            EngineRefusedError: It will not.
        """
        async with self._turns.of(pin_id, deadline):
            row = self._living(pin_id)
            place = row.places.get(engine.instance_id) if row else None
            if row is None or place is None or place.told == row.version:
                return
            await self._holders.hold_again(engine, row, deadline)

    async def tell_released(
        self, engine: EngineRecord, pin_id: str, version: int, deadline: Deadline
    ) -> None:
        """Tell an engine again to release a pin, if it has not acknowledged that.

        Raises:
            EngineRefusedError: It holds a higher version.
        """
        async with self._turns.of(pin_id, deadline):
            # Whoever released it may be just telling, and answers what was let go.
            if self._ledger.tombstones.version(pin_id, engine.instance_id) == version:
                await self._holders.let_go(engine, pin_id, version, deadline)

    def _living(self, pin_id: str) -> PinRow | None:
        row = self._ledger.get(pin_id)
        return None if row is None or row.ended else row

    def _known(self, pin_id: str) -> PinRow:
        row = self._living(pin_id)
        if row is None:
            kind = "pin"
            raise UnknownNameError(kind, pin_id, None, hint="GET /v1/pins lists what is pinned.")
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
        engines = engines_of(self._directory, content)
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
        engines = engines_of(self._directory, row.content)
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
            return await self._holders.hold(engine, row, deadline, old)
        except LMCacheError as error:
            return error

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
            return await self._holders.let_go(engine, row.pin_id, row.version, deadline)
        except LMCacheError as error:
            return error
