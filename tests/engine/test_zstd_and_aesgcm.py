"""The serdes of this repository over a real folder, and what lies in it."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from lmcache_core.config import SerdeConfig, TierConfig
from lmcache_core.errors import ConfigError
from tests.engine.rig import BLOCK_BYTES, CHUNK_TOKENS, SLOT_BYTES, Rig, kv
from tests.engine.test_storage_tier import LONG, below, flood, settle, settle_reads

NAME = "LocalDiskBackend"
PAGE_BYTES = 4096
ZSTD = SerdeConfig("zstd", {})


@pytest.fixture
def make_key(tmp_path):
    """Write a key of a name into a file; another one each time."""

    def make(name):
        path = tmp_path / f"{name}.key"
        path.touch(0o600)
        path.write_text(secrets.token_hex(32))
        return path

    return make


def aesgcm(*paths):
    """A serde with these keys, called after their files; the last one encrypts."""
    keys = {path.stem: f"file:{path}" for path in paths}
    return SerdeConfig("aesgcm", {"keys": keys, "encrypt_with": paths[-1].stem})


@pytest.fixture
def engine(tmp_path):
    def engine(*serdes):
        tiers = (
            TierConfig("LocalCPUBackend", 8 * 4 * SLOT_BYTES),
            TierConfig(NAME, None, {"path": str(tmp_path / "kv")}, serdes=serdes),
        )
        return Rig(overrides={"tiers": tiers}, block_bytes=PAGE_BYTES)

    return engine


@pytest.fixture
def files(tmp_path):
    def files() -> list[Path]:
        return list((tmp_path / "kv").glob("*/frames/*/*"))

    return files


def shown(files):
    """How many pages of the prompt can be read in the files."""
    plain = kv(LONG)
    pages = [plain[at : at + BLOCK_BYTES] for at in range(0, len(plain), BLOCK_BYTES)]
    content = b"".join(path.read_bytes() for path in files)
    return sum(page in content for page in pages)


def counter(rig, name):
    return rig.engine.tiers.storage[0].counters[name]


def store(rig):
    rig.serve(LONG)
    settle(rig)


def test_a_clear_frame_shows_its_pages(engine, files):
    """So that it means something where one does not."""
    with engine() as rig:
        store(rig)
    assert shown(files()) == len(LONG) * len(kv([0])) // BLOCK_BYTES


@pytest.mark.parametrize("with_zstd", [True, False], ids=["zstd+aesgcm", "aesgcm"])
def test_hits_are_equal_after_a_restart_and_no_page_can_be_read(engine, files, make_key, with_zstd):
    chain = ((ZSTD,) if with_zstd else ()) + (aesgcm(make_key("k1")),)
    with engine(*chain) as rig:
        store(rig)
        flood(rig, chunks=40)
        settle(rig)
        assert rig.serve(LONG) == len(LONG) - 1, "compared token by token"
    assert files()
    assert shown(files()) == 0
    sizes = {path.stat().st_size for path in files()}
    raw_bytes = 4096 + CHUNK_TOKENS // 4 * PAGE_BYTES
    assert all((size < raw_bytes / 2) is with_zstd for size in sizes)
    with engine(*chain) as rig:
        assert rig.serve(LONG) == len(LONG) - 1
        assert counter(rig, "damaged_frames") == counter(rig, "foreign_frames") == 0


def test_a_key_is_changed_without_a_miss_until_the_old_one_goes(engine, files, make_key):
    old, new = make_key("old"), make_key("new")
    with engine(ZSTD, aesgcm(old)) as rig:
        store(rig)
    others = [90_000 + n for n in range(CHUNK_TOKENS)]
    with engine(ZSTD, aesgcm(old, new)) as rig:
        assert rig.serve(LONG) == len(LONG) - 1
        rig.serve(others)
        settle(rig)
    headers = [path.read_bytes()[:4096] for path in files()]
    assert sum(b"aesgcm:old:" in header for header in headers) == 4
    assert sum(b"aesgcm:new:" in header for header in headers) == 1
    with engine(ZSTD, aesgcm(new)) as rig:
        assert rig.serve(others) == len(others) - 1
        assert rig.serve(LONG) == 0, "a miss, and computed"
        settle_reads(rig)
        settle(rig)
        flood(rig, chunks=40)
        settle(rig)
        assert rig.serve(LONG) == len(LONG) - 1, "and stored anew"
    with engine(ZSTD, aesgcm(new)) as rig:
        assert rig.serve(LONG) == len(LONG) - 1


def test_a_wrong_key_of_the_right_name_is_a_miss(engine, make_key):
    with engine(aesgcm(make_key("k1"))) as rig:
        store(rig)
    with engine(aesgcm(make_key("k1"))) as rig:
        assert rig.serve(LONG) == 0
        settle_reads(rig)
        settle(rig)
        assert counter(rig, "damaged_frames") > 0
        assert below(rig).healthy
        flood(rig, chunks=40)
        settle(rig)
        assert rig.serve(LONG) >= CHUNK_TOKENS


def test_a_frame_in_the_clear_is_not_taken_where_it_should_be_encrypted(engine, files, make_key):
    with engine() as rig:
        store(rig)
    with engine(aesgcm(make_key("k1"))) as rig:
        assert rig.serve(LONG) == 0
        settle_reads(rig)
        settle(rig)
        assert counter(rig, "foreign_frames") > 0


def test_two_frames_that_changed_places_are_misses(engine, files, make_key):
    chain = (ZSTD, aesgcm(make_key("k1")))
    with engine(*chain) as rig:
        store(rig)
    one, other = sorted(files())[:2]
    header, others = one.read_bytes()[:4096], other.read_bytes()[:4096]
    payload, others_payload = one.read_bytes()[4096:], other.read_bytes()[4096:]
    one.write_bytes(header + others_payload)
    other.write_bytes(others + payload)
    with engine(*chain) as rig:
        assert rig.serve(LONG) < len(LONG) - 1
        settle_reads(rig)
        assert counter(rig, "damaged_frames") > 0


def test_a_key_that_is_not_there_stops_the_start_with_a_sentence(engine, tmp_path):
    with pytest.raises(ConfigError, match=r"key 'k1' cannot be read from file .*: No such file"):
        engine(aesgcm(tmp_path / "k1.key"))
