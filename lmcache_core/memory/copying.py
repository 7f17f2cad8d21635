"""Copying bytes from one buffer to another without the interpreter's lock."""

from __future__ import annotations

from ctypes import addressof, c_char, memmove


def copy_bytes(target: memoryview, source: bytes | bytearray | memoryview) -> None:
    """Copy ``source`` to the beginning of ``target``.

    Assigning a slice keeps the interpreter's lock for as long as it copies,
    which is milliseconds for a large chunk, and the serving step waits.

    Args:
        target: Contiguous, writable bytes, at least as many as ``source`` has.
        source: Contiguous bytes. Those of a memoryview that cannot be written
            are copied with the lock held: nothing tells where they lie.

    Raises:
        ValueError: ``target`` is shorter than ``source``.
    """
    nbytes = len(source)
    if nbytes > len(target):
        message = f"{nbytes} bytes do not fit into {len(target)}"
        raise ValueError(message)
    if not nbytes:
        return
    if isinstance(source, bytes):
        memmove(addressof(c_char.from_buffer(target)), source, nbytes)
    elif isinstance(source, memoryview) and source.readonly:
        target[:nbytes] = source
    else:
        begin = addressof(c_char.from_buffer(source))
        memmove(addressof(c_char.from_buffer(target)), begin, nbytes)
