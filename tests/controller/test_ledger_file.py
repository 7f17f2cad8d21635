"""The ledger's file: one holder, nothing believed that is damaged, nothing half written."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from lmcache_core.controller import ledger_file
from lmcache_core.controller.failures import LedgerFullError, LedgerUnavailableError
from lmcache_core.controller.ledger_file import Change, LedgerFile
from lmcache_core.errors import ConfigError

HOLD = (
    "import sys, signal, pathlib; from lmcache_core.controller.ledger_file import LedgerFile;"
    "held = LedgerFile.open(pathlib.Path(sys.argv[1])); print('held', flush=True); signal.pause()"
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new folder" / "pins.sqlite"


def kept(path: Path, table: str = "pins") -> dict[str, bytes]:
    file = LedgerFile.open(path)
    try:
        return dict(file.read(table))
    finally:
        file.close()


def test_what_is_written_is_there_when_it_is_opened_again(path: Path) -> None:
    file = LedgerFile.open(path)
    file.write([Change("pins", "a", b"1"), Change("pins", "b", b"2"), Change("jobs", "a", b"3")])
    file.write([Change("pins", "a", b"4"), Change("pins", "b", None), Change("pins", "c", b"")])
    assert list(file.read("pins")) == [("a", b"4"), ("c", b"")]
    file.close()
    file.close()
    assert kept(path) == {"a": b"4", "c": b""}
    assert kept(path, "jobs") == {"a": b"3"}


def test_every_commit_is_synced(path: Path) -> None:
    """A killed process loses no page, so that no kill would show that it is not."""
    file = LedgerFile.open(path)
    full = 2
    assert file._connection.execute("PRAGMA synchronous").fetchone() == (full,)
    assert file._connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    file.close()


def test_it_is_the_owners_alone(path: Path) -> None:
    """Token ids are prompts."""
    LedgerFile.open(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_second_process_is_refused_until_the_first_is_gone(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_file, "BUSY_SECONDS", 0.1)
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(ConfigError, match=r"in use by another controller.*--ledger FILE"):
            LedgerFile.open(path)
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    LedgerFile.open(path).close()


@pytest.mark.parametrize("where", ["header", "middle", "short", "text"])
def test_a_damaged_file_is_refused_with_what_to_do(path: Path, where: str) -> None:
    file = LedgerFile.open(path)
    file.write([Change("pins", f"{n:04}", os.urandom(3000)) for n in range(60)])
    file.close()
    content = bytearray(path.read_bytes())
    if where == "header":
        content[:16] = bytes(16)
    elif where == "middle":
        content[len(content) // 2 : len(content) // 2 + 4096] = b"\xff" * 4096
    elif where == "short":
        del content[len(content) // 3 :]
    else:
        content = bytearray(b"these are no pins\n" * 1000)
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"is damaged: .*move it away"):
        kept(path)
    assert path.read_bytes() == content, "it is left for who can repair it"


def test_no_flipped_bit_of_a_record_is_believed(path: Path) -> None:
    record = bytes(range(200))
    file = LedgerFile.open(path)
    file.write([Change("pins", "a", record)])
    file.close()
    content = path.read_bytes()
    start = content.index(record)
    for position in range(start - 8, start + len(record), 7):
        flipped = bytearray(content)
        flipped[position] ^= 1 << position % 8
        path.write_bytes(flipped)
        with pytest.raises(ConfigError, match="'a' of pins fails its checksum"):
            kept(path)
    path.write_bytes(content)
    assert kept(path) == {"a": record}


def test_a_record_is_not_taken_for_that_of_another_key(path: Path) -> None:
    file = LedgerFile.open(path)
    file.write([Change("pins", "a", b"1")])
    file.close()
    with sqlite3.connect(path) as other:
        other.execute("UPDATE pins SET key = 'b'")
    other.close()
    with pytest.raises(ConfigError, match="checksum"):
        kept(path)


def test_another_programs_database_is_left_alone(path: Path) -> None:
    path.parent.mkdir()
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE theirs (x)")
    other.close()
    with pytest.raises(ConfigError, match="another program's database"):
        LedgerFile.open(path)


def test_a_later_version_is_refused_and_an_earlier_one_brought_up(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = LedgerFile.open(path)
    file.write([Change("pins", "a", b"1")])
    file.close()
    now = ledger_file.MIGRATIONS
    later = (*now, ("ALTER TABLE jobs RENAME TO work",))
    with monkeypatch.context() as patched:
        patched.setattr(ledger_file, "MIGRATIONS", later)
        assert kept(path) == {"a": b"1"}
        assert kept(path, "work") == {}
    with pytest.raises(ConfigError, match=f"schema version {len(later)}.*knows {len(now)}"):
        LedgerFile.open(path)


def test_a_full_disk_costs_the_commit_and_no_more(path: Path) -> None:
    file = LedgerFile.open(path)
    file.write([Change("pins", "a", b"1")])
    file._connection.execute("PRAGMA max_page_count = 20")
    with pytest.raises(LedgerFullError, match="full; make room"):
        file.write([Change("pins", "a", b"2"), Change("pins", "big", bytes(1 << 20))])
    assert dict(file.read("pins")) == {"a": b"1"}
    file.write([Change("pins", "a", b"3")])
    file.close()
    assert kept(path) == {"a": b"3"}


@pytest.mark.parametrize("lost", ["", "-wal"])
def test_a_file_that_vanishes_is_noticed(path: Path, lost: str) -> None:
    file = LedgerFile.open(path)
    Path(f"{path}{lost}").unlink()
    with pytest.raises(LedgerUnavailableError, match="removed or replaced"):
        file.write([Change("pins", "a", b"1")])
    file.close()


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be opened"):
        LedgerFile.open(tmp_path / "file" / "pins.sqlite")
    with pytest.raises(ConfigError, match="name another file with --ledger"):
        LedgerFile.open(tmp_path)
