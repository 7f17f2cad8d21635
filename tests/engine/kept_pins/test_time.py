"""The time of a pin that is kept goes on while no engine runs."""

from __future__ import annotations

import time

from lmcache_core.api.pins import PinState, Renew
from lmcache_core.engine.tiers import restoring
from tests.engine.kept_pins.keeping import clock_says, engine, kept, pin, record_files, report
from tests.engine.test_pins import MEMORY
from tests.engine.test_storage_tier import LONG, below, flood, settle


def test_the_time_of_a_pin_goes_on_where_no_controller_is_configured(folder):
    with engine(folder) as rig:
        rig.serve(LONG)
        settle(rig)
        pin(rig, ttl_seconds=60)
    with engine(folder) as rig:
        assert report(rig).state is PinState.ACTIVE
        assert not rig.config.enable_controller
    with engine(folder) as rig:
        pin(rig, version=2, ttl_seconds=0.05)
        deadline = time.monotonic() + 20
        while report(rig) is not None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        flood(rig, chunks=40)
        settle(rig)
        assert below(rig).pinned_bytes == 0
    with engine(folder) as rig:
        assert report(rig) is None


def test_a_pin_whose_time_is_up_stays_expired(folder, monkeypatch):
    with engine(folder) as rig:
        rig.serve(LONG)
        settle(rig)
        pin(rig, ttl_seconds=60)
        pin(rig, pin_id="long", ttl_seconds=600)
    now = time.time()
    monkeypatch.setattr(
        restoring.PinRestoring.__init__, "__kwdefaults__", {"wall": lambda: now + 61}
    )
    with engine(folder) as rig:
        assert report(rig) is None
        assert 500 < report(rig, "long").ttl_seconds <= 539
    assert len(record_files(folder)) == 1


def test_a_clock_that_went_back_brings_no_time_back(folder, monkeypatch):
    with engine(folder) as rig:
        rig.serve(LONG)
        settle(rig)
        pin(rig, ttl_seconds=60)
    clock_says(monkeypatch, 1e9)
    with engine(folder) as rig:
        assert report(rig).ttl_seconds <= 60


def test_what_expires_while_it_runs_is_not_kept(folder):
    with engine(folder) as rig:
        rig.serve(LONG)
        settle(rig)
        pin(rig, ttl_seconds=0.01)
        time.sleep(0.02)
        with rig.engine.tiers.lock:
            assert rig.engine.tiers.pins.expire() == ["p"]
        kept(rig)
        assert record_files(folder) == []


def test_hits_that_renew_a_pin_are_kept(folder, monkeypatch):
    with engine(folder) as rig:
        rig.serve(LONG)
        settle(rig)
        pin(rig, location=MEMORY, ttl_seconds=80, renew=Renew.ON_HIT)
        files = record_files(folder)
        rig.serve(LONG)
        kept(rig)
        assert record_files(folder) == files, "a hit is not written each time"
        now = time.time()
        monkeypatch.setattr(rig.engine.tiers.keeping, "_wall", lambda: now + 50)
        rig.serve(LONG)
        kept(rig)
        assert record_files(folder) != files
    clock_says(monkeypatch, now + 100)
    with engine(folder) as rig:
        assert 20 < report(rig).ttl_seconds <= 31
