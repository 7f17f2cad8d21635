"""Bits that flip in files: all are detected, by who reads and by the scrub, and none is served."""

from __future__ import annotations

import errno
import os

import pytest

from lmcache_backend_local_disk import backend as backend_module
from lmcache_backend_local_disk.calls import SYSTEM
from lmcache_backend_local_disk.config import LocalDiskConfig
from lmcache_backend_local_disk.frame_check import PIECE_BYTES, FrameCheck
from lmcache_backend_local_disk.identity import Identity
from lmcache_backend_local_disk.scrub import AFTER_A_PASS_SECONDS, Scrub
from lmcache_core.api import Deadline
from lmcache_core.testing.material import sample_key
from tests.disk.calls_between import FailingCalls
from tests.disk.frames import frame_bytes, whole_frame

REGIONS = {
    "magic": range(8),
    "version": range(8, 12),
    "lengths": range(16, 32),
    "tokens": range(32, 40),
    "key": range(40, 72),
    "parent": range(72, 104),
    "namespace": range(104, 136),
    "frame id": range(136, 152),
    "payload checksum": range(152, 160),
    "header checksum": range(160, 168),
    "rest of the header": range(168, 4096, 61),
    "payload": range(4096, 4096 + 5000, 71),
    "last byte": range(4096 + 4999, 4096 + 5000),
}
NUMBER = 3
"""Its payload has 5000 bytes."""


def scrub(disk):
    """One whole pass."""
    one = Scrub(disk.backend._disks, float("inf"), disk.calls, disk.metrics, disk.events)
    while one.step() != AFTER_A_PASS_SECONDS:
        pass


def store(disk, *numbers):
    keys = [sample_key(number) for number in numbers]
    disk.backend.put(keys, [whole_frame(number) for number in numbers], Deadline(30))


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("region", REGIONS)
def test_a_flip_of_any_bit_is_detected(disk, region, direct):
    store(disk, NUMBER)
    check, key = FrameCheck(SYSTEM, direct=direct), sample_key(NUMBER)
    path, content = disk.file(NUMBER), frame_bytes(NUMBER)
    assert check.reason(-1, str(path), key) is None
    with path.open("r+b") as file:
        for at in REGIONS[region]:
            for bit in range(8) if len(REGIONS[region]) <= 32 else (at % 8,):
                os.pwrite(file.fileno(), bytes([content[at] ^ 1 << bit]), at)
                assert check.reason(-1, str(path), key), (at, bit)
            os.pwrite(file.fileno(), content[at : at + 1], at)
    assert check.reason(-1, str(path), key) is None


@pytest.mark.parametrize("at", range(len(Identity.new().pack())))
def test_a_flip_of_any_bit_of_the_name_is_detected(at):
    identity = Identity.new()
    for bit in range(8):
        content = bytearray(identity.pack())
        content[at] ^= 1 << bit
        # The line's end says nothing.
        assert Identity.parse(bytes(content)) in ({None, identity} if at == 72 else {None})


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda content: content[:-1], "expected"),
        (lambda content: content + b".", "expected"),
        (lambda content: content[:100], "a header has 4096 bytes"),
        (lambda content: b"", "a header has 4096 bytes"),
        (lambda content: b"hello" * 2000, "not a frame of version 2"),
        (lambda content: frame_bytes(4), "another key"),
        (lambda content: content[:5000] + b"?" + content[5001:], "checksum of the payload"),
    ],
)
def test_a_damaged_file_is_found_behind_and_quarantined(disk, spoil, reason):
    store(disk, 1, NUMBER, 5)
    disk.file(NUMBER).write_bytes(spoil(frame_bytes(NUMBER)))
    scrub(disk)
    assert disk.metrics.totals["scrubbed_frames"] == 3
    assert disk.metrics.totals["scrub_damaged"] == 1
    (said,) = disk.quarantined().values()
    assert reason in said
    assert disk.stat(NUMBER) is None
    assert disk.events.have_gone == [sample_key(NUMBER)]
    assert disk.get(1, 9000) == frame_bytes(1)
    disk.assert_exact()


def test_long_files_are_verified_piece_by_piece(disk, monkeypatch):
    monkeypatch.setattr("tests.disk.frames.PAYLOADS", (2 * PIECE_BYTES + 4097,))
    frame_bytes.cache_clear()
    store(disk, 1, 2)
    with disk.file(1).open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))
    scrub(disk)
    frame_bytes.cache_clear()
    assert list(disk.quarantined()) == [sample_key(1).hex()]


def test_a_short_read_is_no_damage(make_disk):
    disk = make_disk(calls=FailingCalls(0, "short", ("preadv",)))
    store(disk, NUMBER, 5)
    disk.calls.nth = disk.calls.seen + 1
    scrub(disk)
    assert disk.calls.hit == "preadv"
    assert disk.quarantined() == {}


def test_what_is_strange_is_accounted_for_and_what_is_gone_is_not(disk):
    store(disk, 1, NUMBER)
    disk.backend.usage()
    disk.file(1).unlink()
    disk.file(4).write_bytes(frame_bytes(4))
    disk.file(5).write_bytes(b"not a frame")
    scrub(disk)
    assert disk.metrics.totals["reconciled_frames"] == 3
    assert sorted(disk.events.have_come) == sorted(
        [(sample_key(4), len(frame_bytes(4))), (sample_key(5), 11)]
    )
    assert set(disk.events.have_gone) == {sample_key(1), sample_key(5)}
    assert disk.get(4, len(frame_bytes(4))) == frame_bytes(4)
    assert list(disk.quarantined()) == [sample_key(5).hex()]
    disk.assert_exact()


def test_a_file_that_cannot_be_read_is_damaged_and_a_disk_that_fails_is_left(make_disk):
    disk = make_disk(calls=FailingCalls(0, errno.EIO, ("preadv",)))
    store(disk, 1)
    disk.calls.nth = disk.calls.seen + 1
    scrub(disk)
    assert list(disk.quarantined().values()) == ["it cannot be read: Input/output error"]
    store(disk, 1)
    disk.calls.fault, disk.calls.nth = errno.ENOMEM, disk.calls.seen + 1
    scrub(disk)
    assert disk.metrics.totals["scrub_failures"] == 1
    assert disk.stat(1) is not None


def test_the_rate_is_bounded(disk):
    store(disk, *range(12))
    one = Scrub(disk.backend._disks, 1 << 20, disk.calls, disk.metrics, disk.events)
    waited = 0.0
    while (seconds := one.step()) != AFTER_A_PASS_SECONDS:
        waited += seconds
    assert waited >= disk.backend.usage().used_bytes / (1 << 20)


def test_a_running_backend_scrubs(make_disk, monkeypatch):
    disk = make_disk(scrub_rate=1e6)
    store(disk, NUMBER)
    disk.file(NUMBER).write_bytes(frame_bytes(4))
    monkeypatch.setattr(backend_module, "SCRUB_AFTER_SECONDS", 0.0)
    disk.reopen()
    deadline = Deadline(30)
    while not disk.metrics.totals["scrub_damaged"]:
        deadline.check("waiting for the scrub")
    assert list(disk.quarantined()) == [sample_key(NUMBER).hex()]


def test_it_is_on_and_slow_unless_somebody_says_otherwise():
    assert 0 < LocalDiskConfig(path="/x").scrub_rate <= 16
