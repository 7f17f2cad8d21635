"""Every kind of store in every position: the same promises, and no false byte from a faulty one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from lmcache_core.config import TierConfig, plugin_section
from lmcache_core.errors import BackendError
from lmcache_core.plugins import PluginRegistry
from lmcache_core.testing import DictBackend, DictConfig, DictStore, FaultyBackend, faults
from tests.engine.kept_pins.keeping import report
from tests.engine.rig import FRAME_BYTES, SLOT_BYTES, Rig, storage_spec
from tests.engine.test_pins import ask
from tests.engine.test_storage_tier import LONG, flood, settle, settle_reads
from tests.net.redis_servers import RedisServer, need_redis

REGISTRY = PluginRegistry.discover()
DISK = REGISTRY.backend("LocalDiskBackend")
ORDERS = [("dict", "disk"), ("disk", "dict"), ("disk", "disk2"), ("dict", "dict2")]
SHARED = [("server", "disk"), ("disk", "server"), ("folder", "disk"), ("disk", "folder")]

CHUNKS = 16

FAULTS = {
    "does not answer": faults.Raises,
    "has a bug": lambda: faults.Raises(ZeroDivisionError("a stranger's")),
    "ends the thread": lambda: faults.Raises(SystemExit(3)),
    "answers short": faults.Short,
    "answers in another order": faults.Misaligned,
    "truncates": faults.Truncates,
    "flips a bit of the magic": lambda: faults.Flips(0),
    "flips a bit of the key": lambda: faults.Flips(45),
    "flips a bit of the payload": lambda: faults.Flips(-1),
}


class Stores:
    """Two stores that outlive their engines, and faults to plant between.

    Args:
        folder: Where the disks are.
        order: Their names, from the upper one; what they begin with says of which kind.
    """

    def __init__(self, folder, order):
        self.folder = folder
        self.order = order
        self.frames = {name: DictStore() for name in order}
        self.planted: dict[str, FaultyBackend] = {}
        self.server = None

    def spec(self, name):
        kind, options = self.kind(name)

        def make(_config, context):
            if kind is DictBackend:
                good = DictBackend(DictConfig(), context, self.frames[name])
            else:
                good = kind.load()(plugin_section(kind.config, options, name), context)
            self.planted[name] = FaultyBackend(good)
            return self.planted[name]

        return storage_spec(name, make, kind.capabilities)

    def kind(self, name):
        """What is under a tier, and how that is configured."""
        if name.startswith("disk"):
            return DISK, {"path": str(self.folder / name)}
        if name == "folder":
            (self.folder / name).mkdir(exist_ok=True)
            return REGISTRY.backend("object-store"), {"url": f"file://{self.folder / name}"}
        if name == "server":
            return REGISTRY.backend("redis"), {"url": self.server.url}
        return DictBackend, {}

    @contextmanager
    def engine(self, **chunks) -> Iterator[Rig]:
        """An engine over both; ``chunks`` bounds a tier by its name."""
        # So much that a whole prompt may be on its way down to both at a time.
        memory = TierConfig("LocalCPUBackend", CHUNKS * SLOT_BYTES)
        below = [TierConfig(name, chunks.get(name, 0) * FRAME_BYTES or None) for name in self.order]
        specs = [self.spec(name) for name in self.order]
        overrides = {"tiers": (memory, *below), "storage_timeout_seconds": 5.0}
        with Rig(CHUNKS, 4, specs, overrides=overrides) as rig:
            yield rig


@pytest.fixture(params=ORDERS, ids="-over-".join)
def stores(request, tmp_path):
    return Stores(tmp_path, request.param)


def away(rig):
    """Let nothing of what was served before be in host memory."""
    for part in range(4):
        flood(rig, CHUNKS // 3, base=7_000_000 + 10_000 * part)
        settle(rig)
    settle(rig)
    settle_reads(rig)


@pytest.mark.parametrize("position", [0, 1], ids=["second", "third"])
def test_what_is_stored_is_pinned_promoted_and_there_after_a_restart(stores, position):
    name = stores.order[position]
    with stores.engine(**{name: 12}) as rig:
        assert rig.serve(LONG) == 0
        settle(rig)
        with rig.engine.tiers.lock:
            rig.engine.tiers.pins.pin(ask(LONG, location=name))
        assert report(rig).tokens_pinned == len(LONG)
        away(rig)  # twice what the tier may keep
        assert report(rig).tokens_pinned == len(LONG)
        tier = rig.engine.tiers.storage_tier(name)
        assert tier.residents.used_bytes <= 12 * FRAME_BYTES
        assert rig.serve(LONG) == len(LONG) - 1, "promoted, every byte compared"
    # Only this store is left with the prompt.
    other = stores.order[1 - position]
    with stores.engine() as rig:
        tiers = rig.engine.tiers
        tiers.drop(other, tiers.keys(other), force=True)
        settle(rig)
        request = rig.begin(LONG)
        assert rig.wait_match(request, len(LONG)) == len(LONG)
        assert rig.engine.match(request, len(LONG)).by_location == {name: len(LONG)}
        rig.engine.finish(request)
        assert rig.serve(LONG) == len(LONG) - 1


@pytest.mark.parametrize("stores", ORDERS[:2], ids="-over-".join, indirect=True)
@pytest.mark.parametrize("position", [0, 1], ids=["second", "third"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_store_serves_nothing_false_and_takes_nothing_from_the_other(
    stores, position, fault
):
    name, other = stores.order[position], stores.order[1 - position]
    with stores.engine() as rig:
        rig.serve(LONG)
        settle(rig)
        away(rig)
        tiers = rig.engine.tiers
        tiers.drop(other, tiers.keys(other), force=True)
        settle(rig)
        stores.planted[name].fault = FAULTS[fault]()
        # Whatever it finds, Rig.serve compares every byte.
        assert rig.serve(LONG) < len(LONG) - 1, "the fault was not planted"
        settle(rig)
        settle_reads(rig)
        away(rig)
        rig.serve(LONG)
        settle(rig)
        settle_reads(rig)
        stores.planted[name].fault = None
        away(rig)
        assert rig.serve(LONG) == len(LONG) - 1, "the other tier has had it all the while"
        totals = rig.engine.counters()
        seen = ("read_failures", "damaged_frames", "missing_frames", "put_failures")
        assert sum(totals[f"{name}.{what}"] for what in seen)
        assert not sum(totals[f"{other}.{what}"] for what in seen)
        assert not rig.engine.counters()["stranded_bytes"]


def test_a_store_that_hangs_costs_one_wait_and_not_the_other_tier(stores):
    name, other = stores.order
    with stores.engine() as rig:
        rig.serve(LONG)
        settle(rig)
        away(rig)
        hangs = faults.Hangs()
        stores.planted[name].fault = hangs
        release = threading.Timer(0.3, hangs.released.set)
        release.start()
        assert rig.serve(LONG) in range(len(LONG))
        release.join()
        assert hangs.entered.is_set()
        settle(rig)
        settle_reads(rig)
        stores.planted[name].fault = None
        away(rig)
        assert rig.serve(LONG) == len(LONG) - 1
        assert not rig.engine.counters()[f"{other}.read_failures"]


def test_a_fault_has_a_message():
    with pytest.raises(BackendError, match="planted"):
        FAULTS["does not answer"]().answer(None)


@pytest.fixture(scope="module")
def redis(tmp_path_factory):
    need_redis()
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(params=SHARED, ids="-over-".join)
def shared(request, tmp_path):
    stores = Stores(tmp_path, request.param)
    if "server" in request.param:
        stores.server = request.getfixturevalue("redis")
        stores.server.client().flushall()
    return stores


def test_a_shared_store_gives_back_what_it_was_given_wherever_it_is(shared):
    with shared.engine() as rig:
        rig.serve(LONG)
        settle(rig)
        away(rig)
        forget_disk(rig)
        assert rig.serve(LONG) == len(LONG) - 1, "promoted, every byte compared"
    with shared.engine() as rig:
        forget_disk(rig)
        assert rig.serve(LONG) == len(LONG) - 1


@pytest.mark.parametrize("fault", ["does not answer", "truncates", "flips a bit of the payload"])
def test_a_faulty_shared_store_serves_nothing_false_wherever_it_is(shared, fault):
    (name,) = set(shared.order) - {"disk"}
    with shared.engine() as rig:
        rig.serve(LONG)
        settle(rig)
        away(rig)
        forget_disk(rig)
        shared.planted[name].fault = FAULTS[fault]()
        assert rig.serve(LONG) < len(LONG) - 1, "the fault was not planted"
        settle(rig)
        settle_reads(rig)


def forget_disk(rig):
    """Let only the other of the two stores have what was served."""
    tiers = rig.engine.tiers
    tiers.drop("disk", tiers.keys("disk"), force=True)
    settle(rig)
