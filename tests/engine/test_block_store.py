"""Blocks of a host that has its own index, over any backend, and what fails of it."""

from __future__ import annotations

import threading
from contextlib import contextmanager

import pytest

from lmcache_core.api import Capability
from lmcache_core.config import EngineConfig, SerdeConfig, TierConfig
from lmcache_core.engine import make_block_store
from lmcache_core.engine.blocks import store as block_store
from lmcache_core.errors import ConfigError
from lmcache_core.keys import Namespace
from lmcache_core.plugins import PluginRegistry
from lmcache_core.testing import DictStore
from tests.engine.rig import storage_spec
from tests.engine.serdes import SIGNED, ZLIB
from tests.engine.test_kept_frames import KEPT, Kept
from tests.engine.test_storage_tier import Watched

BLOCK_BYTES = 6000
FRAME_BYTES = 4096 + BLOCK_BYTES
NAMESPACE = Namespace(model="host", weights="00", chunk_size=1)


def key(number):
    return number.to_bytes(32)


def block(number):
    return memoryview(bytearray([number % 251 + 1]) * BLOCK_BYTES)


def room(count):
    return [memoryview(bytearray(BLOCK_BYTES)) for _ in range(count)]


@contextmanager
def opened(
    backend,
    *,
    capabilities=Capability.NONE,
    blocks=0,
    serdes=(),
    seconds=10.0,
    staging_blocks=8,
    namespace=NAMESPACE,
    events=None,
):
    registry = PluginRegistry.discover()
    spec = storage_spec("dict", lambda _config, _context: backend, capabilities)
    for offered in (spec, ZLIB, SIGNED):
        registry.offer(offered)
    chain = tuple(SerdeConfig(name) for name in serdes)
    store = make_block_store(
        config=EngineConfig(
            storage_timeout_seconds=seconds, staging_bytes=staging_blocks * 12 * 1024
        ),
        tier=TierConfig("dict", blocks * FRAME_BYTES or None, serdes=chain),
        namespace=namespace,
        block_bytes=BLOCK_BYTES,
        registry=registry,
    )
    noted = [] if events is None else events
    try:
        store.open(
            on_admitted=lambda key: noted.append(("+", key)),
            on_evicted=lambda key: noted.append(("-", key)),
        )
        yield store
    finally:
        store.close()


def put(store, *numbers):
    return store.put([key(n) for n in numbers], [block(n) for n in numbers])


def get(store, *numbers):
    """Which of some blocks came back; those that did are compared."""
    found = room(len(numbers))
    whole = store.get([key(n) for n in numbers], found)
    for number, ok, have in zip(numbers, whole, found, strict=True):
        assert have == (block(number) if ok else bytes(BLOCK_BYTES))
    return whole


@pytest.mark.parametrize("serdes", [(), ("zlib", "signed")])
def test_blocks_come_back_also_more_than_there_is_memory_for(serdes):
    with opened(Watched(), serdes=serdes, staging_blocks=4) as store:
        assert put(store, *range(40)) == [True] * 40
        assert get(store, *range(40)) == [True] * 40
        assert get(store, 3, 99, 5) == [True, False, True]


def test_a_block_that_is_there_is_not_written_again():
    backend = Watched()
    with opened(backend) as store:
        assert put(store, 1, 1, 2) == [True] * 3
        assert put(store, 1, 2, 3) == [True] * 3
        assert backend.puts == 3


def test_the_tiers_bound_holds_and_the_least_used_goes():
    events = []
    with opened(Watched(), blocks=3, events=events) as store:
        put(store, 1, 2, 3)
        store.touch([key(1)])
        put(store, 4)
        assert get(store, 1, 2, 3, 4) == [True, False, True, True]
        assert store.tier.residents.used_bytes == 3 * FRAME_BYTES
        assert events == [*(("+", key(n)) for n in (1, 2, 3)), ("-", key(2)), ("+", key(4))]


def test_what_a_store_has_kept_is_there_after_a_restart():
    kept = DictStore()
    with opened(Kept(kept), capabilities=KEPT) as store:
        put(store, 1, 2)
    with opened(Kept(kept), capabilities=KEPT) as store:
        assert get(store, 1, 2) == [True, True]


def test_blocks_of_another_namespace_are_never_had():
    kept = DictStore()
    with opened(Kept(kept), capabilities=KEPT) as store:
        put(store, 1)
    other = Namespace(model="host", weights="01", chunk_size=1)
    with opened(Kept(kept), capabilities=KEPT, namespace=other) as store:
        assert get(store, 1) == [False]


def test_a_shared_store_is_asked_and_another_instance_reads_what_one_has_stored():
    kept = DictStore()
    shared = Capability.SHARED
    with (
        opened(Kept(kept), capabilities=shared) as one,
        opened(Kept(kept), capabilities=shared) as other,
    ):
        put(one, 1, 2)
        answered = threading.Event()
        with other.changed:
            assert other.tier.ask([key(1), key(3)], answered.set)
        assert answered.wait(10)
        assert key(1) in other.tier.residents
        assert key(3) not in other.tier.residents
        assert get(other, 1) == [True]


@pytest.mark.parametrize("spoil", [0, 40, 4095, 4096, FRAME_BYTES - 1])
def test_a_block_that_was_changed_is_not_handed_over(spoil):
    backend = Watched()
    with opened(backend) as store:
        put(store, 1, 2)

        def flip(keys, buffers):
            buffers[0][spoil] ^= 1

        backend.after_get = flip
        assert get(store, 1) == [False]
        assert store.tier.counters["damaged_frames"] == 1
        assert key(1) not in store.tier.residents
        backend.after_get = lambda keys, buffers: None
        assert get(store, 2) == [True]


def test_two_blocks_that_changed_places_are_not_handed_over():
    kept = DictStore()
    with opened(Kept(kept), capabilities=KEPT) as store:
        put(store, 1, 2)
        first, second = kept.frames[key(1)], kept.frames[key(2)]
        kept.frames[key(1)], kept.frames[key(2)] = second, first
        assert get(store, 1, 2) == [False, False]


def test_a_store_that_is_down_is_asked_once_and_comes_back():
    backend = Watched()
    with opened(backend, staging_blocks=4) as store:
        put(store, *range(10))
        backend.fail = True
        gets = backend.gets
        assert get(store, *range(10)) == [False] * 10
        asked = backend.gets - gets
        assert asked <= 2, "the parts under way, and none after"
        assert get(store, 1) == [False]
        assert backend.gets - gets == asked, "the breaker is open"
        assert put(store, 20) == [False]
        backend.fail = False
        with store.changed:
            store.tier.breaker.succeeded()
        assert put(store, 20) == [True]
        assert get(store, 20) == [True]


def test_a_call_that_is_late_touches_nothing_of_the_hosts(monkeypatch):
    monkeypatch.setattr(block_store, "MARGIN_SECONDS", 0.05)
    backend = Watched()
    with opened(backend, seconds=0.05) as store:
        put(store, 1, 2)
        backend.gate.clear()
        found = room(2)
        assert store.get([key(1), key(2)], found) == [False, False]
        backend.gate.set()
        # The same memory is used again only after the call has returned.
        with store.changed:
            assert store.changed.wait_for(lambda: len(store._free) == 8, 10)
            store.tier.breaker.succeeded()
        assert [bytes(one) for one in found] == [bytes(BLOCK_BYTES)] * 2
        assert put(store, 3) == [True]
        assert get(store, 3) == [True]


def test_closing_wakes_who_waits():
    backend = Watched()
    with opened(backend) as store:
        put(store, 1)
        backend.gate.clear()
        answers = []
        reader = threading.Thread(target=lambda: answers.append(get(store, 1)))
        backend.entered.clear()
        reader.start()
        assert backend.entered.wait(10)
        backend.entered.clear()
        closer = threading.Thread(target=store.close)
        closer.start()
        reader.join(10)
        assert answers == [[False]]
        backend.gate.set()
        closer.join(20)
        assert not closer.is_alive()


def test_many_threads_put_and_get():
    with opened(Watched(), blocks=30, staging_blocks=6) as store:
        failures = []

        def work(seed):
            for turn in range(20):
                numbers = [(seed * 7 + turn * 3 + n) % 60 for n in range(5)]
                put(store, *numbers)
                try:
                    get(store, *numbers)
                except AssertionError as error:
                    failures.append(error)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not failures
        assert len(store._free) == 6
        assert store.tier.residents.used_bytes <= 30 * FRAME_BYTES


def test_a_namespace_of_longer_chunks_is_refused():
    with (
        pytest.raises(ConfigError, match="chunk size is 256"),
        opened(Watched(), namespace=Namespace(model="host", weights="00")),
    ):
        pass
