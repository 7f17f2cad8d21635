"""The commands of ``lmcache disk``."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from lmcache_backend_local_disk.calls import SYSTEM
from lmcache_backend_local_disk.cli.report import Row, show
from lmcache_backend_local_disk.cli.store_folder import StoreFolder
from lmcache_backend_local_disk.cli.verifying import Damage, Verified, verify
from lmcache_backend_local_disk.config import LocalDiskConfig
from lmcache_backend_local_disk.disk import Disk
from lmcache_backend_local_disk.shard import length_of, used_at
from lmcache_core.api import BackendContext
from lmcache_core.api.frames import is_record

MIB = 1 << 20
DAY_SECONDS = 86_400
FOUND_DAMAGE = 1
"""Exit status; 2 is for what could not be done at all."""

_folder = click.argument("folder", type=click.Path(path_type=Path))
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
_rate = click.option(
    "--rate", type=click.FloatRange(min=0, min_open=True), help="MiB/s at most that are read."
)


@click.group()
def disk() -> None:
    """Look into the folders of a disk tier, verify and tidy them.

    FOLDER is the tier's path (local_disk), or the folder of one instance in
    it. Status 1 says that damaged files were found, status 2 that something
    could not be done.
    """


@disk.command()
@_folder
@_json
def inspect(folder: Path, *, as_json: bool) -> None:
    """Tell what is in FOLDER; nothing is changed, and an engine may have it open."""
    show([_facts(store) for store in StoreFolder.find(folder)], as_json=as_json)


@disk.command("verify")
@_folder
@_rate
@_json
@click.pass_context
def verify_(ctx: click.Context, folder: Path, *, rate: float | None, as_json: bool) -> None:
    """Read all files of FOLDER and name the damaged ones; nothing is changed.

    Where an engine has it open files may come and go meanwhile.
    """
    rows = []
    for store in StoreFolder.find(folder):
        verified = verify(
            store.path, store.frames(), _bytes(rate), lambda _: None, direct=False, quiet=as_json
        )
        rows.append(_verdict(store, verified, open_in=store.owner))
    _end(ctx, rows, as_json=as_json)


@disk.command()
@_folder
@_rate
@_json
@click.pass_context
def scrub(ctx: click.Context, folder: Path, *, rate: float | None, as_json: bool) -> None:
    """Read all files of FOLDER and quarantine the damaged ones.

    No engine may have it open: one that has does this by itself.
    """
    rows = []
    for store in StoreFolder.find(folder):
        with _owned(store) as owned:

            def quarantine(damage: Damage, owned: Disk = owned) -> None:
                owned.quarantine(damage.file.key, damage.reason)

            verified = verify(
                store.path,
                store.frames(),
                _bytes(rate),
                quarantine,
                direct=owned.direct,
                quiet=as_json,
            )
        rows.append(_verdict(store, verified))
    _end(ctx, rows, as_json=as_json)


@disk.command()
@_folder
@click.option("--quarantine", is_flag=True, help="Remove the damaged files that were kept, too.")
@click.option(
    "--unused-for",
    "days",
    type=click.FloatRange(min=0),
    help="Remove the frames, too, that were not used for so many days.",
)
@_json
def gc(folder: Path, *, quarantine: bool, days: float | None, as_json: bool) -> None:
    """Remove from FOLDER what was never finished, and set aside what is no frame.

    No engine may have it open: one that starts does this by itself.
    """
    rows: list[Row] = []
    for store in StoreFolder.find(folder):
        strangers, unfinished = len(store.strangers()), store.unfinished()
        row: dict[str, Any] = {
            "folder": str(store.path),
            "unfinished_removed": unfinished.files,
            "unfinished_removed_bytes": unfinished.nbytes,
            "strangers_quarantined": strangers,
        }
        with _owned(store) as owned:
            owned.usage()  # Lists all folders, and finds what is no frame.
            if days is not None:
                row.update(_remove_unused(owned, days))
            if quarantine:
                kept = store.quarantine()
                row.update(quarantine_removed=kept.files, quarantine_removed_bytes=kept.nbytes)
                for file in (store.path / "quarantine").iterdir():
                    file.unlink()
        rows.append(row)
    show(rows, as_json=as_json)


@contextmanager
def _owned(store: StoreFolder) -> Iterator[Disk]:
    """Own a folder as an engine does; what it lacks is made, and its index written anew."""
    config = LocalDiskConfig(path=str(store.path))
    context = BackendContext(instance_id=store.path.name, tier="LocalDiskBackend")
    owned = Disk(store.path, config, SYSTEM, context)
    owned.open()
    try:
        yield owned
    finally:
        owned.close()


def _facts(store: StoreFolder) -> Row:
    frames = list(store.frames())
    unfinished, quarantine = store.unfinished(), store.quarantine()
    identity = store.identity
    status = os.statvfs(store.path)
    return {
        "folder": str(store.path),
        "open_in": store.owner,
        "store": None if identity is None else identity.name,
        "format": None if identity is None else identity.format,
        "frames": len(frames),
        "frames_bytes": sum(frame.nbytes for frame in frames),
        "index": store.snapshot(),
        "unfinished": unfinished.files,
        "unfinished_bytes": unfinished.nbytes,
        "no_frames": len(store.strangers()),
        "quarantined": quarantine.files,
        "quarantined_bytes": quarantine.nbytes,
        "free_bytes": status.f_bavail * status.f_frsize,
        "quarantine": [
            {"file": path.name, "reason": reason} for path, reason in store.quarantined()
        ],
    }


def _verdict(store: StoreFolder, verified: Verified, **facts: str | None) -> Row:
    return {
        "folder": str(store.path),
        **facts,
        "verified": verified.files,
        "verified_bytes": verified.nbytes,
        "damaged_files": len(verified.damaged),
        "damaged": [
            {"file": str(damage.file.path), "reason": damage.reason} for damage in verified.damaged
        ],
    }


def _remove_unused(owned: Disk, days: float) -> dict[str, int]:
    before_us = (time.time() - days * DAY_SECONDS) * 1e6
    old = [
        (use, key)
        for part in owned.found()
        for use, key in part
        # What an engine keeps of its pins is read at its start and not used in between.
        if used_at(use) < before_us and not is_record(key)
    ]
    for _, key in old:
        owned.remove(key)
    return {
        "unused_removed": len(old),
        "unused_removed_bytes": sum(length_of(use) for use, _ in old),
    }


def _bytes(rate: float | None) -> float | None:
    return None if rate is None else rate * MIB


def _end(ctx: click.Context, rows: list[Row], *, as_json: bool) -> None:
    show(rows, as_json=as_json)
    if any(row["damaged_files"] for row in rows):
        ctx.exit(FOUND_DAMAGE)
