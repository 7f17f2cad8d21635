"""What the controller may ask of an engine, and the honest answer."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator

from lmcache_core.api.messages import (
    ClearCommand,
    Command,
    HealthCommand,
    MoveCommand,
    PinCommand,
    RecodeCommand,
    Reply,
    SettleCommand,
)
from lmcache_core.api.pins import PinReport
from lmcache_core.engine.cache.engine import CacheEngine
from lmcache_core.engine.chunks.piece import Pieces
from lmcache_core.engine.control.ledger_bond import LedgerBond
from lmcache_core.engine.control.moving import Move
from lmcache_core.engine.control.pin_commands import AboutPins, PinCommands
from lmcache_core.engine.control.recoding import Recoding
from lmcache_core.engine.storage.tier import StorageTier
from lmcache_core.errors import (
    CapacityError,
    ConflictError,
    LMCacheError,
    NotCachedError,
    NotHeldError,
    UnknownNameError,
)
from lmcache_core.keys import Key, Scope
from lmcache_core.log import get_logger

log = get_logger(__name__)

CLEAR_BATCH = 32
"""Chunks dropped under one hold of the lock, so that clearing never stalls a step."""


class CommandRunner:
    """Carries out commands against one engine, on the control agent's thread.

    Args:
        engine: The engine.
        instance_id: Its id, for replies.
        incarnation: Its start time, for replies.

    Attributes:
        bond: Which ledger the engine serves.
    """

    def __init__(self, engine: CacheEngine, instance_id: str, incarnation: int) -> None:
        self._engine = engine
        self._instance_id = instance_id
        self._incarnation = incarnation
        self.bond = LedgerBond(engine.tiers)
        self._moves: dict[str, Move] = {}
        self._recodings: dict[str, Recoding] = {}
        self._pin_commands = PinCommands(engine)

    def must_wait(self, command: Command) -> bool:
        """Whether what the command asks for is under way, or stores of its tokens are."""
        if isinstance(command, MoveCommand):
            begun = command.request_id in self._moves
            if not begun and self._engine.stores_open_for(command.tokens, command.scope):
                return True
            try:
                return not self._move_of(command).advance()
            except LMCacheError:
                return False  # The answer says why.
        if isinstance(command, RecodeCommand):
            begun = command.request_id in self._recodings
            if not begun and self._engine.stores_open_for(command.tokens, command.scope):
                return True
            try:
                return not self._recoding_of(command).advance()
            except LMCacheError:
                return False  # The answer says why.
        if isinstance(command, PinCommand):
            try:
                self.bond.check(command)
            except ConflictError:
                return False  # The answer says why.
            return self._pin_commands.must_wait(command)
        if isinstance(command, SettleCommand):
            return self._engine.stores_open_for(command.tokens, command.scope)
        return False

    def progress(self, command: Command) -> tuple[int, int] | None:
        """Chunks that one which takes its time is done with, and of how many; None of others."""
        under_way = self._moves.get(command.request_id) or self._recodings.get(command.request_id)
        return None if under_way is None else (under_way.done, under_way.total)

    def run(self, command: Command) -> Reply:
        """Carry a command out; every failure is a reply."""
        reply = self._try(command)
        if log.isEnabledFor(logging.INFO):  # Making the line costs more than half a pin.
            log.info(
                "command.answered",
                command=type(command).__name__,
                num_tokens=reply.num_tokens,
                error=reply.error,
            )
        return reply

    def _try(self, command: Command) -> Reply:
        try:
            self.bond.check(command)
            return self._run(command)
        except UnknownNameError as error:
            return self._reply(command, error="unknown_location", detail=str(error))
        except NotCachedError as error:
            facts = {"asked": error.asked, "cached": error.cached}
            return self._reply(command, error="missing", detail=str(error), facts=facts)
        except NotHeldError as error:
            return self._reply(command, error="not_held", detail=str(error))
        except ConflictError as error:
            return self._reply(command, error="conflict", detail=str(error))
        except CapacityError as error:
            facts = {
                "asked_bytes": error.asked_bytes,
                "used_bytes": error.used_bytes,
                "limit_bytes": error.limit_bytes,
            }
            return self._reply(command, error="capacity", detail=str(error), facts=facts)
        except LMCacheError as error:
            return self._reply(command, error="invalid", detail=str(error))
        except Exception as error:
            # The controller must hear of a defect here rather than wait for
            # its deadline; the log has the traceback.
            log.exception("command.crashed", command=type(command).__name__)
            return self._reply(command, error="internal", detail=f"{type(error).__name__}: {error}")

    def _run(self, command: Command) -> Reply:
        tiers = self._engine.tiers
        if isinstance(command, AboutPins):
            num_tokens, pin, facts = self._pin_commands.run(command)
            return self._reply(command, num_tokens=num_tokens, pin=pin, facts=facts)
        if isinstance(command, ClearCommand):
            return self._reply(command, num_tokens=self._clear(command))
        if isinstance(command, MoveCommand):
            return self._end_move(command)
        if isinstance(command, RecodeCommand):
            return self._end_recoding(command)
        if isinstance(command, SettleCommand):
            covered = tiers.covered(command.tokens, command.scope)
            # To the token where one tier has it all, else to the chunk.
            together = max(tiers.together(command.tokens, command.scope), *covered.values())
            return self._reply(command, num_tokens=together, facts=covered)
        if isinstance(command, HealthCommand):
            sick = sum(not tier.healthy for tier in tiers.status())
            return self._reply(command, facts={"unhealthy_tiers": sick})
        return self._reply(
            command, error="invalid", detail=f"unknown command {type(command).__name__}"
        )

    def _clear(self, command: ClearCommand) -> int:
        tiers = self._engine.tiers
        if command.tokens:
            keys = iter(self._chain_keys(command.location, command.tokens, command.scope))
        else:
            keys = tiers.keys(command.location)
        batches = _batches(keys)
        return sum(tiers.drop(command.location, batch, force=command.force) for batch in batches)

    def _move_of(self, command: MoveCommand) -> Move:
        """The move that a command has begun, or begins now."""
        move = self._moves.get(command.request_id)
        if move is None:
            tiers = self._engine.tiers
            move = self._moves[command.request_id] = Move(
                tiers,
                command.location,
                command.target,
                tiers.chain_of(command.tokens, command.scope),
                keep=command.keep,
                refuse_pinned=command.refuse_pinned,
                name=command.request_id,
                progressed=self._engine.note_progress,
            )
        return move

    def _end_move(self, command: MoveCommand) -> Reply:
        move = self._move_of(command)
        del self._moves[command.request_id]
        done = move.advance()
        move.end()
        if done:
            return self._reply(command, num_tokens=move.moved_tokens)
        return self._reply(
            command,
            error="deadline",
            detail=f"{move.moved_tokens} of {move.tokens} tokens were moved to {command.target} in "
            "time; ask again for the rest",
            facts={"moved_tokens": move.moved_tokens, "asked_tokens": move.tokens},
        )

    def _recoding_of(self, command: RecodeCommand) -> Recoding:
        """What a command to encode chunks anew has begun, or begins now."""
        recoding = self._recodings.get(command.request_id)
        if recoding is None:
            tiers = self._engine.tiers
            tier = tiers.tier(command.location)
            if not isinstance(tier, StorageTier):
                message = (
                    f"{tier.name} is host memory, whose chunks are raw so that workers can copy "
                    f"them; chunks are encoded in a storage tier: "
                    f"{', '.join(below.name for below in tiers.storage) or 'there is none here'}"
                )
                raise ConflictError(message)
            recast = tier.recoder.recast(command.serdes, undo=command.undo)
            chain = tiers.chain_of(command.tokens, command.scope)
            recoding = self._recodings[command.request_id] = Recoding(
                tiers,
                tier,
                Pieces(chain, command.tokens).keys if command.tokens else tiers.keys(tier.name),
                recast,
                progressed=self._engine.note_progress,
            )
        return recoding

    def _end_recoding(self, command: RecodeCommand) -> Reply:
        recoding = self._recoding_of(command)
        del self._recodings[command.request_id]
        recoding.end()
        tokens, facts = recoding.tokens, recoding.facts
        if recoding.finished and not recoding.failed:
            return self._reply(command, num_tokens=tokens, facts=facts)
        how = f"{tokens} tokens of {command.location} were encoded anew"
        if recoding.finished:
            detail = f"{how}, and {recoding.failed} chunks failed; the engine's log says how"
            return self._reply(
                command, error="internal", detail=detail, facts=facts, num_tokens=tokens
            )
        detail = f"{how} in time; ask again for the rest"
        return self._reply(command, error="deadline", detail=detail, facts=facts, num_tokens=tokens)

    def _chain_keys(self, location: str, token_bytes: bytes, scope: Scope) -> list[Key]:
        tiers = self._engine.tiers
        with tiers.lock:
            chain = tiers.chain_of(token_bytes, scope)
            return [cover.key for cover in tiers.tier(location).covers(chain)]

    def _reply(
        self,
        command: Command,
        *,
        num_tokens: int = 0,
        pin: PinReport | None = None,
        error: str | None = None,
        detail: str = "",
        facts: dict[str, int] | None = None,
    ) -> Reply:
        return Reply(
            instance_id=self._instance_id,
            incarnation=self._incarnation,
            request_id=command.request_id,
            num_tokens=num_tokens,
            pin=pin,
            error=error,
            detail=detail,
            facts=facts or {},
        )


def _batches(keys: Iterator[Key]) -> Iterator[list[Key]]:
    while batch := list(itertools.islice(keys, CLEAR_BATCH)):
        yield batch
