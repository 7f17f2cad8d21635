"""What a pin would cost, asked of the engines that would hold it."""

from __future__ import annotations

import asyncio

import msgspec

from lmcache_core.api.deadline import Deadline
from lmcache_core.api.messages import PlanCommand
from lmcache_core.api.pins import OnMissing, PinCost, PinRequest
from lmcache_core.controller.commands import Commands
from lmcache_core.controller.engine_record import EngineRecord
from lmcache_core.controller.failures import EngineRefusedError
from lmcache_core.controller.pin_row import PinContent, PlaceState
from lmcache_core.errors import MessageError


class PlaceCost(msgspec.Struct, frozen=True, kw_only=True):
    """What a pin would cost in one engine, and why it would not be made there."""

    instance_id: str
    location: str
    cost: PinCost
    reason: str = ""


class Planner:
    """Asks engines what a pin would cost; nothing is changed.

    Args:
        commands: How engines are asked.
    """

    def __init__(self, commands: Commands) -> None:
        self._commands = commands

    async def plan(
        self,
        pin_id: str,
        content: PinContent,
        places: dict[str, PlaceState],
        engines: dict[str, EngineRecord],
        deadline: Deadline,
    ) -> list[PlaceCost]:
        """Plan a pin.

        Args:
            pin_id: The pin that it would replace, or a name of none.
            content: What would be asked for.
            places: Where, by instance.
            engines: The same engines, all live.
            deadline: When they have to answer.

        Raises:
            EngineRefusedError: One cannot say.
            EngineAwayError: One has gone.
            DeadlineExceededError: One does not answer in time.
        """
        return list(
            await asyncio.gather(
                *(
                    self._ask(pin_id, content, engine, places[name].location, deadline)
                    for name, engine in sorted(engines.items())
                )
            )
        )

    async def _ask(
        self,
        pin_id: str,
        content: PinContent,
        engine: EngineRecord,
        location: str,
        deadline: Deadline,
    ) -> PlaceCost:
        request = PinRequest(
            pin_id=pin_id,
            version=0,
            location=location,
            tokens=content.tokens,
            owner=content.owner,
            scope=content.scope,
            on_missing=content.on_missing,
        )
        reply = await self._commands.ask(engine, deadline, PlanCommand, pin=request)
        if reply.error is not None:
            raise EngineRefusedError(reply)
        none = dict.fromkeys(("pin_limit_bytes", "owner_limit_bytes"))
        try:
            cost = msgspec.convert({**none, **reply.facts}, PinCost)
        except msgspec.ValidationError as error:
            message = (
                f"instance {engine.instance_id!r} answered a plan without its numbers: {error}"
            )
            raise MessageError(message) from error
        return PlaceCost(
            instance_id=engine.instance_id,
            location=location,
            cost=cost,
            reason=_reason(content, cost),
        )


def _reason(content: PinContent, cost: PinCost) -> str:
    """Why a pin would be refused, or an empty string."""
    if content.on_missing is OnMissing.FAIL and cost.cached_tokens < content.num_tokens:
        return f"only {cost.cached_tokens} of {content.num_tokens} tokens are cached"
    if not cost.fits_tier:
        return "pins there would take more than they may"
    if not cost.fits_owner:
        return f"pins of {content.owner!r} would take more than the owner's quota"
    return ""
