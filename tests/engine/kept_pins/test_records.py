"""The records of pins among the frames of a disk: counted, damaged, another's, collected."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from lmcache_core.api.pins import OnMissing, PinState
from lmcache_core.cli.main import main
from tests.engine.kept_pins.keeping import CHUNKS, engine, pin, record_files, report
from tests.engine.rig import CHUNK_TOKENS, FRAME_BYTES
from tests.engine.test_local_disk import NAME, Folder
from tests.engine.test_storage_tier import LONG, below, flood, settle


def test_a_record_is_no_chunk_and_its_bytes_count(pinned):
    with engine(pinned) as rig:
        (file,) = record_files(pinned)
        assert bytes.fromhex(file.name) not in rig.engine.tiers.keys(NAME)
        assert below(rig).entries == 4
        assert below(rig).used_bytes == 4 * FRAME_BYTES
        flood(rig)
        settle(rig)
        sizes = sum(file.stat().st_size for file in pinned.files())
        assert sizes <= CHUNKS * FRAME_BYTES
        assert sizes == below(rig).used_bytes + file.stat().st_size


def test_a_record_in_a_full_tier_makes_room_for_itself(folder):
    with engine(folder) as rig:
        for number in range(CHUNKS):
            rig.serve([5000 + 100 * number + n for n in range(CHUNK_TOKENS)])
            settle(rig)
        assert below(rig).used_bytes == CHUNKS * FRAME_BYTES
        pin(rig, on_missing=OnMissing.RESERVE)
        settle(rig)
        residents = rig.engine.tiers.tier(NAME).residents
        assert 0 < residents.record_bytes <= CHUNKS * FRAME_BYTES - residents.used_bytes


@pytest.mark.parametrize("at", [0, 8, 40, 110, 150, 4096, 4110, -1])
def test_a_damaged_record_is_put_aside_and_costs_that_pin(pinned, at):
    with engine(pinned) as rig:
        pin(rig, LONG[:16], "other")
    files = record_files(pinned)
    file = next(f for f in files if b"other" not in f.read_bytes())
    frame = bytearray(file.read_bytes())
    frame[at] ^= 1
    file.write_bytes(frame)
    with engine(pinned) as rig:
        assert report(rig) is None
        assert report(rig, "other").state is PinState.ACTIVE
        assert len(pinned.quarantined()) == 1


def test_another_instances_record_is_left_alone(pinned, tmp_path):
    other = Folder(tmp_path, "another")
    with engine(other) as rig:
        assert report(rig) is None
    for file in pinned.files():
        target = other.root / file.relative_to(pinned.root)
        target.write_bytes(file.read_bytes())
    with engine(other) as rig:
        assert below(rig).entries == 4
        assert report(rig) is None
    assert len(record_files(other)) == 1


def test_an_engine_of_another_namespace_marks_nothing(pinned):
    with engine(pinned) as rig:
        keeping = rig.engine.tiers.keeping
        keeping._identity = b"another"
        pin(rig, LONG[:16], "other")
    with engine(pinned) as rig:
        assert report(rig, "other") is None
        assert report(rig).state is PinState.ACTIVE
    assert len(record_files(pinned)) == 1


def test_collecting_unused_frames_leaves_records(pinned):
    result = CliRunner().invoke(main, ["disk", "gc", str(pinned.path), "--unused-for", "0"])
    assert result.exit_code == 0, result.output
    assert pinned.files() == record_files(pinned) != []
    with engine(pinned) as rig:
        assert report(rig).state is PinState.PENDING
