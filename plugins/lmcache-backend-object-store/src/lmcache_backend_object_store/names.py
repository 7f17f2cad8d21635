"""The names of objects below the configured prefix."""

from __future__ import annotations

import re

from lmcache_core.keys import Key

STORE_ID = "store-id"
"""Says which store this is; made by the first engine that uses it."""

FRAMES = "frames"
"""Prefix of all frames."""

_FRAME = re.compile(rf"^{FRAMES}/([0-9a-f]{{2}})/(\1[0-9a-f]{{62}})$")


def frame_name(key: Key) -> str:
    """The name of a frame: ``frames/ab/abcd…``, the key in 64 hexadecimal digits.

    Keys are digests, so that names spread evenly: a store that splits its
    load by prefix can do so, and a folder has 256 sub-folders.
    """
    digits = key.hex()
    return f"{FRAMES}/{digits[:2]}/{digits}"


def frame_key(name: str) -> Key | None:
    """The key of a frame's name; None for any other object."""
    match = _FRAME.match(name)
    return bytes.fromhex(match[2]) if match else None
