"""What files are called: instances, shards, frames."""

from __future__ import annotations

from urllib.parse import quote

from lmcache_core.keys import Key

KEY_BYTES = 32
SHARDS = tuple(f"{number:02x}" for number in range(256))
"""Folders by the first byte of a key, so that none grows beyond what file systems like."""


def instance_folder(instance_id: str) -> str:
    """Name of an instance's folder: its id, with what no file name may have escaped."""
    name = quote(instance_id, safe="")
    return name.replace(".", "%2E") if not name.strip(".") else name


def frame_name(key: Key) -> str:
    """Name of a frame's file within its shard."""
    return key.hex()


def key_of(name: str, shard: int) -> Key | None:
    """The key of a file in a shard, or None where it is no frame's name."""
    if len(name) != 2 * KEY_BYTES or name != name.lower():
        return None
    try:
        key = bytes.fromhex(name)
    except ValueError:
        return None
    return key if len(key) == KEY_BYTES and key[0] == shard else None
