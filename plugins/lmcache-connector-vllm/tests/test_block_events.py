"""Chunks that come and go, announced by vLLM to whoever routes by them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytestmark = pytest.mark.vllm

MEMORY = "LocalCPUBackend"


class Subscriber:
    """A router's end of vLLM's publisher, which dials here."""

    def __init__(self) -> None:
        import zmq

        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        port = self._socket.bind_to_random_port("tcp://127.0.0.1")
        self._socket.setsockopt(zmq.SUBSCRIBE, b"")
        self._socket.setsockopt(zmq.RCVTIMEO, 10_000)
        self.endpoint = f"tcp://127.0.0.1:{port}"

    def join(self, publish: Callable[[], object]) -> None:
        """Publish until something comes; what is sent before the ends know each other is lost."""
        deadline = time.monotonic() + 60
        while not self._socket.poll(100):
            assert time.monotonic() < deadline
            publish()

    def until(self, done: Callable[[list[Any]], bool]) -> list[Any]:
        """Events of the cache's own tiers until there is what was waited for."""
        import msgspec
        from vllm.distributed.kv_events import KVEventBatch

        events: list[Any] = []
        while not done(events):
            *_, payload = self._socket.recv_multipart()
            batch = msgspec.msgpack.decode(payload, type=KVEventBatch)
            events += [event for event in batch.events if event.medium in ("CPU", "STORAGE")]
        return events

    def close(self) -> None:
        self._context.destroy(linger=0)


@pytest.fixture
def router() -> Iterator[Subscriber]:
    subscriber = Subscriber()
    yield subscriber
    subscriber.close()


def test_chunks_are_announced_with_their_tokens_and_taken_back(
    serve: Callable[..., Any], fresh: Callable[[int], list[int]], shelf: Any, router: Subscriber
) -> None:
    from vllm.config import KVEventsConfig

    tiers = [{"backend": MEMORY, "max_size": 0.01}, {"backend": "shelf", "max_size": 0.1}]
    serving = serve(
        lmcache={"storage": tiers},
        kv_events_config=KVEventsConfig(enable_kv_cache_events=True, endpoint=router.endpoint),
    )
    try:
        router.join(lambda: serving.ask_one(fresh(40)))
        ids = fresh(150)
        serving.ask_one(ids)
        serving.ask_one(fresh(40))  # Events travel in steps.
        events = router.until(
            lambda found: any(getattr(e, "token_ids", None) == ids[128:] for e in found)
        )
        mine = {e.block_hashes[0]: e for e in events if e.medium == "CPU" and e.token_ids != []}
        first = next(e for e in mine.values() if e.token_ids == ids[:64])
        assert (first.parent_block_hash, first.block_size, first.ownership) == (None, 64, MEMORY)
        second = next(e for e in mine.values() if e.parent_block_hash == first.block_hashes[0])
        assert second.token_ids == ids[64:128]
        tail = next(e for e in mine.values() if e.parent_block_hash == second.block_hashes[0])
        assert tail.token_ids == ids[128:]
        below = [e for e in events if e.medium == "STORAGE"]
        if not below:
            serving.ask_one(fresh(40))
            below = router.until(lambda found: any(e.medium == "STORAGE" for e in found))
        assert {e.ownership for e in below} == {"shelf"}

        tiers_of = serving.engine.tiers
        assert tiers_of.drop(MEMORY, [first.block_hashes[0]], force=True) == 64
        serving.ask_one(fresh(40))
        gone = router.until(lambda found: any(type(e).__name__ == "BlockRemoved" for e in found))
        (removed,) = (e for e in gone if type(e).__name__ == "BlockRemoved")
        assert (removed.block_hashes, removed.medium) == (first.block_hashes, "CPU")

        salted = fresh(64)
        serving.ask_one(salted, salt="s")
        serving.ask_one(fresh(40))
        stored = router.until(
            lambda found: any(getattr(e, "token_ids", None) == salted for e in found)
        )
        (private,) = (
            e for e in stored if getattr(e, "token_ids", None) == salted and e.medium == "CPU"
        )
        assert private.parent_block_hash is not None
    finally:
        serving.llm.llm_engine.engine_core.engine_core.scheduler.kv_event_publisher.shutdown()


def test_nothing_is_kept_for_nobody(
    serve: Callable[..., Any], fresh: Callable[[int], list[int]]
) -> None:
    serving = serve()
    serving.ask_one(fresh(100))
    assert serving.connector.take_events() == ()
    assert not serving.engine.take_changes()
