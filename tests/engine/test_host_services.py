"""What a tier does for its backend, used by a backend under a real engine."""

from __future__ import annotations

import logging
import threading
import time

import pytest

from lmcache_core.api import BackendContext, Capability, Deadline
from lmcache_core.api.pins import PinState
from lmcache_core.engine.frames import workers
from lmcache_core.engine.storage import host as tier_host
from lmcache_core.errors import BackendError, DeadlineExceededError
from lmcache_core.keys import Scope
from lmcache_core.testing import DictBackend, DictConfig
from tests.engine.rig import CHUNK_TOKENS, FRAME_BYTES, Rig, storage_spec
from tests.engine.test_pins import ask
from tests.engine.test_storage_tier import CHUNK, LONG, below, flood, settle

SELF_EVICTING = Capability.SELF_EVICTING


class Helped(DictBackend):
    """Uses whatever it is handed."""

    def __init__(self, context):
        super().__init__(DictConfig(), context)
        self.context = context
        self.threads = set()

    def open(self):
        self.context.logger.warning("shelf.opened", boards=3)
        self.context.metrics.gauge("boards", 3)

    def put(self, keys, frames, deadline):
        began = self.context.clock()
        statuses = super().put(keys, frames, deadline)
        self.context.metrics.count("puts", len(keys))
        self.context.metrics.observe("put", self.context.clock() - began)
        return statuses

    def get(self, keys, buffers, deadline):
        parts = [
            self.context.executor.submit(self.get_one, key, buffer, deadline)
            for key, buffer in zip(keys, buffers, strict=True)
        ]
        return [part.result(deadline.remaining_seconds) for part in parts]

    def get_one(self, key, buffer, deadline):
        self.threads.add(threading.current_thread().name)
        return super().get([key], [buffer], deadline)[0]


class Shelf:
    """A rig over one such backend."""

    def __init__(self, kind=Helped, capabilities=Capability.NONE, **fields):
        self.backends = []

        def make(_config, context):
            self.backends.append(kind(context))
            return self.backends[-1]

        spec = storage_spec("shelf", make, capabilities)
        self.rig = Rig(chunks=8, storage=[spec], **fields)

    @property
    def backend(self):
        return self.backends[0]

    @property
    def residents(self):
        return self.rig.engine.tiers.storage[0].residents


@pytest.fixture
def shelf():
    shelf = Shelf(capabilities=SELF_EVICTING)
    with shelf.rig:
        yield shelf


def keys_of(rig, tokens):
    return rig.engine.tiers.chain_of(ask(tokens).tokens, Scope()).keys


def test_a_backend_is_told_where_it_is(shelf):
    context = shelf.backend.context
    assert (context.tier, context.instance_id) == ("shelf", shelf.rig.config.instance_id)
    assert abs(context.clock() - time.monotonic()) < 10


def test_a_line_of_a_backend_says_of_which_tier_and_instance(caplog):
    with caplog.at_level(logging.WARNING, logger="lmcache"), Shelf().rig:
        pass
    (line,) = [r.getMessage() for r in caplog.records if "shelf.opened" in r.getMessage()]
    assert "tier='shelf'" in line
    assert "boards=3" in line
    assert "instance=" in line


def test_numbers_of_a_backend_are_beside_those_of_its_tier(shelf):
    shelf.rig.serve(LONG)
    settle(shelf.rig)
    totals = shelf.rig.engine.counters()
    assert totals["shelf.put_frames"] == totals["shelf.backend_puts"] == 4
    assert totals["shelf.backend_put_count"] == 4
    assert totals["shelf.backend_put_microseconds"] >= 0
    assert totals["shelf.backend_boards_now"] == 3
    shelf.backend.context.metrics.gauge("boards", 1)
    assert shelf.rig.engine.counters()["shelf.backend_boards_now"] == 1


def test_what_is_no_number_or_no_name_is_refused(shelf):
    metrics = shelf.backend.context.metrics
    for wrong in (
        lambda: metrics.count("puts", -1),
        lambda: metrics.count("Puts"),
        lambda: metrics.gauge("of 127.0.0.1", 1),
        lambda: metrics.observe("put", -0.1),
    ):
        with pytest.raises(ValueError, match=r"puts|Puts|of 127|put"):
            wrong()


def test_a_backend_has_so_many_names_and_no_more(shelf, caplog):
    for number in range(1000):
        shelf.backend.context.metrics.count(f"of_{number}")
    names = [name for name in shelf.rig.engine.counters() if name.startswith("shelf.backend_")]
    assert len(names) == tier_host.MOST_METRICS
    assert sum("tier.metrics_full" in record.getMessage() for record in caplog.records) == 1


def test_a_backend_reads_on_threads_of_its_tier(shelf):
    shelf.rig.serve(LONG)
    settle(shelf.rig)
    flood(shelf.rig)
    assert shelf.rig.serve(LONG) == len(LONG) - 1
    assert shelf.backend.threads == {"lmcache-shelf-backend"}
    shelf.rig.engine.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("lmcache-shelf")]
    with pytest.raises(BackendError, match="has closed"):
        shelf.backend.context.executor.submit(list)


def test_the_executor_is_bounded_and_hands_errors_on(shelf, monkeypatch):
    monkeypatch.setattr(workers, "QUEUE_LENGTH", 5)
    executor = shelf.backend.context.executor
    started, gate = threading.Semaphore(0), threading.Event()

    def block():
        started.release()
        assert gate.wait(10)

    running = [executor.submit(block) for _ in range(tier_host.THREADS)]
    for _ in running:
        assert started.acquire(timeout=10)
    waiting = [executor.submit(divmod, 1, 0) for _ in range(5)]
    with pytest.raises(BackendError, match="too much waits"):
        executor.submit(list)
    assert waiting[0].cancel()
    gate.set()
    for future in running:
        future.result(10)
    with pytest.raises(ZeroDivisionError):
        waiting[1].result(10)


# news of keys


def test_what_a_backend_says_has_gone_is_found_no_more(shelf):
    rig = shelf.rig
    rig.serve(LONG)
    settle(rig)
    flood(rig)
    rig.engine.take_changes()
    rig.engine.tiers.changes.followed = True
    gone = keys_of(rig, LONG)[2]
    shelf.backend.remove([gone], Deadline(1))
    shelf.backend.context.events.gone([gone, b"\0" * 32])
    assert gone not in shelf.residents
    assert rig.hit(LONG) == 2 * CHUNK_TOKENS
    assert rig.engine.counters()["shelf.gone_frames"] == 1
    assert rig.engine.counters()["shelf.missing_frames"] == 0, "nothing was read to find out"
    changes = [(c.location, c.stored, c.key) for c in rig.engine.take_changes()]
    assert ("shelf", False, gone) in changes


def test_a_pin_on_what_has_gone_says_so():
    shelf = Shelf()
    with shelf.rig as rig:
        rig.serve(CHUNK)
        settle(rig)
        pins = rig.engine.tiers.pins
        assert pins.pin(ask(CHUNK, location="shelf")).tokens_pinned == CHUNK_TOKENS
        shelf.backend.context.events.gone(keys_of(rig, CHUNK))
        report = pins.report("p")
        assert (report.state, report.tokens_pinned) == (PinState.DEGRADED, 0)


def test_what_a_backend_says_has_come_is_found(shelf):
    with Shelf().rig as writer:
        writer.serve(LONG)
        settle(writer)
        frames = dict(writer.engine.tiers.storage[0]._calls._backend._store.frames)
    rig = shelf.rig
    shelf.backend._store.frames.update(frames)
    assert rig.hit(LONG) == 0
    events = shelf.backend.context.events
    events.came([(key, len(frame)) for key, frame in frames.items()])
    events.came([(b"short", 100), (b"\1" * 32, 0)])
    assert (below(rig).entries, below(rig).used_bytes) == (4, 4 * FRAME_BYTES)
    assert rig.serve(LONG) == len(LONG) - 1
    assert rig.engine.counters()["shelf.came_frames"] == 4


def test_what_has_come_is_verified_like_anything_else(shelf):
    keys = keys_of(shelf.rig, LONG)
    frames = {key: bytes(FRAME_BYTES) for key in keys}
    shelf.backend._store.frames.update(frames)
    shelf.backend.context.events.came([(key, FRAME_BYTES) for key in keys])
    assert shelf.rig.hit(LONG) == 0
    assert shelf.rig.engine.counters()["shelf.damaged_frames"] > 0


def test_news_after_the_end_changes_nothing(shelf):
    shelf.rig.engine.close()
    shelf.backend.context.events.came([(b"\1" * 32, FRAME_BYTES)])
    shelf.backend.context.events.gone([b"\1" * 32])
    assert len(shelf.residents) == 0


# the end of a call


class Patient(Helped):
    """Waits in ``put`` until nobody waits for it."""

    closed = False

    def put(self, keys, frames, deadline):
        self.entered.set()
        while not deadline.expired:
            time.sleep(0.01)
        self.ended.append((deadline.cancelled, deadline.remaining_seconds))
        deadline.check("put")

    def close(self):
        self.closed = True

    def __init__(self, context):
        super().__init__(context)
        self.entered = threading.Event()
        self.ended = []


def test_a_call_under_way_when_the_tier_closes_is_cancelled(monkeypatch):
    monkeypatch.setattr(workers, "CLOSE_SECONDS", 0.3)
    shelf = Shelf(Patient, overrides={"storage_timeout_seconds": 600.0})
    with shelf.rig as rig:
        rig.serve(CHUNK)
        assert shelf.backend.entered.wait(10)
        began = time.monotonic()
    assert time.monotonic() - began < 10
    assert shelf.backend.ended == [(True, 0.0)]
    assert shelf.backend.closed, "a call that ends in time lets its backend be closed"


def test_a_cancelled_deadline_has_no_time_left():
    cancel = threading.Event()
    deadline = Deadline(600, cancel)
    assert not deadline.expired
    assert not deadline.cancelled
    cancel.set()
    assert deadline.cancelled
    assert deadline.expired
    with pytest.raises(DeadlineExceededError):
        deadline.check("it")
    assert not Deadline(600).cancelled


# without a tier


def test_without_a_tier_there_are_stand_ins():
    context = BackendContext(instance_id="i", tier="t")
    context.metrics.count("puts")
    context.metrics.gauge("boards", 1)
    context.metrics.observe("put", 0.1)
    context.events.came([(b"\1" * 32, 1)])
    context.events.gone([b"\1" * 32])
    context.logger.debug("shelf.opened")
    assert context.executor.submit(divmod, 7, 2).result() == (3, 1)
    with pytest.raises(ZeroDivisionError):
        context.executor.submit(divmod, 7, 0).result()
