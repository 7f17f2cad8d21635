"""Commits: shared, ordered, whole, retried, waited for with a deadline."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lmcache_core.api.deadline import Deadline
from lmcache_core.controller import journal as journal_module
from lmcache_core.controller.failures import LedgerFullError, LedgerUnavailableError
from lmcache_core.controller.journal import Journal
from lmcache_core.controller.ledger_file import Change, LedgerFile
from lmcache_core.errors import DeadlineExceededError


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110 - what is waited for sets no event
            await asyncio.sleep(0.005)


class Note(msgspec.Struct):
    text: str


class Slow(LedgerFile):
    """A real file; a test holds its commits up or makes them fail."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.may = threading.Event()
        self.may.set()
        self.begun = threading.Event()
        self.batches: list[list[Change]] = []
        self.failures: list[Exception] = []

    def write(self, changes: Sequence[Change]) -> None:
        self.begun.set()
        assert self.may.wait(20)
        self.batches.append(list(changes))
        if self.failures:
            raise self.failures.pop(0)
        super().write(changes)


class Notes:
    """What is kept: texts by key."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "notes.sqlite"
        self.file = Slow.open(self.path)
        self.journal = Journal(self.file)
        self.texts: dict[str, str] = {}
        self.journal.source(
            "pins", lambda key: Note(self.texts[key]) if key in self.texts else None
        )

    def set(self, key: str, text: str | None, *, lazily: bool = False) -> None:
        self.texts.pop(key, None)
        if text is not None:
            self.texts[key] = text
        self.journal.note("pins", key, lazily=lazily)

    async def synced(self, seconds: float = 20) -> None:
        await self.journal.synced(Deadline(seconds))

    async def hold(self) -> None:
        """Let the next commit begin and not end."""
        self.file.begun.clear()
        self.file.may.clear()
        self.set("holding", "x")
        await asyncio.to_thread(self.file.begun.wait, 20)

    @property
    def kept(self) -> dict[str, str]:
        file = LedgerFile.open(self.path)
        try:
            return {k: msgspec.msgpack.decode(r)["text"] for k, r in file.read("pins")}
        finally:
            file.close()


@pytest.fixture
def run(tmp_path: Path) -> Callable[[Callable[[Notes], Awaitable[None]]], Notes]:
    def run(act: Callable[[Notes], Awaitable[None]]) -> Notes:
        async def main() -> Notes:
            notes = Notes(tmp_path)
            try:
                await act(notes)
            finally:
                notes.file.may.set()
                await notes.journal.close()
            return notes

        return asyncio.run(main())

    return run


Run = Callable[[Callable[[Notes], Awaitable[None]]], Notes]


def test_a_change_is_on_the_disk_once_it_is_synced(run: Run) -> None:
    async def act(notes: Notes) -> None:
        notes.set("a", "1")
        await notes.synced()
        assert len(notes.file.batches) == 1
        await notes.synced()
        assert len(notes.file.batches) == 1, "nothing has changed"

    assert run(act).kept == {"a": "1"}


def test_what_changes_in_one_turn_is_in_one_commit_and_written_once(run: Run) -> None:
    async def act(notes: Notes) -> None:
        notes.set("a", "1")
        notes.set("b", "2")
        notes.set("a", "3")
        notes.set("b", None)
        await notes.synced()
        (batch,) = notes.file.batches
        assert [(change.key, change.record is None) for change in batch] == [
            ("a", False),
            ("b", True),
        ]

    assert run(act).kept == {"a": "3"}


def test_a_hundred_at_once_share_two_commits(run: Run) -> None:
    async def act(notes: Notes) -> None:
        async def one(number: int) -> None:
            await asyncio.sleep(number % 3 * 0.001)
            notes.set(str(number), "x")
            await notes.synced()

        await notes.hold()
        waiting = asyncio.gather(*(one(n) for n in range(100)))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        notes.file.may.set()
        await waiting
        assert len(notes.file.batches) == 2
        assert notes.journal.commits == 2

    assert len(run(act).kept) == 101


def test_the_loop_is_free_while_a_commit_takes_long_and_who_waits_has_a_deadline(
    run: Run,
) -> None:
    async def act(notes: Notes) -> None:
        await notes.hold()
        notes.set("a", "1")
        with pytest.raises(DeadlineExceededError, match="ledger's commit"):
            await notes.synced(0.05)
        notes.file.may.set()
        await notes.synced()

    assert run(act).kept == {"holding": "x", "a": "1"}


def test_a_failed_commit_is_told_to_all_who_wait_for_it_and_made_good(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "RETRY_SECONDS", 0.01)

    async def act(notes: Notes) -> None:
        notes.file.failures = [LedgerFullError("full"), LedgerUnavailableError("broken")]
        notes.set("a", "1")
        first, second = await asyncio.gather(notes.synced(), notes.synced(), return_exceptions=True)
        assert (type(first), type(second)) == (LedgerFullError, LedgerFullError)
        assert notes.journal.failure is not None
        notes.set("a", "2")
        with pytest.raises(LedgerUnavailableError):
            await notes.synced()
        await until(lambda: notes.journal.failure is None)
        assert (notes.journal.failures, notes.journal.commits) == (2, 1)
        await notes.synced()

    assert run(act).kept == {"a": "2"}


def test_a_change_made_while_an_older_commit_fails_waits_for_its_own(run: Run) -> None:
    async def act(notes: Notes) -> None:
        await notes.hold()
        notes.file.failures = [LedgerUnavailableError("broken")]
        notes.set("a", "1")
        waiting = asyncio.ensure_future(notes.synced())
        await asyncio.sleep(0)
        notes.file.may.set()
        await waiting
        assert {change.key for change in notes.file.batches[-1]} == {"holding", "a"}

    assert run(act).kept == {"holding": "x", "a": "1"}


def test_a_lazy_change_goes_with_the_next_commit_and_soon_alone(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "LAZY_SECONDS", 0.02)

    async def act(notes: Notes) -> None:
        notes.set("lazy", "1", lazily=True)
        notes.set("a", "1")
        await notes.synced()
        assert len(notes.file.batches[0]) == 2
        notes.set("lazy", "2", lazily=True)
        await until(lambda: len(notes.file.batches) == 2)

    assert run(act).kept == {"lazy": "2", "a": "1"}


def test_closing_writes_what_is_left(run: Run) -> None:
    async def act(notes: Notes) -> None:
        notes.set("a", "1", lazily=True)

    assert run(act).kept == {"a": "1"}


def test_a_crash_of_the_writer_is_a_failure_and_not_a_hang(run: Run) -> None:
    async def act(notes: Notes) -> None:
        notes.file.failures = [RuntimeError("defect")]
        notes.set("a", "1")
        with pytest.raises(LedgerUnavailableError, match="defect"):
            await notes.synced()

    assert run(act).kept == {"a": "1"}


def test_without_a_file_everything_is_synced() -> None:
    async def main() -> None:
        journal = Journal()
        journal.source("pins", lambda _key: None)
        journal.note("pins", "a")
        await journal.synced(Deadline(0.01))
        await journal.close()

    asyncio.run(main())
