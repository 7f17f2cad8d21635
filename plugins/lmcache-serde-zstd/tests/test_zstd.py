"""Payloads come back to the bit, or not at all."""

from __future__ import annotations

import random
import threading
import tracemalloc

import msgspec
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from lmcache_core.config import plugin_section
from lmcache_core.errors import ConfigError, SerdeError
from lmcache_serde_zstd.config import ZstdConfig
from lmcache_serde_zstd.serde import ZstdSerde

KEY = b"k" * 32

payloads = st.one_of(
    st.binary(max_size=2000),
    # Runs, which compress, and lengths around those of blocks.
    st.builds(
        lambda run, times: (run * times)[: 400 << 10],
        st.binary(min_size=1, max_size=9),
        st.integers(1, 1 << 18),
    ),
)


def pages(nbytes: int, seed: int = 1) -> bytes:
    """Numbers as bfloat16 has them: one byte of two is noise."""
    draw = random.Random(seed)
    noise = draw.randbytes(nbytes // 2)
    return bytes(
        b
        for pair in zip(noise, draw.choices(b"\x3e\x3f\xbe\xbf", k=nbytes // 2), strict=True)
        for b in pair
    )


def decode(serde: ZstdSerde, stored: bytes, nbytes: int) -> bytes:
    target = bytearray(b"\xaa" * nbytes)
    serde.decode(KEY, memoryview(stored), memoryview(target))
    return bytes(target)


@given(payload=payloads, level=st.sampled_from([-5, 1, 3]))
def test_a_payload_comes_back(payload, level):
    serde = ZstdSerde(ZstdConfig(level=level))
    stored = bytes(serde.encode(KEY, memoryview(payload)))
    assert decode(serde, stored, len(payload)) == payload
    # What is stored is plain Zstandard.
    assert zstandard.ZstdDecompressor().decompress(stored) == payload


def test_pages_take_less_room_and_every_level_reads_every_other():
    payload = pages(1 << 20)
    serdes = [ZstdSerde(ZstdConfig(level=level)) for level in (1, 3, 19)]
    for writer in serdes:
        stored = bytes(writer.encode(KEY, memoryview(payload)))
        assert len(stored) < 0.8 * len(payload)
        for reader in serdes:
            assert decode(reader, stored, len(payload)) == payload


@given(payload=payloads, data=st.data())
def test_a_flipped_bit_is_an_error_or_changes_nothing(payload, data):
    serde = ZstdSerde()
    stored = bytearray(serde.encode(KEY, memoryview(payload)))
    at = data.draw(st.integers(0, len(stored) - 1))
    stored[at] ^= 1 << data.draw(st.integers(0, 7))
    try:
        found = decode(serde, bytes(stored), len(payload))
    except SerdeError:
        return
    assert found == payload


@given(payload=payloads, data=st.data())
def test_a_frame_cut_short_is_an_error(payload, data):
    serde = ZstdSerde()
    stored = bytes(serde.encode(KEY, memoryview(payload)))
    end = data.draw(st.one_of(st.integers(0, len(stored) - 1), st.just(len(stored) - 1)))
    with pytest.raises(SerdeError):
        decode(serde, stored[:end], len(payload))


@given(stored=st.binary(max_size=200), nbytes=st.integers(0, 5000))
def test_any_bytes_are_an_error(stored, nbytes):
    with pytest.raises(SerdeError):
        decode(ZstdSerde(), stored, nbytes)
    with pytest.raises(SerdeError):
        decode(ZstdSerde(), zstandard.MAGIC_NUMBER.to_bytes(4, "little") + stored, nbytes)


@pytest.mark.parametrize(
    "behind",
    [b"\0", b"behind", zstandard.ZstdCompressor().compress(b""), b"\x50\x2a\x4d\x18" + bytes(4)],
)
def test_what_is_behind_a_frame_is_an_error(behind):
    serde = ZstdSerde()
    stored = bytes(serde.encode(KEY, memoryview(b"payload")))
    with pytest.raises(SerdeError):
        decode(serde, stored + behind, 7)


@pytest.mark.parametrize(
    "compressor",
    [
        zstandard.ZstdCompressor(write_checksum=False),
        zstandard.ZstdCompressor(write_checksum=True, write_content_size=False),
    ],
    ids=["no checksum", "no length"],
)
def test_frames_of_others_are_an_error(compressor):
    payload = pages(4096)
    with pytest.raises(SerdeError):
        decode(ZstdSerde(), compressor.compress(payload), len(payload))


def test_a_frame_of_another_length_is_an_error():
    serde = ZstdSerde()
    stored = bytes(serde.encode(KEY, memoryview(bytes(100))))
    for nbytes in (0, 99, 101, 1 << 20):
        with pytest.raises(SerdeError, match=f"100 bytes, and {nbytes} are wanted"):
            decode(serde, stored, nbytes)


def _peak_bytes(serde, stored, nbytes):
    target = bytearray(nbytes)
    tracemalloc.start()
    try:
        with pytest.raises(SerdeError):
            serde.decode(KEY, memoryview(stored), memoryview(target))
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_bomb_takes_no_memory():
    bomb = ZstdSerde().encode(KEY, memoryview(bytes(256 << 20)))
    assert len(bomb) < 64 << 10
    assert _peak_bytes(ZstdSerde(), bomb, 4096) < 1 << 20


def test_a_frame_that_lies_about_its_length_is_an_error():
    stored = bytearray(zstandard.ZstdCompressor(write_checksum=True).compress(bytes(1 << 20)))
    honest = zstandard.get_frame_parameters(stored)
    assert honest.content_size == 1 << 20
    # A descriptor of a length of four bytes, in one segment, with a checksum.
    assert stored[4] == 0b1010_0100
    stored[5:9] = (4096).to_bytes(4, "little")
    assert zstandard.get_frame_parameters(stored).content_size == 4096
    assert _peak_bytes(ZstdSerde(), bytes(stored), 4096) < 1 << 20


def test_a_frame_of_very_many_empty_blocks_is_an_error():
    head = bytes(zstandard.ZstdCompressor(write_checksum=True).compress(b"a" * 300))[:7]
    assert zstandard.get_frame_parameters(head).content_size == 300
    with pytest.raises(SerdeError, match="more blocks"):
        decode(ZstdSerde(), head + bytes(3 << 20), 300)


def test_a_window_larger_than_the_payload_is_an_error():
    # A length of four bytes and a window, not one segment; a window of 128 MiB;
    # the length; one raw block, the last.
    head = zstandard.MAGIC_NUMBER.to_bytes(4, "little") + b"\x84\x88"
    length, block = (5000).to_bytes(4, "little"), (5000 << 3 | 1).to_bytes(3, "little")
    stored = head + length + block + bytes(5000) + bytes(4)
    assert zstandard.get_frame_parameters(stored).window_size == 1 << 27
    with pytest.raises(SerdeError, match="window"):
        decode(ZstdSerde(), stored, 5000)


def test_threads_share_one_serde():
    serde = ZstdSerde()
    failures = []

    def work(seed):
        payload = pages(200_000, seed)
        for _ in range(8):
            stored = bytes(serde.encode(KEY, memoryview(payload)))
            if decode(serde, stored, len(payload)) != payload:
                failures.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert not failures
    serde.close()
    serde.close()


def test_the_level_is_the_label_and_is_bounded():
    assert ZstdSerde(ZstdConfig(level=-3)).label == "-3"
    assert plugin_section(ZstdConfig, {}, "serde zstd") == ZstdConfig(level=1)
    for level in (20, -101, "fast"):
        with pytest.raises(ConfigError, match="level"):
            plugin_section(ZstdConfig, {"level": level}, "serde zstd")
    with pytest.raises(ConfigError, match="threads"):
        plugin_section(ZstdConfig, {"threads": 4}, "serde zstd")
    assert msgspec.json.schema(ZstdConfig)
