"""A real folder as the second and as the third tier, written back to and restarted."""

from __future__ import annotations

import pytest

from lmcache_core.config import TierConfig, TierRules
from tests.engine.hierarchy.stores import counters, fill, prompt, settle
from tests.engine.rig import CHUNK_TOKENS, FRAME_BYTES, SLOT_BYTES, Rig
from tests.engine.serdes import SIGNED, ZLIB, chain
from tests.engine.test_state_machine import dict_spec

DISK = "LocalDiskBackend"
BACK = TierRules(write="back", promote=False)


def engine(path, order, *serdes, disk_chunks=0, dict_chunks=0):
    """Host memory of four chunks, and two tiers in an order."""
    spec = dict_spec("dict")
    tiers = {
        DISK: TierConfig(
            DISK,
            disk_chunks * FRAME_BYTES or None,
            {"path": str(path)},
            rules=BACK,
            **chain(*serdes),
        ),
        "dict": TierConfig("dict", dict_chunks * FRAME_BYTES or None, rules=BACK),
    }
    memory = TierConfig("LocalCPUBackend", 4 * SLOT_BYTES)
    overrides = {"tiers": (memory, *(tiers[name] for name in order)), "instance_id": "rig"}
    return Rig(storage=[spec], offers=[ZLIB, SIGNED], staging_chunks=8, overrides=overrides)


@pytest.mark.parametrize("serdes", [(), ("zlib", "signed")])
@pytest.mark.parametrize("order", [(DISK, "dict"), ("dict", DISK)], ids=["second", "third"])
def test_what_memory_evicts_is_on_the_disk_after_a_restart(tmp_path, order, serdes):
    with engine(tmp_path, order, *serdes, dict_chunks=3) as rig:
        fill(rig, 12)
        on_disk = len(list(rig.engine.tiers.keys(DISK)))
        assert on_disk == (8 if order[0] == DISK else 5)
        assert counters(rig, DISK)["demoted_frames"] == on_disk
    with engine(tmp_path, order, *serdes, dict_chunks=3) as rig:
        assert len(list(rig.engine.tiers.keys(DISK))) == on_disk
        found = [rig.serve(prompt(number)) for number in range(1, 13)]
        assert found == [CHUNK_TOKENS - 1] * on_disk + [0] * (12 - on_disk)


@pytest.mark.parametrize("serdes", [(), ("zlib",)])
def test_a_full_disk_hands_its_oldest_down(tmp_path, serdes):
    with engine(tmp_path, (DISK, "dict"), *serdes, disk_chunks=5) as rig:
        fill(rig, 14)
        tiers = rig.engine.tiers
        for number in range(1, 15):
            assert rig.serve(prompt(number)) == CHUNK_TOKENS - 1
            settle(rig)
        assert tiers.storage_tier(DISK).residents.used_bytes <= 5 * FRAME_BYTES
        assert counters(rig, "dict")["demotions_dropped"] == 0
        files = list((tmp_path / "rig" / "frames").glob("*/*"))
        sizes = sum(file.stat().st_size for file in files)
        assert sizes == tiers.storage_tier(DISK).residents.used_bytes
