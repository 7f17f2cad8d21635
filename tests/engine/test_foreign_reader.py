"""A reader written from the reference pages alone reads what an engine has written to a disk.

``Reader`` imports nothing of the project: it is what another language would do.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from pathlib import Path
from typing import ClassVar, NamedTuple

import msgspec
import pytest
import xxhash

from lmcache_core.config import TierConfig
from lmcache_core.keys import EMPTY_SCOPE
from tests.engine.rig import CHUNK_TOKENS, SLOT_BYTES, Rig, kv
from tests.engine.serdes import ZLIB, chain
from tests.engine.test_storage_tier import LONG, settle

DISK = "LocalDiskBackend"


class Frame(NamedTuple):
    """What a header says, and the raw payload."""

    key: bytes
    parent: bytes
    namespace: bytes
    tokens: int
    pages: list[str]
    serdes: list[tuple[str, str, int]]
    payload: bytes


class Reader:
    """Reads keys and frames by docs/reference/keys.md and docs/reference/frames.md."""

    DECODE: ClassVar = {"zlib": zlib.decompress}

    @staticmethod
    def digest(domain: str, record: dict) -> bytes:
        text = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(domain.encode() + b"\0" + text.encode()).digest()

    @classmethod
    def keys(cls, namespace: dict, scope: dict, tokens: list[int]) -> list[bytes]:
        key = hashlib.sha256(
            b"lmcache:root:1\0"
            + cls.digest("lmcache:namespace:1", namespace)
            + cls.digest("lmcache:scope:1", scope)
        ).digest()
        keys = [key]
        size = namespace["chunk_size"]
        for start in range(0, len(tokens), size):
            packed = struct.pack(
                f"<{len(tokens[start : start + size])}I", *tokens[start : start + size]
            )
            keys.append(hashlib.sha256(keys[-1] + packed).digest())
        return keys

    @classmethod
    def frame(cls, file: bytes) -> Frame:
        magic, version, header_bytes, raw, stored, tokens, groups, chain_bytes = struct.unpack_from(
            "<8sIIQQIHH", file
        )
        assert (magic, version, header_bytes) == (b"LMCFRAM1", 2, 4096)
        key, parent, namespace, _frame_id = struct.unpack_from("<32s32s32s16s", file, 40)
        of_payload, of_header = struct.unpack_from("<QQ", file, 152)
        assert xxhash.xxh3_64_intdigest(file[:160] + file[168:4096]) == of_header
        assert len(file) == 4096 + stored
        assert xxhash.xxh3_64_intdigest(file[4096:]) == of_payload

        at, pages = 168, []
        for _ in range(groups):
            (count,) = struct.unpack_from("<I", file, at)
            bits = int.from_bytes(file[at + 4 : at + 4 + (count + 7) // 8], "little")
            pages.append("".join("01"[bits >> page & 1] for page in range(count)))
            at += 4 + (count + 7) // 8
        text = file[at : at + chain_bytes].decode("ascii")
        assert not any(file[at + chain_bytes : 4096])

        payload, of_raw, serdes = file[4096:], None, []
        if text:
            check, *named = text.split(",")
            of_raw = int(check, 16)
            parts = [name.split(":") for name in named]
            serdes = [(name, label, int(length)) for name, label, length in parts]
        for name, _, length in reversed(serdes):
            payload = cls.DECODE[name](payload)
            assert len(payload) == length
        assert len(payload) == raw
        assert of_raw is None or xxhash.xxh3_64_intdigest(payload) == of_raw
        return Frame(key, parent, namespace, tokens, pages, serdes, payload)


def written(folder: Path, *serdes: str) -> dict:
    """Let an engine store a prompt; return the namespace that it announces."""
    tiers = (
        TierConfig("LocalCPUBackend", 8 * SLOT_BYTES),
        TierConfig(DISK, None, {"path": str(folder)}, **chain(*serdes)),
    )
    with Rig(offers=[ZLIB], overrides={"tiers": tiers, "instance_id": "rig"}) as rig:
        rig.serve(LONG)
        settle(rig)
        return json.loads(msgspec.json.encode(rig.engine.tiers.namespace))


@pytest.mark.parametrize("serdes", [(), ("zlib",)], ids=["raw", "encoded"])
def test_what_an_engine_wrote_is_read_by_the_pages_alone(tmp_path, serdes):
    namespace = written(tmp_path, *serdes)
    scope = json.loads(msgspec.json.encode(EMPTY_SCOPE))
    root, *keys = Reader.keys(namespace, scope, list(LONG))
    for number, (parent, key) in enumerate(zip([root, *keys], keys, strict=False)):
        file = tmp_path / "rig" / "frames" / key.hex()[:2] / key.hex()
        frame = Reader.frame(file.read_bytes())
        assert (frame.key, frame.parent) == (key, parent)
        assert frame.namespace == Reader.digest("lmcache:namespace:1", namespace)
        assert (frame.tokens, frame.pages) == (CHUNK_TOKENS, ["1111"])
        assert [name for name, *_ in frame.serdes] == list(serdes)
        size = 4 * CHUNK_TOKENS
        assert frame.payload == kv(LONG)[number * size : (number + 1) * size]


@pytest.mark.parametrize("at", [3, 20, 60, 150, 170, 4000, 4100])
def test_such_a_reader_sees_damage_too(tmp_path, at):
    written(tmp_path)
    file = next((tmp_path / "rig" / "frames").glob("*/*"))
    damaged = bytearray(file.read_bytes())
    damaged[at] ^= 1
    with pytest.raises(AssertionError):
        Reader.frame(bytes(damaged))
