"""Engines that hold pins: what is asked of one, and what the ledger takes of its answer."""

from __future__ import annotations

from lmcache_core.api.deadline import Deadline
from lmcache_core.api.messages import PinCommand, RenewCommand, Reply, UnpinCommand
from lmcache_core.api.pins import PinRequest, PinState
from lmcache_core.controller.commands import Commands
from lmcache_core.controller.engine_record import EngineRecord
from lmcache_core.controller.failures import EngineRefusedError
from lmcache_core.controller.ledger import Ledger
from lmcache_core.controller.pin_row import PinRow


class Holders:
    """Asks engines to hold pins and to let go of them.

    Args:
        ledger: The pins.
        commands: How engines are asked.
    """

    def __init__(self, ledger: Ledger, commands: Commands) -> None:
        self._ledger = ledger
        self._commands = commands

    async def hold(
        self, engine: EngineRecord, row: PinRow, deadline: Deadline, old: PinRow | None = None
    ) -> int:
        """Have an engine hold a pin; the tokens that it holds.

        Args:
            engine: It has a place in the pin.
            row: The pin.
            deadline: When it has to have answered.
            old: What the pin was before, or None; an engine that holds that
                whole is not sent the tokens again.

        Raises:
            EngineRefusedError: It will not.
            EngineAwayError: It cannot be asked.
            DeadlineExceededError: It does not answer in time.
        """
        reply = None if old is None else await self._renewed(engine, row, old, deadline)
        if reply is None:
            now, name = self._ledger.now(), engine.instance_id
            # What was lost stays reserved; what was never there is looked for anew.
            lost = row.places[name].state is PinState.DEGRADED
            request = row.again(name, now=now) if lost else row.request(name, now=now)
            reply = await self._asked(engine, request, deadline)
        return self._take(reply)

    async def hold_again(self, engine: EngineRecord, row: PinRow, deadline: Deadline) -> None:
        """Have an engine hold a pin that it has lost, or not answered for.

        Raises:
            EngineRefusedError: It will not.
        """
        request = row.again(engine.instance_id, now=self._ledger.now())
        self._take(await self._asked(engine, request, deadline))

    async def let_go(
        self, engine: EngineRecord, pin_id: str, version: int, deadline: Deadline
    ) -> int:
        """Have an engine let go of a pin; the tokens that it held.

        Raises:
            EngineRefusedError: It holds a higher version.
        """
        reply = await self._commands.ask(
            engine, deadline, UnpinCommand, pin_id=pin_id, version=version
        )
        if reply.error is not None:
            raise EngineRefusedError(reply)
        self._ledger.tombstones.acknowledge(pin_id, engine.instance_id, version)
        return reply.num_tokens

    async def _renewed(
        self, engine: EngineRecord, row: PinRow, old: PinRow, deadline: Deadline
    ) -> Reply | None:
        """The answer of an engine that holds it whole; None where none does."""
        renewal = row.renewal(engine.instance_id, old, now=self._ledger.now())
        if renewal is None:
            return None
        reply = await self._commands.ask(engine, deadline, RenewCommand, renewal=renewal)
        return None if reply.error == "not_held" else reply

    async def _asked(self, engine: EngineRecord, request: PinRequest, deadline: Deadline) -> Reply:
        return await self._commands.ask(engine, deadline, PinCommand, pin=request)

    def _take(self, reply: Reply) -> int:
        if reply.error is not None or reply.pin is None:
            raise EngineRefusedError(reply)
        self._ledger.take(reply.instance_id, reply.pin)
        return reply.num_tokens
