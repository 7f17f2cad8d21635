"""What was in a folder when the index was written: a hint for the next start.

The file is little-endian: a magic of 8 bytes, then shard by shard its number
(2 bytes), its folder's inode and time of change in nanoseconds (8 bytes each),
how many frames it has (8), their keys (32 each), their lengths (8 each) and
when they were used, in microseconds (8 each); at the end the xxh3-64 of all
before it. Whatever is wrong with it, the files are listed instead. So it is
never synced: what a loss of power makes of it is either right or seen.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Iterable, Iterator
from operator import itemgetter
from typing import NamedTuple

import xxhash

from lmcache_backend_local_disk.names import KEY_BYTES, SHARDS
from lmcache_core.keys import Key

MAGIC = b"LMCINDX1"
_HEAD = struct.Struct("<HQQQ")
_CHECK = struct.Struct("<Q")
_NUMBER_BYTES = 8


class ShardSnapshot(NamedTuple):
    """One shard, as it was.

    Attributes:
        number: Which one.
        inode: Of its folder.
        changed_ns: When a name in its folder was last made, changed or removed.
        keys: All keys, one behind the other.
        lengths: Bytes of each frame.
        used_us: When each was used.
    """

    number: int
    inode: int
    changed_ns: int
    keys: bytes
    lengths: array[int]
    used_us: array[int]

    def each_key(self) -> Iterator[Key]:
        """The keys, one by one."""
        return map(itemgetter(0), struct.iter_unpack(f"{KEY_BYTES}s", self.keys))

    def uses(self, length_bits: int) -> list[int]:
        """When each was used and its length, as one number, the length in so many bits."""
        both = zip(self.used_us, self.lengths, strict=True)
        return [used_us << length_bits | nbytes for used_us, nbytes in both]


def pack_snapshot(shards: Iterable[ShardSnapshot]) -> list[bytes]:
    """The parts of the file, in order."""
    parts = [MAGIC]
    for shard in shards:
        head = _HEAD.pack(shard.number, shard.inode, shard.changed_ns, len(shard.lengths))
        parts += [head, shard.keys, _numbers(shard.lengths), _numbers(shard.used_us)]
    digest = xxhash.xxh3_64()
    for part in parts:
        digest.update(part)
    return [*parts, _CHECK.pack(digest.intdigest())]


def parse_snapshot(content: memoryview) -> list[ShardSnapshot] | None:
    """Read the file; None where it is damaged, or not of this version."""
    end = len(content) - _CHECK.size
    if end < len(MAGIC) or content[: len(MAGIC)] != MAGIC:
        return None
    if _CHECK.unpack_from(content, end) != (xxhash.xxh3_64_intdigest(content[:end]),):
        return None
    shards, at = [], len(MAGIC)
    while at < end:
        if at + _HEAD.size > end:
            return None
        number, inode, changed_ns, count = _HEAD.unpack_from(content, at)
        keys_at = at + _HEAD.size
        lengths_at = keys_at + count * KEY_BYTES
        used_at = lengths_at + count * _NUMBER_BYTES
        at = used_at + count * _NUMBER_BYTES
        if number >= len(SHARDS) or at > end:
            return None
        shards.append(
            ShardSnapshot(
                number=number,
                inode=inode,
                changed_ns=changed_ns,
                keys=bytes(content[keys_at:lengths_at]),
                lengths=_array(content[lengths_at:used_at]),
                used_us=_array(content[used_at:at]),
            )
        )
    return shards


def _numbers(values: array[int]) -> bytes:
    return _little_endian(values[:]).tobytes()


def _array(content: memoryview) -> array[int]:
    return _little_endian(array("Q", content.tobytes()))


def _little_endian(values: array[int]) -> array[int]:
    if sys.byteorder == "big":
        values.byteswap()
    return values
