"""Several engines over one store, and a store that changes behind their back."""

from __future__ import annotations

import random
import subprocess
import sys
import textwrap
from collections.abc import Callable
from functools import partial
from typing import Any

import obstore
import pytest

from lmcache_core.api import Deadline, PutStatus
from lmcache_core.testing.material import aligned_buffer, sample_frame, sample_key
from lmcache_core.testing.threads import together
from tests.net.http_proxy import HttpProxy

PAGE = 4096
MIB = 1 << 20


def test_the_name_of_a_store_is_one_for_all_who_share_it(
    make_s3: Callable[..., Any], folder: Any
) -> None:
    place = make_s3()
    names = together([lambda: place.open().backend.store_id for _ in range(4)])
    assert len(set(names)) == 1
    assert make_s3().open().backend.store_id not in names
    assert folder.open().backend.store_id not in names


def test_frames_lie_where_the_documentation_says(place: Any) -> None:
    frames = place.open()
    frames.put(1)
    digits = sample_key(1).hex()
    assert place.names() == [f"frames/{digits[:2]}/{digits}", "store-id"]


@pytest.mark.parametrize("nbytes", [16 * PAGE, 12 * MIB])
def test_two_writers_of_one_key_leave_one_whole_frame(place: Any, nbytes: int) -> None:
    one, other = place.open(), place.open()
    key = sample_key(9)
    frames = [sample_frame(number, nbytes) for number in range(2)]
    statuses = together(
        [
            partial(engine.backend.put, [key], [frame], Deadline(60))
            for engine, frame in zip((one, other), frames, strict=True)
        ]
    )
    assert [PutStatus.STORED] in statuses
    buffer = aligned_buffer(nbytes)
    assert one.backend.get([key], [buffer], Deadline(60)) == [nbytes]
    assert bytes(buffer) in [bytes(frame) for frame in frames]


def test_what_is_deleted_behind_our_back_is_a_miss(place: Any) -> None:
    frames = place.open()
    frames.put(1)
    place.delete(sample_key(1))
    assert frames.get(1) is None
    assert frames.stat(1) is None
    assert frames.remove(1) is False
    assert frames.put(1) is PutStatus.STORED


def test_a_damaged_frame_is_removed_if_it_is_the_one_that_was_read(place: Any) -> None:
    frames = place.open()
    place.plant(sample_key(1), b"damaged" * 100)
    assert frames.get(1) == b"damaged" * 100
    assert frames.quarantine(1) is True
    assert place.names() == ["store-id"]
    assert frames.put(1) is PutStatus.STORED


def test_a_frame_written_since_stays(place: Any) -> None:
    frames = place.open()
    place.plant(sample_key(1), b"damaged" * 100)
    assert frames.get(1) == b"damaged" * 100
    place.delete(sample_key(1))
    assert place.open().put(1) is PutStatus.STORED
    assert frames.quarantine(1) is False
    assert frames.get(1) == bytes(sample_frame(1, 2 * PAGE))


def test_what_we_have_written_since_is_what_is_taken_out_of_the_way(place: Any) -> None:
    frames = place.open()
    frames.put(1)
    frames.get(1)
    place.delete(sample_key(1))
    assert frames.put(1, PAGE) is PutStatus.STORED
    assert frames.quarantine(1) is True
    assert frames.stat(1) is None


def test_a_frame_that_is_too_long_is_found_and_removed(place: Any) -> None:
    frames = place.open()
    for number, nbytes in ((1, 3 * PAGE), (2, 24 * MIB)):
        frames.put(number, nbytes)
        assert frames.get(number, nbytes // 2) is None
        assert frames.stat(number) == nbytes
        assert frames.quarantine(number) is True
        assert frames.stat(number) is None


def test_a_removal_that_was_cut_short_is_a_miss_and_finished(place: Any) -> None:
    frames = place.open()
    for number, nbytes in ((1, 2 * PAGE), (2, 24 * MIB)):
        place.plant(sample_key(number), b"")
        assert frames.stat(number) is None
        assert frames.get(number, nbytes) is None
        assert frames.put(number, nbytes) is PutStatus.STORED


@pytest.mark.parametrize("nbytes", [10 * MIB + PAGE, 21 * MIB + 1])
def test_large_frames_are_the_same_by_parts(place: Any, nbytes: int) -> None:
    frames = place.open()
    assert frames.put(1, nbytes) is PutStatus.STORED
    assert frames.put(1, nbytes) is PutStatus.PRESENT
    assert frames.get(1, nbytes) == bytes(sample_frame(1, nbytes))
    assert frames.get(1, nbytes + 11 * MIB) == bytes(sample_frame(1, nbytes))
    assert bytes(obstore.get(place.client, place.names()[0]).bytes()) == bytes(
        sample_frame(1, nbytes)
    )


def test_a_frame_replaced_between_two_ranges_is_not_mixed(
    make_s3: Callable[..., Any], server: Any
) -> None:
    """Equal keys mean equal bytes only among the honest."""
    nbytes, key = 12 * MIB, sample_key(1)
    with HttpProxy(server.port) as proxy:
        place = make_s3(proxy.endpoint, requests=1)  # so that the ranges come one by one
        frames = place.open()
        place.plant(key, b"a" * nbytes)

        def replace(_method: str, _path: str, headers: Any) -> None:
            if headers["Range"] and not headers["Range"].startswith("bytes=0-"):
                place.plant(key, b"b" * nbytes)

        proxy.answer = replace
        assert frames.get(1, nbytes) is None
        assert frames.get(1, nbytes) == b"b" * nbytes


def test_scan_passes_over_what_is_no_frame(place: Any) -> None:
    frames = place.open()
    frames.put(1)
    obstore.put(place.client, "frames/readme", b"what is here")
    obstore.put(place.client, f"frames/00/{sample_key(2).hex()}", b"in the wrong folder")
    obstore.put(place.client, f"other/{sample_key(3).hex()}", b"elsewhere")
    assert list(frames.backend.scan()) == [(sample_key(1), 2 * PAGE)]


WRITER = """
import sys
from lmcache_backend_object_store.backend import ObjectStoreBackend
from lmcache_backend_object_store.config import ObjectStoreConfig
from lmcache_core.api import BackendContext, Deadline
from lmcache_core.testing.material import sample_frame, sample_key
import msgspec
config = msgspec.json.decode(sys.argv[1], type=ObjectStoreConfig)
backend = ObjectStoreBackend(config, BackendContext(instance_id="w", tier="object-store"))
backend.open()
for number in range(10**6):
    print(number, flush=True)
    backend.put([sample_key(number)], [sample_frame(number, 1 << 20)], Deadline(30))
"""


def test_a_writer_that_is_killed_leaves_whole_frames(place: Any) -> None:
    import msgspec

    options = msgspec.json.encode(place.options).decode()
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(WRITER), options], stdout=subprocess.PIPE, text=True
    )
    enough = random.Random(3).randrange(5, 12)
    try:
        assert child.stdout is not None
        written = 0
        while written < enough:
            written = int(child.stdout.readline())
    finally:
        child.kill()
        assert child.stdout is not None
        child.stdout.close()
        child.wait(30)
    frames = place.open()
    for number in range(written):
        assert frames.get(number, MIB) == bytes(sample_frame(number, MIB))
    for _, nbytes in frames.backend.scan():
        assert nbytes == MIB
