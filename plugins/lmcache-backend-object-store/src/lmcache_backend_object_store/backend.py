"""``object-store``: each frame an object, shared by every engine with the same address."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, TypeVar

from obstore.exceptions import BaseError

from lmcache_backend_object_store.bucket import Bucket
from lmcache_backend_object_store.config import ObjectStoreConfig
from lmcache_backend_object_store.connection import connect
from lmcache_backend_object_store.failures import failed
from lmcache_backend_object_store.identity import identify
from lmcache_backend_object_store.loops import EventLoops
from lmcache_backend_object_store.names import FRAMES, frame_key, frame_name
from lmcache_backend_object_store.upload import Upload
from lmcache_backend_object_store.versions import Versions
from lmcache_core.api import BackendContext, Deadline, PutStatus, StorageBackend
from lmcache_core.errors import BackendError, DeadlineExceededError
from lmcache_core.keys import Key
from lmcache_core.log import get_logger

log = get_logger(__name__)

OPEN_SECONDS = 10.0
"""How long opening waits for a store to answer."""

PAGE_SECONDS = 10.0
"""How long a scan waits for each page of a listing."""

Answer = TypeVar("Answer")


class ObjectStoreBackend(StorageBackend):
    """Keeps each frame in an object of its own.

    Several engines with one address share what they store. An object is
    written whole or not at all; what the store loses, expires or is told to
    delete by others is a miss.

    Args:
        config: Its section.
        context: Where it is used; every engine sees the same store.
    """

    def __init__(self, config: ObjectStoreConfig, context: BackendContext) -> None:
        self._config = config
        del context
        self._loops = EventLoops()
        self._versions = Versions()
        self._store_id = ""
        self._creates = True

    @property
    def store_id(self) -> str:
        """The name that the store was given by the first engine that used it."""
        return self._store_id

    def open(self) -> None:
        """Reach the store and see that it can be read and written.

        Raises:
            BackendError: It cannot be used; the message says what to do.
            ConfigError: A setting is wrong.
        """
        self._bucket = connect(self._config)
        self._loops.open()
        url = self._config.url
        try:
            name = self._run(identify(self._bucket, url), Deadline(OPEN_SECONDS), "opening")
        except DeadlineExceededError as error:
            self._loops.close()
            message = (
                f"{url} did not answer within {OPEN_SECONDS:g} s; see that the endpoint is right "
                "and can be reached from here"
            )
            raise BackendError(message) from error
        except BackendError:
            self._loops.close()
            raise
        self._store_id, self._creates = name
        log.info("objects.opened", url=url, store_id=self._store_id)
        if not self._creates:
            log.warning("objects.no_conditional_put", url=url)

    def close(self) -> None:
        """Drop what is under way; idempotent."""
        self._loops.close()

    def stat(self, keys: Sequence[Key], deadline: Deadline) -> list[int | None]:
        """Tell the length of each object, all asked for at once.

        Raises:
            BackendError: The store did not answer.
            DeadlineExceededError: It did not answer in time.
        """
        deadline.check("looking for frames")
        heads = [self._bucket.head(frame_name(key)) for key in keys]
        found = self._run(_all(heads), deadline, "looking for frames")
        return [None if one is None else one.nbytes for one in found]

    def put(
        self, keys: Sequence[Key], frames: Sequence[memoryview], deadline: Deadline
    ) -> list[PutStatus]:
        """Write each frame as one object, large ones in parts.

        Raises:
            BackendError: The store did not take it, for another reason than
                that it is full or refuses this one.
            DeadlineExceededError: It did not answer in time.
        """
        return self._upload(keys, frames, deadline, Upload.run)

    def get(
        self, keys: Sequence[Key], buffers: Sequence[memoryview], deadline: Deadline
    ) -> list[int | None]:
        """Read each object, large ones by ranges side by side.

        Raises:
            BackendError: The store did not answer.
            DeadlineExceededError: It did not answer in time.
        """
        deadline.check("reading frames")
        views = [buffer.cast("B") for buffer in buffers]
        try:
            reads = [
                self._bucket.read(frame_name(key), view)
                for key, view in zip(keys, views, strict=True)
            ]
            answers = self._run(_all(reads), deadline, "reading frames")
        finally:
            # Whatever still refers to them cannot write any more.
            for view in views:
                view.release()
        for key, (found, _) in zip(keys, answers, strict=True):
            if found is not None:
                self._versions.note(key, found.version)
        return [nbytes for _, nbytes in answers]

    def remove(self, keys: Sequence[Key], deadline: Deadline) -> list[bool]:
        """Remove each object that is there.

        Raises:
            BackendError: The store did not let us.
            DeadlineExceededError: It did not answer in time.
        """
        deadline.check("removing frames")
        self._versions.forget(keys)
        work = _all([self._remove(frame_name(key)) for key in keys])
        return self._run(work, deadline, "removing frames")

    def replace(
        self, keys: Sequence[Key], frames: Sequence[memoryview], deadline: Deadline
    ) -> list[bool]:
        """Write each frame as one object where there is one.

        Raises:
            BackendError: The store did not take it, for another reason than
                that it is full or refuses this one.
            DeadlineExceededError: It did not answer in time.
        """
        return self._upload(keys, frames, deadline, Upload.replace)

    def quarantine(
        self, keys: Sequence[Key], reasons: Sequence[str], deadline: Deadline
    ) -> list[bool]:
        """Remove frames that failed verification, unless others have been written since.

        Raises:
            BackendError: The store did not let us.
            DeadlineExceededError: It did not answer in time.
        """
        deadline.check("removing damaged frames")
        del reasons
        work = []
        for key in keys:
            version, name = self._versions.take(key), frame_name(key)
            if version is None:
                work.append(self._remove(name))
            else:
                work.append(self._bucket.delete_version(name, version))
        return self._run(_all(work), deadline, "removing damaged frames")

    def scan(self) -> Iterator[tuple[Key, int]]:
        """Yield every frame, in the order of the store's own listing.

        Raises:
            BackendError: Not all can be told.
            DeadlineExceededError: A page of the listing did not come in time.
        """
        listing = self._bucket.listing(FRAMES)
        while page := self._run(listing.page(), Deadline(PAGE_SECONDS), "listing frames"):
            for name, nbytes in page:
                key = frame_key(name)
                if key is not None and nbytes:
                    yield key, nbytes

    def _upload(
        self,
        keys: Sequence[Key],
        frames: Sequence[memoryview],
        deadline: Deadline,
        send: Callable[[Upload, Bucket], Coroutine[Any, Any, Answer]],
    ) -> list[Answer]:
        deadline.check("writing frames")
        self._versions.forget(keys)
        uploads = [
            Upload(frame_name(key), frame, self._bucket.cut(frame.nbytes), creates=self._creates)
            for key, frame in zip(keys, frames, strict=True)
        ]
        try:
            work = _all([send(upload, self._bucket) for upload in uploads])
            return self._run(work, deadline, "writing frames")
        finally:
            for upload in uploads:
                upload.release()

    async def _remove(self, name: str) -> bool:
        if await self._bucket.head(name) is None:
            return False
        await self._bucket.delete(name)
        return True

    def _run(self, work: Coroutine[Any, Any, Answer], deadline: Deadline, what: str) -> Answer:
        try:
            return self._loops.run(work, deadline, what)
        except (BaseError, OSError) as error:
            raise failed(what, self._config.url, error) from error


async def _all(work: Sequence[Coroutine[Any, Any, Answer]]) -> list[Answer]:
    """Do all of it side by side; of several failures the first is told, when all are over."""
    if len(work) == 1:
        return [await work[0]]
    results = await asyncio.gather(*work, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results  # type: ignore[return-value]
