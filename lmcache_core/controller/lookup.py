"""Answering who holds a token sequence."""

from __future__ import annotations

import asyncio

from lmcache_core.api.deadline import Deadline
from lmcache_core.api.messages import SettleCommand
from lmcache_core.controller.commands import Commands
from lmcache_core.controller.directory import Directory
from lmcache_core.controller.engine_record import EngineRecord
from lmcache_core.controller.placement import Found, Placement
from lmcache_core.errors import LMCacheError
from lmcache_core.keys import Scope


class Lookup:
    """Looks a sequence up in the placement index, after stores under way have settled.

    Args:
        directory: The engines.
        placement: Who holds what.
        commands: How engines are asked.
    """

    def __init__(self, directory: Directory, placement: Placement, commands: Commands) -> None:
        self._directory = directory
        self._placement = placement
        self._commands = commands

    async def find(
        self, tokens: bytes, scope: Scope, *, settle_seconds: float
    ) -> dict[str, tuple[str, int]]:
        """Find the longest cached prefix in each live engine.

        An engine that does not settle in time is answered for as things
        stand. One that does also says itself what it has, to the token; the
        index knows whole chunks and exact tails only.

        Returns:
            By instance, the location that holds most (of equals the upper
            one) and the tokens that all its tiers hold together; engines
            without a hit are left out.
        """
        engines = self._directory.live()
        told = await self._settle(engines, tokens, scope, settle_seconds)
        known = self._placement.find(engines, scope, tokens)
        found: dict[str, tuple[str, int]] = {}
        for engine in engines:
            name = engine.instance_id
            answers = [answer for answer in (known.get(name), told[name]) if answer is not None]
            held = {
                location: max(answer.by_location.get(location, 0) for answer in answers)
                for location in engine.locations
                if answers
            }
            best = max(held, key=lambda location: held[location], default=None)
            if best is not None and held[best]:
                found[name] = (best, max(held[best], *(answer.together for answer in answers)))
        return found

    async def _settle(
        self, engines: list[EngineRecord], tokens: bytes, scope: Scope, seconds: float
    ) -> dict[str, Found | None]:
        if seconds <= 0:
            return {engine.instance_id: None for engine in engines}
        deadline = Deadline(seconds)
        answers = await asyncio.gather(
            *(self._ask(engine, tokens, scope, deadline) for engine in engines)
        )
        return {engine.instance_id: answer for engine, answer in zip(engines, answers, strict=True)}

    async def _ask(
        self, engine: EngineRecord, tokens: bytes, scope: Scope, deadline: Deadline
    ) -> Found | None:
        try:
            reply = await self._commands.ask(
                engine, deadline, SettleCommand, tokens=tokens, scope=scope
            )
        except LMCacheError:
            return None
        asked = len(tokens) // 4
        by_location = {name: min(count, asked) for name, count in reply.facts.items()}
        return Found(by_location, min(reply.num_tokens, asked))
