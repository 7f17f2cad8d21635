"""Engines over a folder that keeps their pins, one after the other."""

from __future__ import annotations

import time

from lmcache_core.api.frames import is_record
from lmcache_core.engine.tiers import restoring
from tests.engine.test_local_disk import NAME
from tests.engine.test_pins import ask
from tests.engine.test_storage_tier import LONG

CHUNKS = 12


def engine(folder, **fields):
    return folder.engine(chunks=CHUNKS, **fields)


def pin(rig, tokens=LONG, pin_id="p", **fields):
    """Pin, and wait until that is kept; return the report."""
    tiers = rig.engine.tiers
    with tiers.lock:
        tiers.pins.pin(ask(tokens, pin_id, **{"location": NAME, **fields}))
    return report(rig, pin_id)


def unpin(rig, pin_id="p", version=1):
    tiers = rig.engine.tiers
    with tiers.lock:
        released = tiers.pins.unpin(pin_id, version)
        tiers.keeping.release(pin_id)
    kept(rig, pin_id)
    return released


def kept(rig, pin_id="p"):
    """Wait until nothing is under way of a pin."""
    deadline = time.monotonic() + 20
    tiers = rig.engine.tiers
    while True:
        with tiers.lock:
            receipt = tiers.keeping.receipt(pin_id)
        if receipt is None:
            return
        assert time.monotonic() < deadline
        time.sleep(0.001)


def report(rig, pin_id="p", *, wait=True):
    if wait:
        kept(rig, pin_id)
    with rig.engine.tiers.lock:
        return rig.engine.tiers.pins.report(pin_id)


def record_files(folder):
    return [file for file in folder.files() if is_record(bytes.fromhex(file.name))]


def clock_says(monkeypatch, unix_time):
    """Let engines that start from now on take it to be some time."""
    defaults = {"wall": lambda: unix_time}
    monkeypatch.setattr(restoring.PinRestoring.__init__, "__kwdefaults__", defaults)
