"""Putting a frame where there may be one already, or where there is one."""

from __future__ import annotations

import time
from collections.abc import Sequence

from obstore.exceptions import BaseError

from lmcache_backend_object_store.bucket import Bucket
from lmcache_backend_object_store.failures import is_full, is_refused
from lmcache_core.api import PutStatus

_RELEASE_POLL_SECONDS = 0.0002


class Upload:
    """One frame on its way, without a copy.

    Args:
        name: Of the object.
        frame: The frame; obstore reads it where it is.
        cuts: Start and stop of the parts that it is sent in.
        creates: Whether the store writes an object only if it is not there.
    """

    def __init__(
        self,
        name: str,
        frame: memoryview,
        cuts: Sequence[tuple[int, int]],
        *,
        creates: bool,
    ) -> None:
        self._name = name
        self._creates = creates
        flat = frame.cast("B")
        self._parts = [flat[start:stop] for start, stop in cuts] or [flat]

    async def run(self, bucket: Bucket) -> PutStatus:
        """Put the frame.

        Raises:
            BaseError: What the store could not be made to do.
            FileNotFoundError: There is no such bucket.
        """
        # What stores cannot do on condition is asked before, and may be overtaken.
        asks = len(self._parts) > 1 or not self._creates
        try:
            if asks and await bucket.head(self._name):
                return PutStatus.PRESENT
            if len(self._parts) > 1:
                await bucket.overwrite_in_parts(self._name, self._parts)
            elif self._creates:
                created = await bucket.create(self._name, self._parts[0])
                return PutStatus.STORED if created else PutStatus.PRESENT
            else:
                await bucket.overwrite(self._name, self._parts[0])
        except BaseError as error:
            if is_full(error):
                return PutStatus.FULL
            if is_refused(error):
                return PutStatus.FAILED
            raise
        return PutStatus.STORED

    async def replace(self, bucket: Bucket) -> bool:
        """Put the frame in the place of one that is there.

        Raises:
            BaseError: What the store could not be made to do.
        """
        found = await bucket.head(self._name)
        if found is None:
            return False
        try:
            if len(self._parts) == 1:
                return await bucket.overwrite_version(self._name, self._parts[0], found.version)
            # What is sent in parts cannot be written on condition.
            await bucket.overwrite_in_parts(self._name, self._parts)
        except BaseError as error:
            if is_full(error) or is_refused(error):
                return False
            raise
        return True

    def release(self) -> None:
        """Return once nobody reads the frame any more.

        A request that was dropped lets go of it within a millisecond or so. A
        write to a folder cannot be dropped: it ends when the kernel ends it.
        """
        for part in self._parts:
            while True:
                try:
                    part.release()
                    break
                except BufferError:
                    time.sleep(_RELEASE_POLL_SECONDS)
