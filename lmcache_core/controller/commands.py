"""Asking an engine and waiting for its answer, within a deadline."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, TypeVar

from lmcache_core.api.deadline import Deadline
from lmcache_core.api.messages import (
    ClearCommand,
    ControllerMessage,
    HealthCommand,
    MoveCommand,
    PinCommand,
    PlanCommand,
    Progress,
    RecodeCommand,
    RenewCommand,
    Reply,
    SettleCommand,
    UnpinCommand,
)
from lmcache_core.api.transport import Peer
from lmcache_core.controller.engine_record import EngineRecord
from lmcache_core.controller.failures import EngineAwayError, TooManyError
from lmcache_core.controller.request_id import FIELD
from lmcache_core.errors import DeadlineExceededError
from lmcache_core.log import bound_field

MAX_OPEN = 4096
"""Commands under way to one engine."""


CommandT = TypeVar(
    "CommandT",
    PinCommand,
    RenewCommand,
    PlanCommand,
    UnpinCommand,
    ClearCommand,
    MoveCommand,
    RecodeCommand,
    SettleCommand,
    HealthCommand,
)


Progressed = Callable[[int, int], None]
"""Told how many chunks an engine is done with, and of how many."""


class Open(NamedTuple):
    """A command under way."""

    engine: EngineRecord
    answer: asyncio.Future[Reply]
    progressed: Progressed


class Commands:
    """Commands under way, by request id.

    Args:
        send: Hands a message to a peer; False when it is gone or full.
    """

    def __init__(self, send: Callable[[Peer, ControllerMessage], Awaitable[bool]]) -> None:
        self._send = send
        self._open: dict[str, Open] = {}
        self._open_by_engine: Counter[str] = Counter()
        self._numbers = itertools.count(1)
        self.outcomes: Counter[tuple[str, str]] = Counter()

    @property
    def open(self) -> int:
        """Number of commands under way."""
        return len(self._open)

    async def ask(
        self,
        engine: EngineRecord,
        deadline: Deadline,
        kind: type[CommandT],
        *,
        progressed: Progressed = lambda _done, _total: None,
        **fields: Any,  # noqa: ANN401 - the fields of the kind
    ) -> Reply:
        """Send a command and wait for its reply, whatever it says.

        Args:
            engine: Who is asked.
            deadline: When it has to have answered.
            kind: What it is asked.
            progressed: Told of what takes its time how far it is.
            fields: The fields of the kind.

        Raises:
            EngineAwayError: The engine is gone, or goes while it is waited for.
            DeadlineExceededError: It did not answer in time.
            TooManyError: As many commands to it are under way as are kept.
        """
        name = kind.__name__.removesuffix("Command").lower()
        try:
            reply = await self._ask(engine, deadline, kind, fields, progressed)
        except (EngineAwayError, DeadlineExceededError, TooManyError) as error:
            self.outcomes[name, type(error).__name__.removesuffix("Error").lower()] += 1
            raise
        self.outcomes[name, reply.error or "ok"] += 1
        return reply

    async def _ask(
        self,
        engine: EngineRecord,
        deadline: Deadline,
        kind: type[CommandT],
        fields: dict[str, Any],
        progressed: Progressed,
    ) -> Reply:
        if not engine.is_live:
            raise EngineAwayError(engine.instance_id, f"is {engine.state.value}")
        if self._open_by_engine[engine.instance_id] >= MAX_OPEN:
            message = f"{MAX_OPEN} commands to instance {engine.instance_id!r} are under way"
            raise TooManyError(message)
        what = f"instance {engine.instance_id!r}: {kind.__name__}"
        deadline.check(what)
        request_id = f"{engine.incarnation}.{next(self._numbers)}"
        command = kind(
            request_id=request_id,
            deadline_seconds=deadline.remaining_seconds,
            http_request_id=bound_field(FIELD),
            **fields,
        )
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._open[request_id] = Open(engine, answer, progressed)
        self._open_by_engine[engine.instance_id] += 1
        try:
            if not await self._send(engine.peer, command):
                raise EngineAwayError(engine.instance_id, "cannot be sent to")
            async with asyncio.timeout(deadline.remaining_seconds):
                return await answer
        except TimeoutError as error:
            raise DeadlineExceededError(what, deadline.seconds) from error
        finally:
            del self._open[request_id]
            self._open_by_engine[engine.instance_id] -= 1
            if not self._open_by_engine[engine.instance_id]:
                del self._open_by_engine[engine.instance_id]

    def take(self, reply: Reply) -> bool:
        """Hand a reply to who waits for it; False when nobody does any more."""
        found = self._open.get(reply.request_id)
        if found is None or found.engine.incarnation != reply.incarnation:
            return False
        if not found.answer.done():
            found.answer.set_result(reply)
        return True

    def note_progress(self, message: Progress) -> None:
        """Tell who waits for a reply how far the engine is."""
        found = self._open.get(message.request_id)
        if found is not None and found.engine.incarnation == message.incarnation:
            found.progressed(message.done, message.total)

    def abandon(self, engine: EngineRecord, reason: str) -> None:
        """An engine is gone: whoever waits for it hears of it at once."""
        for found in self._open.values():
            if found.engine is engine and not found.answer.done():
                found.answer.set_exception(EngineAwayError(engine.instance_id, reason))

    def close(self) -> None:
        """The controller stops: nobody waits any longer."""
        for found in self._open.values():
            if not found.answer.done():
                error = EngineAwayError(found.engine.instance_id, "this controller is stopping")
                found.answer.set_exception(error)
