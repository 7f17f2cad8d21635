"""A store as coroutines: objects by name, so many requests at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError

from lmcache_backend_object_store.download import Download
from lmcache_backend_object_store.failures import is_beyond_end, lacks_condition
from lmcache_backend_object_store.found import Found, Version
from lmcache_backend_object_store.parts import cut

if TYPE_CHECKING:  # obstore has these for type checkers only
    from obstore import ListStream, ObjectMeta, UpdateVersion
    from obstore.store import ObjectStore

PARTS_AT_A_TIME = 4
"""Parts of one upload that are under way together."""

PAGE_OBJECTS = 128
"""Objects taken from a listing at a time, some tenths of a millisecond of Python."""


class Bucket:
    """The requests that the backend makes, each one object's.

    What obstore raises is let through, less what is an answer: an object
    that is not there, one that is there already, one that has changed.

    Args:
        store: The client.
        requests: Most at a time of one call; further ones wait.
        part_bytes: The least that is a part of an object; None for no parts.
    """

    def __init__(self, store: ObjectStore, *, requests: int, part_bytes: int | None) -> None:
        self._store = store
        self._part_bytes = part_bytes
        self._requests = requests
        self._in_call: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = (
            WeakKeyDictionary()
        )

    @property
    def _places(self) -> asyncio.Semaphore:
        """What the requests of this thread's call share."""
        loop = asyncio.get_running_loop()
        places = self._in_call.get(loop)
        if places is None:
            places = self._in_call[loop] = asyncio.Semaphore(self._requests)
        return places

    async def head(self, name: str) -> Found | None:
        """Tell of an object; None for none. An empty one is the mark of a removal."""
        async with self._places:
            try:
                found = _found(await obstore.head_async(self._store, name))
            except FileNotFoundError:
                return None
        return found if found.nbytes else None

    async def read(self, name: str, buffer: memoryview) -> tuple[Found | None, int | None]:
        """Read an object into a buffer, large ones by ranges side by side.

        An empty one is the mark of a removal that was cut short, and goes.

        Returns:
            What was found, and the length of what is in the buffer: None
            where that is not the whole object.
        """
        download = Download(buffer)
        cuts = self.cut(buffer.nbytes)
        if len(cuts) <= 1:
            present = await self._read_all(name, download, buffer.nbytes)
        else:
            present, *_ = await asyncio.gather(
                *(self._read_range(name, download, *ends) for ends in cuts)
            )
        if not present:
            await self.delete(name)
        return download.found, download.nbytes

    def cut(self, nbytes: int) -> list[tuple[int, int]]:
        """Cut a length into the parts it is moved in."""
        return cut(nbytes, self._part_bytes or nbytes)

    async def _read_all(self, name: str, download: Download, most_bytes: int) -> bool:
        """Read an object whole; False where it is there and empty."""
        async with self._places:
            try:
                result = await obstore.get_async(self._store, name)
                found = _found(result.meta)
                if 0 < found.nbytes <= most_bytes:
                    download.take(0, found, memoryview(await result.bytes_async()))
                elif found.nbytes:
                    download.take(0, found, b"")
            except FileNotFoundError:
                return True
        return found.nbytes > 0

    async def _read_range(self, name: str, download: Download, start: int, stop: int) -> bool:
        """Read a range as far as it goes; False where the object is there and ends before."""
        async with self._places:
            try:
                result = await obstore.get_async(
                    self._store, name, options={"range": (start, stop)}
                )
                found = _found(result.meta)
                download.take(start, found, memoryview(await result.bytes_async()))
            except FileNotFoundError:
                return True
            except BaseError as error:
                if not is_beyond_end(error):
                    raise
                return False
        return True

    async def create(self, name: str, data: memoryview | bytes) -> bool:
        """Write an object unless it is there; tell whether it was not."""
        async with self._places:
            try:
                await obstore.put_async(self._store, name, data, mode="create")
            except AlreadyExistsError:
                return False
        return True

    async def overwrite(self, name: str, data: memoryview | bytes) -> None:
        """Write an object, in the place of one that may be there."""
        async with self._places:
            await obstore.put_async(self._store, name, data, use_multipart=False)

    async def overwrite_version(
        self, name: str, data: memoryview | bytes, version: Version
    ) -> bool:
        """Write an object in the place of this writing of it; tell whether it was there still.

        A store that cannot do so on condition does it without.
        """
        try:
            async with self._places:
                await obstore.put_async(self._store, name, data, mode=_condition(version))
        except (PreconditionError, FileNotFoundError):
            return False
        except (BaseError, NotImplementedError) as error:
            if not lacks_condition(error):
                raise
            await self.overwrite(name, data)
        return True

    async def overwrite_in_parts(self, name: str, parts: Sequence[memoryview]) -> None:
        """The same, parts of equal length side by side; readers see all or nothing."""
        async with self._places:
            await obstore.put_async(
                self._store,
                name,
                iter(parts),
                chunk_size=len(parts[0]),
                max_concurrency=PARTS_AT_A_TIME,
            )

    async def delete(self, name: str) -> None:
        """Remove an object, if it is there."""
        async with self._places:
            try:
                await obstore.delete_async(self._store, name)
            except FileNotFoundError:
                return

    async def delete_version(self, name: str, version: Version) -> bool:
        """Remove an object if it is this writing of it; tell whether it was.

        Stores replace on condition, and remove without: an empty object first
        takes the place of this writing, and keeps others from writing until
        it is removed. A store that cannot do that either is asked first.
        """
        found = await self.head(name)
        if found is None or found.version != version:
            return False
        try:
            async with self._places:
                await obstore.put_async(self._store, name, b"", mode=_condition(version))
        except (PreconditionError, FileNotFoundError):
            return False
        except (BaseError, NotImplementedError) as error:
            if not lacks_condition(error):
                raise
        await self.delete(name)
        return True

    def listing(self, prefix: str) -> Listing:
        """List the objects below a prefix."""
        return Listing(obstore.list(self._store, prefix, chunk_size=PAGE_OBJECTS))


class Listing:
    """The names and lengths of objects, some at a time.

    Args:
        stream: What asks the store for more as it is read.
    """

    def __init__(self, stream: ListStream[Sequence[ObjectMeta]]) -> None:
        self._stream = stream

    async def page(self) -> list[tuple[str, int]]:
        """The next ones; none when there are no more."""
        try:
            metas = await anext(self._stream)
        except StopAsyncIteration:
            return []
        return [(meta["path"], meta["size"]) for meta in metas]


def _found(meta: ObjectMeta) -> Found:
    return Found(meta["size"], Version(meta["e_tag"], meta["version"]))


def _condition(version: Version) -> UpdateVersion:
    condition: UpdateVersion = {}
    if version.e_tag is not None:
        condition["e_tag"] = version.e_tag
    if version.version is not None:
        condition["version"] = version.version
    return condition
