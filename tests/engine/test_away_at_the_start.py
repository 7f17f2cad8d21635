"""Stores that are away when their engine starts, and are used once they are there."""

from __future__ import annotations

import logging
import threading
import time

import pytest

from lmcache_core.api import BackendContext, Capability
from lmcache_core.api.pins import OnMissing
from lmcache_core.engine.storage import breaker, opening
from lmcache_core.engine.storage.breaker import LONGEST_PAUSE_SECONDS
from lmcache_core.errors import BackendError, ConfigError, DeadlineExceededError, NotCachedError
from lmcache_core.testing import DictBackend, DictConfig, DictStore
from tests.controller.engine_peer import eventually
from tests.engine.rig import CHUNK_TOKENS, Rig, storage_spec
from tests.engine.test_hostile_store import no_leases
from tests.engine.test_lifetimes import engine_threads
from tests.engine.test_pins import ask
from tests.engine.test_storage_tier import LONG, below, flood, settle

NAME = "far"
SHARED = Capability.SHARED | Capability.SELF_EVICTING
OWN = Capability.DURABLE | Capability.SCAN
FIRST_PAUSE_SECONDS = 0.02


class Site:
    """Where a store is, or is not yet; makes the backends of engines that look for it there.

    Attributes:
        fault: What opening raises; None once the store is there.
        open_gate: Cleared, an opening does not return.
    """

    def __init__(self) -> None:
        self.store = DictStore()
        self.fault: BaseException | None = BackendError("nobody answers at far:1; see that it runs")
        self.backends: list[Distant] = []
        self.open_gate = threading.Event()
        self.open_gate.set()

    def make(self, _config: object, _context: object) -> Distant:
        self.backends.append(Distant(self))
        return self.backends[-1]

    @property
    def tries(self) -> int:
        return sum(backend.opened for backend in self.backends)


class Distant(DictBackend):
    """Keeps to the letter of what a backend is promised."""

    def __init__(self, site: Site) -> None:
        super().__init__(DictConfig(), BackendContext(instance_id="rig", tier=NAME), site.store)
        self.site = site
        self.opened = 0
        self.usable = self.closed = False

    def open(self) -> None:
        assert not self.closed
        self.opened += 1
        self.site.open_gate.wait(30)
        if self.site.fault is not None:
            raise self.site.fault
        self.usable = True

    def stat(self, keys, deadline):
        assert self.usable
        return super().stat(keys, deadline)

    def put(self, keys, frames, deadline):
        assert self.usable
        return super().put(keys, frames, deadline)

    def close(self) -> None:
        assert self.opened
        self.closed = True


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(breaker, "FIRST_PAUSE_SECONDS", FIRST_PAUSE_SECONDS)


@pytest.fixture
def site():
    site = Site()
    yield site
    site.open_gate.set()


def rig_at(site, capabilities=SHARED, **fields):
    return Rig(storage=[storage_spec(NAME, site.make, capabilities)], **fields)


def joined(rig):
    eventually(lambda: below(rig).healthy)


def test_it_is_used_once_it_is_there_and_nothing_is_restarted(site, caplog):
    caplog.set_level(logging.INFO)
    with rig_at(site) as other:
        site.fault = None
        joined(other)
        other.serve(LONG)
        settle(other)
    site.fault = BackendError("nobody answers at far:1; see that it runs")
    caplog.clear()
    with rig_at(site) as rig:
        assert (below(rig).healthy, below(rig).store_id) == (False, "")
        assert below(rig).reason == "nobody answers at far:1; see that it runs"
        assert rig.serve(LONG) == 0
        assert rig.serve(LONG) == len(LONG) - 1, "memory serves"
        assert below(rig).entries == 0
        site.fault = BackendError("it is loading")
        eventually(lambda: below(rig).reason == "it is loading")
        site.fault = None
        joined(rig)
        assert (below(rig).reason, below(rig).store_id) == ("", site.store.store_id)
        flood(rig)
        settle(rig)
        assert rig.serve(LONG) == len(LONG) - 1, "what the other engine has stored"
        assert rig.engine.counters()[f"{NAME}.open_failures"] >= 2
        assert no_leases(rig)
    assert caplog.text.count("tier.left_out") == caplog.text.count("tier.joined") == 1
    assert engine_threads() == []
    assert all(backend.opened == 1 and backend.closed for backend in site.backends)


@pytest.mark.parametrize(
    "fault",
    [
        BackendError("refused"),
        DeadlineExceededError("connecting", 5),
        ZeroDivisionError("a bug"),
        SystemExit(3),
        ConnectionRefusedError("nobody there"),
    ],
    ids=lambda fault: type(fault).__name__,
)
def test_whatever_it_fails_with_it_is_tried_again_unless_starts_are_to_fail(site, fault):
    site.fault = fault
    with pytest.raises(BackendError, match=str(fault)):
        rig_at(site, overrides={"on_start_failure": "fail"})
    assert engine_threads() == []
    with rig_at(site) as rig:
        assert str(fault) in below(rig).reason
        eventually(lambda: site.tries > 3)
        site.fault = None
        joined(rig)


def test_a_wrong_setting_ends_the_start_and_is_not_tried_again(site):
    site.fault = ConfigError("no such region")
    with pytest.raises(ConfigError, match="no such region"):
        rig_at(site)
    assert site.tries == 1
    assert engine_threads() == []


def test_what_a_try_behind_finds_wrong_ends_nothing(site):
    with rig_at(site) as rig:
        site.fault = ConfigError("the certificate has gone" + 5000 * ".")
        eventually(lambda: below(rig).reason.startswith("the certificate has gone"))
        assert len(below(rig).reason) == 1000, "it is sent with every heartbeat"
        site.fault = None
        joined(rig)


def test_pauses_grow_up_to_a_bound_and_no_two_engines_keep_step(site, monkeypatch):
    monkeypatch.setattr(breaker, "FIRST_PAUSE_SECONDS", 0.5)
    pauses = []

    class Waits(threading.Event):
        def wait(self, timeout=None):
            if threading.current_thread().name == f"lmcache-{NAME}-open" and len(pauses) < 12:
                pauses.append(timeout)
                return False
            return super().wait(timeout)

    monkeypatch.setattr(opening.threading, "Event", Waits)
    with rig_at(site) as rig:
        eventually(lambda: len(pauses) == 12)
        assert not below(rig).healthy
    wholes = [min(0.5 * 2**number, LONGEST_PAUSE_SECONDS) for number in range(12)]
    assert wholes[-1] == 30
    for pause, whole in zip(pauses, wholes, strict=True):
        assert whole / 2 <= pause <= whole
    assert len({pause / whole for pause, whole in zip(pauses, wholes, strict=True)}) > 1


def test_a_try_that_hangs_holds_up_no_request(site):
    with rig_at(site) as rig:
        site.open_gate.clear()
        tries = site.tries
        eventually(lambda: site.tries > tries)
        began = time.monotonic()
        for number in range(20):
            rig.serve([number * 100 + place for place in range(CHUNK_TOKENS)])
        assert time.monotonic() - began < 2
        site.fault = None
        site.open_gate.set()
        joined(rig)


def test_closing_does_not_wait_for_a_try_that_hangs_and_what_it_opens_is_closed(site, monkeypatch):
    monkeypatch.setattr(opening, "CLOSE_SECONDS", 0.05)
    with rig_at(site) as rig:
        site.open_gate.clear()
        tries = site.tries
        eventually(lambda: site.tries > tries)
        site.fault = None
        began = time.monotonic()
        rig.engine.close()
        assert time.monotonic() - began < 3
    assert engine_threads() == [f"lmcache-{NAME}-open"]
    site.open_gate.set()
    eventually(lambda: not engine_threads())
    assert site.backends[-1].usable
    assert site.backends[-1].closed


def test_one_of_its_own_is_gone_through_before_anything_is_written(site):
    tokens = list(range(CHUNK_TOKENS))
    site.fault = None
    with rig_at(site, Capability.SCAN) as rig:
        rig.serve(LONG)
        settle(rig)
    site.fault = BackendError("away")
    with rig_at(site, Capability.SCAN, storage_chunks=3) as rig:
        assert rig.engine.tiers.recovered
        site.fault = None
        joined(rig)
        rig.serve([7000 + token for token in tokens])
        settle(rig)
        status = below(rig)
        assert status.entries == 3
        assert rig.engine.counters()[f"{NAME}.recovered_frames"] == 4
        assert len(site.store.frames) == 3


def test_one_that_keeps_pins_stays_out_until_the_next_start(site, caplog):
    with rig_at(site, OWN) as rig:
        site.fault = None
        assert engine_threads() == []
        assert "the engine is started again" in caplog.text
        assert not below(rig).healthy
        report = rig.engine.tiers.pins.pin(ask(LONG, location=NAME, on_missing=OnMissing.RESERVE))
        assert report.reason == f"{NAME} is not in use, because its store could not be opened"
    assert site.tries == 1


def test_pins_in_it_say_that_it_is_away_and_say_so_no_more_when_it_is_there(site):
    with rig_at(site) as rig:
        pins = rig.engine.tiers.pins
        rig.serve(LONG)
        with pytest.raises(NotCachedError, match=f"{NAME} is not in use.*GET /v1/instances"):
            pins.pin(ask(LONG, location=NAME, on_missing=OnMissing.FAIL))
        for on_missing in (OnMissing.RESERVE, OnMissing.PARTIAL):
            report = pins.pin(
                ask(LONG, pin_id=on_missing.value, location=NAME, on_missing=on_missing)
            )
            assert (report.tokens_pinned, report.first_missing) == (0, 0)
            assert report.reason == f"{NAME} is not in use, because its store could not be opened"
        pins.pin(ask(LONG[:CHUNK_TOKENS], pin_id="elsewhere", on_missing=OnMissing.RESERVE))
        assert pins.take_changed() == []
        site.fault = None
        joined(rig)

        def told():
            with rig.engine.tiers.lock:
                return {report.pin_id: report.reason for report in pins.take_changed()}

        assert eventually(told) == {
            "reserve": "none of its tokens are cached yet",
            "partial": "the rest of its tokens is not cached",
        }
        pins.unpin("elsewhere", 1)
        flood(rig)
        rig.serve(LONG)
        settle(rig)
        assert told() == {
            "reserve": f"best effort: {len(LONG)} tokens are there and the store may drop them"
        }
