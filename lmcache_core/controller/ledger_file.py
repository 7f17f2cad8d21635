"""The file that the ledger is kept in: SQLite, synced at every commit."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Self

import xxhash

from lmcache_core.controller.failures import LedgerFullError, LedgerUnavailableError
from lmcache_core.errors import ConfigError

APPLICATION_ID = 0x4C4D_5049
"""Says in the file's header whose it is."""

TABLES = ("meta", "pins", "standings", "tombstones", "jobs")

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    tuple(f"CREATE TABLE {name} (key TEXT PRIMARY KEY, record BLOB NOT NULL)" for name in TABLES),
)
"""What brings a file from each version of its schema to the next one; a new file begins at 0."""

BUSY_SECONDS = 2.0
"""How long the start waits for a controller that is just ending."""

_SEAL_BYTES = 8

_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT}
_IN_USE = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


class Change(NamedTuple):
    """One record to be written, or removed where it is None."""

    table: str
    key: str
    record: bytes | None


class LedgerFile:
    """Tables of records by key, in a file that one process holds.

    Used by one thread at a time. SQLite sums up the pages of its log but not
    those of the file itself, so that each record has a checksum of its own.

    Args:
        path: The file.
        connection: Opened on it.

    Attributes:
        path: The file.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection
        self._inodes = self._present()

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a file for this process alone, or begin a new one.

        Raises:
            ConfigError: It is in use, damaged, of a later version, of another
                program, or cannot be written.
        """
        try:
            _create(path)
            connection = sqlite3.connect(
                path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
        except (OSError, sqlite3.Error) as error:
            raise _unusable(
                path, f"cannot be opened: {error}; name another file with --ledger"
            ) from error
        try:
            _prepare(path, connection)
            return cls(path, connection)
        except sqlite3.Error as error:
            connection.close()
            raise _why(path, error) from error
        except BaseException:
            connection.close()
            raise

    def read(self, table: str) -> Iterator[tuple[str, bytes]]:
        """All records of a table, in the order they were first written.

        Raises:
            ConfigError: One is damaged.
        """
        try:
            for key, sealed in self._connection.execute(
                f"SELECT key, record FROM {table} ORDER BY rowid"  # noqa: S608 - a name of TABLES
            ):
                record = sealed[_SEAL_BYTES:]
                if sealed[:_SEAL_BYTES] != _seal(table, key, record):
                    raise damaged(self.path, f"the record {key!r} of {table} fails its checksum")
                yield key, record
        except sqlite3.Error as error:
            raise _why(self.path, error) from error

    def write(self, changes: Sequence[Change]) -> None:
        """Write all changes, or none; they are on the disk when this returns.

        Raises:
            LedgerFullError: The disk is full.
            LedgerUnavailableError: The file cannot be written, or is gone.
        """
        run = self._connection.execute
        try:
            run("BEGIN IMMEDIATE")
            for table, key, record in changes:
                if record is None:
                    run(f"DELETE FROM {table} WHERE key = ?", (key,))  # noqa: S608 - a name of TABLES
                    continue
                run(
                    f"INSERT INTO {table} VALUES (?, ?) "  # noqa: S608 - a name of TABLES
                    "ON CONFLICT (key) DO UPDATE SET record = excluded.record",
                    (key, _seal(table, key, record) + record),
                )
            run("COMMIT")
        except sqlite3.Error as error:
            with contextlib.suppress(sqlite3.Error):
                if self._connection.in_transaction:
                    run("ROLLBACK")
            if _code(error) == sqlite3.SQLITE_FULL:
                message = f"the disk that holds the ledger {self.path} is full; make room on it"
                raise LedgerFullError(message) from error
            raise unwritable(self.path, str(error)) from error
        present = self._present()
        if present != self._inodes:
            # What was written went into files that have no name any more.
            reason = "it was removed or replaced while in use; start the controller anew"
            raise unwritable(self.path, reason)

    def close(self) -> None:
        """Let go of the file; idempotent."""
        with contextlib.suppress(sqlite3.Error):
            self._connection.close()

    def _present(self) -> list[tuple[int, int] | None]:
        """Which files have the names of this one and of its log."""
        found: list[tuple[int, int] | None] = []
        for name in (self.path, f"{self.path}-wal"):
            try:
                status = os.stat(name)  # noqa: PTH116 - half the time of Path's
                found.append((status.st_dev, status.st_ino))
            except OSError:
                found.append(None)
        return found


def damaged(path: Path, what: str) -> ConfigError:
    """The failure of a ledger that cannot be believed."""
    return _unusable(
        path,
        f"is damaged: {what}; put back a copy of it, or move it away: a new ledger takes over "
        "the pins that engines hold",
    )


def unwritable(path: Path, reason: str) -> LedgerUnavailableError:
    """The failure of a commit."""
    return LedgerUnavailableError(f"the pin ledger {path} cannot be written: {reason}")


def _create(path: Path) -> None:
    """Make the file and its folder, for the owner alone: token ids are prompts."""
    if path.exists():
        return
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _prepare(path: Path, connection: sqlite3.Connection) -> None:
    run = connection.execute
    # Held from the first write on until the process ends, however it does.
    run("PRAGMA locking_mode = EXCLUSIVE")
    if run("PRAGMA journal_mode = WAL").fetchone() != ("wal",):
        raise _unusable(path, "lies on a file system that does not do for SQLite's WAL")
    run("PRAGMA synchronous = FULL")
    run("BEGIN IMMEDIATE")
    (verdict,) = run("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise damaged(path, " ".join(verdict.split()))
    (owner,) = run("PRAGMA application_id").fetchone()
    (version,) = run("PRAGMA user_version").fetchone()
    (tables,) = run("SELECT count(*) FROM sqlite_master").fetchone()
    if owner != APPLICATION_ID and (owner or tables):
        raise _unusable(path, "is another program's database; name another file")
    if version > len(MIGRATIONS):
        raise _unusable(
            path,
            f"has schema version {version}, and this controller knows {len(MIGRATIONS)}; it was "
            "written by a later one, which can read it",
        )
    for statements in MIGRATIONS[version:]:
        for statement in statements:
            run(statement)
    run(f"PRAGMA application_id = {APPLICATION_ID}")
    run(f"PRAGMA user_version = {len(MIGRATIONS)}")
    # The lock is taken with a write: what nothing is written to may be shared.
    run("REPLACE INTO meta VALUES ('opened', zeroblob(8))")
    run("DELETE FROM meta WHERE key = 'opened'")
    run("COMMIT")


def _why(path: Path, error: sqlite3.Error) -> ConfigError:
    code = _code(error)
    if code in _IN_USE:
        return _unusable(
            path,
            "is in use by another controller; end that one, or give this one a ledger of its own "
            "with --ledger FILE, or --ledger none for pins that no restart survives",
        )
    if code == sqlite3.SQLITE_FULL:
        return _unusable(path, "lies on a disk that is full; make room on it")
    if code in _DAMAGED:
        return damaged(path, str(error))
    return _unusable(path, f"cannot be used: {error}")


def _unusable(path: Path, reason: str) -> ConfigError:
    return ConfigError(f"the pin ledger {path} {reason}", key="ledger")


def _code(error: sqlite3.Error) -> int:
    """SQLite's primary result code; extended ones have more in the upper bits."""
    return int(getattr(error, "sqlite_errorcode", None) or 0) & 0xFF


def _seal(table: str, key: str, record: bytes) -> bytes:
    digest = xxhash.xxh3_64(f"{table}\0{key}\0".encode())
    digest.update(record)
    return digest.digest()
