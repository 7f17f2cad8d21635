"""Keys, read from files and from the environment; never shown."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from lmcache_core.errors import ConfigError
from lmcache_core.log import get_logger

log = get_logger(__name__)

KEY_BYTES = 32
MAX_FILE_BYTES = 4096

_HEX = re.compile(rb"[0-9A-Fa-f]{64}")


def read_key(key_id: str, source: str) -> bytes:
    """Read one key: 64 hexadecimal digits, and white space around them.

    Args:
        key_id: Its id, for messages.
        source: ``file:PATH`` or ``env:NAME``.

    Raises:
        ConfigError: It is not there, cannot be read, or is no key; the message
            has nothing of what was read.
    """
    kind, _, place = source.partition(":")
    text = _from_file(key_id, Path(place)) if kind == "file" else _from_environment(key_id, place)
    text = text.strip()
    if not _HEX.fullmatch(text):
        raise ConfigError(
            f"key {key_id!r} in {source} is not 64 hexadecimal digits ({len(text)} characters are "
            "there); make one with `openssl rand -hex 32`",
            key="keys",
        )
    return bytes.fromhex(text.decode("ascii"))


def _from_file(key_id: str, path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read(MAX_FILE_BYTES)
    except OSError as error:
        raise ConfigError(
            f"key {key_id!r} cannot be read from file {path}: {error.strerror}; make one with "
            f"`(umask 077 && openssl rand -hex 32 > {path})`",
            key="keys",
        ) from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        log.warning(
            "key_file.open_to_others",
            key_id=key_id,
            path=str(path),
            mode=oct(stat.S_IMODE(mode)),
            advice=f"chmod 600 {path}",
        )
    return text


def _from_environment(key_id: str, name: str) -> bytes:
    value = os.environ.get(name)
    if value is None:
        raise ConfigError(
            f"key {key_id!r} is not there: the environment has no variable {name}", key="keys"
        )
    return os.fsencode(value)
