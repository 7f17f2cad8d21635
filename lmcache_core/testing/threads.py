"""Calls at the same instant, with an end even where one of them hangs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import pytest

PATIENCE_SECONDS = 60.0

T = TypeVar("T")


def together(calls: Sequence[Callable[[], T]]) -> list[T]:
    """Make calls at the same instant, each on a thread of its own.

    A call that has not returned after a minute fails the check; its thread is
    a daemon, so that it holds up nothing.

    Raises:
        Exception: What the first call that failed has raised.
    """
    barrier = threading.Barrier(len(calls))
    results: dict[int, T] = {}
    errors: dict[int, Exception] = {}

    def run(number: int) -> None:
        barrier.wait(PATIENCE_SECONDS)
        try:
            results[number] = calls[number]()
        except Exception as error:  # noqa: BLE001 - raised again where the check can see it
            errors[number] = error

    threads = [
        threading.Thread(target=run, args=(number,), daemon=True) for number in range(len(calls))
    ]
    for thread in threads:
        thread.start()
    end = time.monotonic() + PATIENCE_SECONDS
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    if any(thread.is_alive() for thread in threads):
        pytest.fail(f"a call did not return within {PATIENCE_SECONDS:g} s")
    if errors:
        raise errors[min(errors)]
    return [results[number] for number in range(len(calls))]
