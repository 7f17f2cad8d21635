"""The name that a store was given, and whether it can be written as we need."""

from __future__ import annotations

import re
import uuid

from obstore.exceptions import BaseError

from lmcache_backend_object_store.bucket import Bucket
from lmcache_backend_object_store.failures import lacks_condition
from lmcache_backend_object_store.names import STORE_ID
from lmcache_core.errors import BackendError

_FORMAT = "lmcache-object-store 1"
_CONTENT = re.compile(rf"^{_FORMAT} ([0-9a-f]{{32}})\n$")
_LONGEST = 4096


async def identify(bucket: Bucket, url: str) -> tuple[str, bool]:
    """Read the store's name, or give it one.

    Returns:
        The name, and whether the store can write an object only if it is not
        there.

    Raises:
        BackendError: What lies there is not ours.
        BaseError: The store cannot be read or written.
        FileNotFoundError: There is no such bucket.
    """
    new = f"{_FORMAT} {uuid.uuid4().hex}\n".encode()
    present = await _read(bucket)
    try:
        # Also where it is there: only a write tells whether we may write, and
        # only a second one whether the condition is heeded.
        created = await bucket.create(STORE_ID, present or new)
        creates = not (created if present else await bucket.create(STORE_ID, new))
    except BaseError as error:
        if not lacks_condition(error):
            raise
        creates = False
        if present is None:
            await bucket.overwrite(STORE_ID, new)
    # Of several engines that began at once any one has named it.
    name = present or await _read(bucket)
    match = _CONTENT.match((name or b"").decode(errors="replace"))
    if match is None:
        message = (
            f"{url} has an object {STORE_ID!r} that says nothing this version knows; use another "
            "prefix, or a newer lmcache-backend-object-store"
        )
        raise BackendError(message)
    return match[1], creates


async def _read(bucket: Bucket) -> bytes | None:
    buffer = bytearray(_LONGEST)
    found, nbytes = await bucket.read(STORE_ID, memoryview(buffer))
    # One that is too long is no name of ours either.
    return None if found is None else bytes(buffer[:nbytes])
