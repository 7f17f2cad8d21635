"""Answers to pin commands that wait until what they say is durable."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeAlias

import msgspec

from lmcache_core.api.deadline import Deadline
from lmcache_core.api.messages import (
    Command,
    PinCommand,
    RenewCommand,
    Reply,
    UnpinCommand,
)
from lmcache_core.api.pins import PinRenewal, PinRequest
from lmcache_core.engine.pins.keeping import PinKeeping, Receipt
from lmcache_core.engine.tiers.stack import TierStack

ANSWERED_SHARE = 0.8
"""Of the caller's time; the rest is for the answer's way back."""

MOST_SECONDS = 1.0
"""How long the answer to a pin waits whose bytes go with the process anyway."""


KEPT = Receipt(parts=0)

PinChange: TypeAlias = PinCommand | RenewCommand | UnpinCommand
"""A command whose answer may wait."""


class Held(NamedTuple):
    """An answer that waits."""

    command: PinChange
    reply: Reply
    receipt: Receipt
    until: Deadline


class HeldReplies:
    """Which answers wait, on the control agent's thread.

    Args:
        tiers: The engine's tiers, pins and lock.
        keeping: Keeps pins.
        wake: Lets the control agent look.

    Attributes:
        due: Whether something was made durable since the answers were looked at.
    """

    def __init__(self, tiers: TierStack, keeping: PinKeeping, wake: Callable[[], None]) -> None:
        self._tiers = tiers
        self._keeping = keeping
        self._wake = wake
        self._held: list[Held] = []
        self.due = False

    def note(self) -> None:
        """Something was made durable; on another thread."""
        self.due = True
        if self._held:
            self._wake()

    def hold(self, command: Command, reply: Reply) -> Reply | None:
        """The answer to send now; None where it waits until what it says is durable."""
        if reply.error is not None or not isinstance(command, PinChange):
            return reply
        with self._tiers.lock:
            receipt, seconds = self._receipt(command)
        held = Held(command, reply, receipt, Deadline(seconds))
        if receipt.over:
            return self._answer(held)
        self._held.append(held)
        return None

    def take(self) -> Iterator[tuple[Command, Reply]]:
        """The answers that wait no longer."""
        self.due = False
        held, self._held = self._held, []
        for one in held:
            if one.receipt.over or one.until.expired:
                yield one.command, self._answer(one)
            else:
                self._held.append(one)

    def _receipt(self, command: PinChange) -> tuple[Receipt, float]:
        """What an answer waits for, and how many seconds; the lock is held."""
        keeping, seconds = self._keeping, command.deadline_seconds * ANSWERED_SHARE
        if isinstance(command, UnpinCommand):
            keeping.release(command.pin_id)
            return keeping.receipt(command.pin_id) or KEPT, seconds
        pin = _asked(command)
        receipt = keeping.receipt(pin.pin_id) or KEPT
        if not keeping.is_durable(pin.location):
            seconds = min(seconds, MOST_SECONDS)
            if keeping.is_failing(pin.pin_id):
                receipt = KEPT
        return receipt, seconds

    def _answer(self, held: Held) -> Reply:
        command, reply, receipt, _ = held
        if isinstance(command, UnpinCommand):
            what = f"pin {command.pin_id!r} is let go of"
        else:
            pin = _asked(command)
            if not self._keeping.is_durable(pin.location):
                return reply
            what = f"pin {pin.pin_id!r} is marked in {pin.location}"
            with self._tiers.lock:
                report = self._tiers.pins.report(pin.pin_id)
            if report is not None and report.version == pin.version:
                reply = msgspec.structs.replace(reply, pin=report, num_tokens=report.tokens_pinned)
        if receipt.failure is not None:
            detail = f"{what} and that could not be made durable: {receipt.failure}"
            return _failed(reply, "internal", detail)
        if not receipt.over:
            detail = f"{what} and that was not durable within {held.until.seconds:.1f} s"
            return _failed(reply, "deadline", detail)
        return reply


def _asked(command: PinCommand | RenewCommand) -> PinRequest | PinRenewal:
    """What a pin is to be."""
    return command.pin if isinstance(command, PinCommand) else command.renewal


def _failed(reply: Reply, error: str, detail: str) -> Reply:
    return msgspec.structs.replace(reply, num_tokens=0, pin=None, error=error, detail=detail)
