"""An engine over a real folder, stopped and started again, with files spoilt in between."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from lmcache_core.config import TierConfig
from lmcache_core.errors import UnknownNameError
from lmcache_core.plugins import registry
from tests.engine.rig import BLOCK_BYTES, CHUNK_TOKENS, FRAME_BYTES, SLOT_BYTES, Rig
from tests.engine.test_storage_tier import LONG, below, flood, settle

NAME = "LocalDiskBackend"


@dataclass
class Folder:
    """What an instance keeps."""

    path: Path
    instance_id: str = "rig"

    @property
    def root(self) -> Path:
        return self.path / self.instance_id

    def engine(self, *, chunks: int = 0, block_bytes: int = BLOCK_BYTES, **overrides) -> Rig:
        tiers = (
            TierConfig("LocalCPUBackend", 8 * SLOT_BYTES),
            TierConfig(NAME, chunks * FRAME_BYTES or None, {"path": str(self.path)}),
        )
        settings = {"tiers": tiers, "instance_id": self.instance_id, **overrides}
        return Rig(overrides=settings, block_bytes=block_bytes)

    def files(self) -> list[Path]:
        """The frames, oldest first."""
        return sorted(self.root.glob("frames/*/*"), key=lambda file: file.stat().st_mtime_ns)

    def quarantined(self) -> list[str]:
        """Why each file there is there."""
        return sorted(file.read_text() for file in self.root.glob("quarantine/*.reason"))


@pytest.fixture
def folder(tmp_path):
    """The files of a prompt of four chunks, whose engine has stopped."""
    folder = Folder(tmp_path)
    with folder.engine() as rig:
        assert rig.serve(LONG) == 0
        settle(rig)
    assert len(folder.files()) == 4
    return folder


def test_without_the_plugin_the_start_ends_with_the_command_that_brings_it(folder, monkeypatch):
    installed = registry.entry_points

    def without(**query):
        return [point for point in installed(**query) if point.name != "local-disk"]

    monkeypatch.setattr(registry, "entry_points", without)
    with pytest.raises(UnknownNameError, match=r"`pip install lmcache-backend-local-disk`"):
        folder.engine()


def exact(rig, folder):
    sizes = [file.stat().st_size for file in folder.files()]
    return (below(rig).used_bytes, below(rig).entries) == (sum(sizes), len(sizes))


def test_a_restarted_engine_hits_what_the_last_one_stored(folder):
    with folder.engine() as rig:
        name = rig.begin(LONG)
        assert rig.wait_match(name, len(LONG)) == len(LONG)
        assert rig.engine.match(name, len(LONG)).by_location == {NAME: len(LONG)}
        rig.engine.finish(name)
        assert rig.serve(LONG) == len(LONG) - 1
        assert exact(rig, folder)


def swap(files):
    first, second = (file.read_bytes() for file in files[:2])
    files[0].write_bytes(second)
    files[1].write_bytes(first)


def flip(at):
    def spoil(files):
        frame = bytearray(files[0].read_bytes())
        frame[at] ^= 0x10
        files[0].write_bytes(frame)

    return spoil


@pytest.mark.parametrize(
    ("spoil", "damaged", "missing"),
    [
        (lambda files: files[0].write_bytes(files[0].read_bytes()[:-1]), 1, 0),
        (lambda files: files[0].write_bytes(b""), 1, 0),
        (lambda files: files[0].write_bytes(files[0].read_bytes() + b"."), 1, 0),
        (lambda files: files[0].write_bytes(b"not a frame at all" * 300), 1, 0),
        (lambda files: files[0].unlink(), 0, 1),
        (swap, 2, 0),
        *((flip(at), 1, 0) for at in (0, 8, 24, 40, 100, 140, 146, 155, 4000, 4100, -1)),
    ],
    ids=[
        "cut",
        "empty",
        "grown",
        "foreign",
        "vanished",
        "swapped",
        *[f"bit {n}" for n in range(11)],
    ],
)
@pytest.mark.parametrize("when", ["before the start", "after the start"])
def test_a_spoilt_file_is_a_shorter_hit_counted_quarantined_and_written_anew(
    folder, spoil, damaged, missing, when
):
    if when == "before the start":
        spoil(folder.files())
        missing = 0  # Nobody knows that there was one.
    with folder.engine() as rig:
        if when == "after the start":
            spoil(folder.files())
        assert rig.serve(LONG) == 0
        settle(rig)
        counters = rig.engine.counters()
        assert counters[f"{NAME}.damaged_frames"] == damaged
        assert counters[f"{NAME}.missing_frames"] == missing
        assert len(folder.quarantined()) == damaged
        assert exact(rig, folder)
        flood(rig)
        settle(rig)
        assert rig.serve(LONG) == len(LONG) - 1
        assert exact(rig, folder)


def test_the_limit_holds_over_restarts_and_the_newest_stays(folder):
    prompts = [[base + i for i in range(CHUNK_TOKENS)] for base in range(1000, 9000, 1000)]
    for prompt in prompts:
        with folder.engine(chunks=5) as rig:
            rig.serve(prompt)
            settle(rig)
            assert exact(rig, folder)
            assert below(rig).used_bytes <= 5 * FRAME_BYTES
    with folder.engine(chunks=5) as rig:
        found = [rig.hit(prompt) == CHUNK_TOKENS for prompt in prompts]
        assert found == [False] * 3 + [True] * 5


def test_a_lower_limit_holds_from_the_start(folder):
    with folder.engine(chunks=2) as rig:
        settle(rig)
        assert (len(folder.files()), exact(rig, folder)) == (2, True)


def test_files_of_another_model_are_never_served_and_make_room(folder):
    with folder.engine(chunks=6, block_bytes=8192) as rig:
        assert below(rig).entries == 4
    own = [[base + i for i in range(CHUNK_TOKENS)] for base in range(1000, 9000, 1000)]
    with folder.engine(chunks=6) as rig:
        for prompt in own:
            rig.serve(prompt)
            settle(rig)
        assert exact(rig, folder)
        assert rig.hit(LONG) == 0


def test_what_a_raised_epoch_serves_is_neither_read_nor_written(folder):
    with folder.engine() as rig:
        rig.engine.reset()
        assert rig.serve(LONG) == 0
        settle(rig)
        assert len(folder.files()) == 4
        assert rig.engine.counters()[f"{NAME}.damaged_frames"] == 0
    with folder.engine() as rig:
        assert rig.serve(LONG) == len(LONG) - 1


def test_a_second_engine_serves_without_the_folder_it_may_not_have(folder):
    with folder.engine() as rig, folder.engine() as other:
        assert not below(other).healthy
        other.serve(LONG)
        assert other.hit(LONG) == len(LONG), "from memory"
        assert rig.serve(LONG) == len(LONG) - 1
        assert exact(rig, folder)


def test_instances_have_folders_of_their_own(folder, tmp_path):
    with folder.engine() as rig, Folder(tmp_path, "rig_dp1").engine() as other:
        assert below(other).healthy
        assert below(other).entries == 0
        assert rig.serve(LONG) == len(LONG) - 1
    assert sorted(place.name for place in tmp_path.iterdir()) == ["rig", "rig_dp1"]


def test_clearing_removes_the_files(folder):
    with folder.engine() as rig:
        tiers = rig.engine.tiers
        assert tiers.drop(NAME, tiers.keys(NAME), force=False) == len(LONG)
        settle(rig)
        assert folder.files() == []
        assert exact(rig, folder)
    with folder.engine() as rig:
        assert rig.serve(LONG) == 0
