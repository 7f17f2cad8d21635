"""``/move`` between two engines, over one real Redis and by way of a real controller."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from lmcache_core.config import TierConfig
from lmcache_core.keys import Scope, tokens_to_bytes
from tests.controller.controller_process import ControllerProcess
from tests.controller.engine_peer import DISK, MEMORY, EnginePeer, eventually
from tests.engine.rig import CHUNK_TOKENS, FRAME_BYTES, SLOT_BYTES, Rig
from tests.engine.test_storage_tier import settle
from tests.net.redis_servers import RedisServer, need_redis

CHUNKS = 8
TOKENS = list(range(100, 100 + 3 * CHUNK_TOKENS))
WHOLE = len(TOKENS)

Start = Callable[..., Rig]


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    need_redis()
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def start(controller: ControllerProcess, redis: RedisServer, tmp_path: Path) -> Iterator[Start]:
    """Start engines that share the server; it is empty before each test."""
    redis.run("FLUSHALL")
    with ExitStack() as stack:

        def start(instance_id: str, *, disk: bool = False, **overrides: object) -> Rig:
            below = (
                [TierConfig(DISK, CHUNKS * FRAME_BYTES, {"path": str(tmp_path)})] if disk else []
            )
            tiers = (
                TierConfig(MEMORY, CHUNKS * SLOT_BYTES),
                *below,
                TierConfig("redis", None, {"url": redis.url}),
            )
            made = stack.enter_context(
                Rig(
                    chunks=CHUNKS,
                    overrides={
                        "enable_controller": True,
                        "controller_url": controller.monitor,
                        "instance_id": instance_id,
                        "heartbeat_seconds": 0.3,
                        "tiers": tiers,
                        **overrides,
                    },
                )
            )
            eventually(lambda: controller.state(instance_id) == "live")
            return made

        yield start


def move(
    controller: ControllerProcess, old: tuple[str, str], new: tuple[str, str], **extra: object
) -> httpx.Response:
    body = {"old_position": old, "new_position": new, "tokens": TOKENS, **extra}
    return controller.post("/move", **body)


def held(rig: Rig, location: str) -> int:
    return rig.engine.tiers.covered(tokens_to_bytes(TOKENS), Scope())[location]


def forget(rig: Rig, location: str) -> None:
    """Let what is below be there, unless it is told to go from there, too."""
    tiers = rig.engine.tiers
    tiers.drop(location, tiers.keys(location), force=True)


@pytest.mark.parametrize("target", [MEMORY, DISK])
def test_a_prompt_goes_from_one_engine_to_another(
    controller: ControllerProcess, start: Start, redis: RedisServer, target: str
) -> None:
    one, other = start("one"), start("other", disk=True)
    one.serve(TOKENS)
    settle(one)
    forget(one, "redis")
    settle(one)
    assert len(redis.run("KEYS", "lmcache:*")) == 1, "its name is all that it has"
    answer = move(controller, ("one", MEMORY), ("other", target))
    assert (answer.status_code, answer.json()["num_tokens"]) == (200, WHOLE)
    assert (held(one, MEMORY), held(other, target)) == (0, WHOLE)
    job = controller.client.get(f"/v1/jobs/{answer.json()['event_id']}").json()
    assert (job["state"], job["num_tokens"], job["asked"]) == ("done", WHOLE, 3)
    redis.run("FLUSHALL")
    assert other.serve(TOKENS) == WHOLE - 1


def test_a_copy_stays_where_it_was(controller: ControllerProcess, start: Start) -> None:
    one, other = start("one"), start("other")
    one.serve(TOKENS)
    answer = move(controller, ("one", MEMORY), ("other", MEMORY), should_copy=True)
    assert answer.json()["num_tokens"] == WHOLE
    assert held(one, MEMORY) == held(other, MEMORY) == WHOLE
    assert other.serve(TOKENS) == WHOLE - 1


def test_only_what_was_there_arrives_and_only_that_leaves(
    controller: ControllerProcess, start: Start
) -> None:
    one, other = start("one"), start("other")
    one.serve(TOKENS[: 2 * CHUNK_TOKENS])
    answer = move(controller, ("one", MEMORY), ("other", MEMORY))
    assert answer.json()["num_tokens"] == held(other, MEMORY) == 2 * CHUNK_TOKENS
    assert move(controller, ("one", MEMORY), ("other", MEMORY), tags={"a": "b"}).json()[
        "num_tokens"
    ] == 0  # fmt: skip
    assert held(one, MEMORY) == 0


def test_what_the_other_engine_has_no_room_for_stays(
    controller: ControllerProcess, start: Start
) -> None:
    one, other = start("one"), start("other")
    pinned = list(range(5000, 5000 + (CHUNKS - 2) * CHUNK_TOKENS))
    other.serve(pinned)
    body = {"instance_id": "other", "location": MEMORY, "tokens": pinned}
    assert controller.post("/pin", **body).json()["num_tokens"] == len(pinned)
    one.serve(TOKENS)
    answer = move(controller, ("one", MEMORY), ("other", MEMORY))
    assert answer.json()["num_tokens"] == 2 * CHUNK_TOKENS == held(other, MEMORY)
    with one.engine.tiers.lock:
        assert len(one.engine.tiers.memory.residents) == 1, "what has not arrived has not left"
    assert controller.post("/unpin", **body).status_code == 200


def test_what_is_pinned_is_refused_and_may_be_copied(
    controller: ControllerProcess, start: Start
) -> None:
    one, other = start("one"), start("other")
    one.serve(TOKENS)
    body = {"instance_id": "one", "location": MEMORY, "tokens": TOKENS}
    assert controller.post("/pin", **body).json()["num_tokens"] == WHOLE
    answer = move(controller, ("one", MEMORY), ("other", MEMORY))
    assert answer.status_code == 409
    assert "should_copy" in answer.json()["detail"]
    assert (held(one, MEMORY), held(other, MEMORY)) == (WHOLE, 0)
    copied = move(controller, ("one", MEMORY), ("other", MEMORY), should_copy=True)
    assert copied.json()["num_tokens"] == WHOLE
    assert controller.post("/unpin", **body).json()["num_tokens"] == WHOLE


def test_from_the_shared_store_and_into_it(
    controller: ControllerProcess, start: Start, redis: RedisServer
) -> None:
    one, other = start("one"), start("other")
    one.serve(TOKENS)
    settle(one)
    forget(one, MEMORY)
    same = move(controller, ("one", "redis"), ("other", "redis"))
    assert (same.status_code, "same store" in same.json()["detail"]) == (422, True)
    up = move(controller, ("one", "redis"), ("other", MEMORY))
    assert up.json()["num_tokens"] == held(other, MEMORY) == WHOLE
    settle(one)
    assert len(redis.run("KEYS", "lmcache:*")) == 1
    down = move(controller, ("other", MEMORY), ("one", "redis"))
    assert down.json()["num_tokens"] == WHOLE
    assert held(other, MEMORY) == 0
    assert one.serve(TOKENS) == WHOLE - 1


def test_instances_that_share_no_store_are_told_what_they_have(
    controller: ControllerProcess, start: Start, peer: EnginePeer
) -> None:
    one = start("one")
    alone = EnginePeer(controller.monitor, "alone", namespace=one.engine.tiers.namespace)
    with alone:
        answer = move(controller, ("one", MEMORY), ("alone", MEMORY))
        assert answer.status_code == 409
        detail = answer.json()["detail"]
        for words in ("redis (shared, redis:", f"{DISK} (its own)", "'alone' has", "give both"):
            assert words in detail
    unlike = move(controller, ("one", MEMORY), (peer.instance_id, MEMORY))
    assert unlike.status_code == 409
    assert "'rig' under namespace" in unlike.json()["detail"]
    assert "'peer' under" in unlike.json()["detail"]
    for position, status in ((("nobody", MEMORY), 404), ((peer.instance_id, "nowhere"), 404)):
        assert move(controller, ("one", MEMORY), position).status_code == status


def test_a_store_that_is_away_moves_nothing_and_says_how_far_it_came(
    controller: ControllerProcess, start: Start, redis: RedisServer
) -> None:
    one, other = start("one", storage_timeout_seconds=0.3), start("other")
    one.serve(TOKENS)
    settle(one)
    forget(one, "redis")
    settle(one)
    redis.freeze()
    try:
        answer = move(controller, ("one", MEMORY), ("other", MEMORY), timeout_s=2)
        assert answer.status_code in {200, 504}
        assert answer.json().get("num_tokens", 0) == 0
        assert (held(one, MEMORY), held(other, MEMORY)) == (WHOLE, 0)
    finally:
        redis.thaw()
