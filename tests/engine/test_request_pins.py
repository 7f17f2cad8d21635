"""Pins that requests ask for themselves, over real ZeroMQ to a controller that a test plays."""

from __future__ import annotations

import asyncio

import pytest

from lmcache_core.api.messages import Adopted, Heartbeat, PinCommand
from lmcache_core.api.pins import PinState
from lmcache_core.engine.control import request_pins
from lmcache_core.errors import LMCacheError
from tests.engine.rig import CHUNK_TOKENS, SLOT_BYTES, Rig
from tests.engine.test_agent import WAIT, conversation
from tests.engine.test_pins import ask

PROMPT = list(range(40))
ALLOWED = {
    "request_pin_owner": "requests",
    "request_pin_quota_bytes": 4 * SLOT_BYTES,
    "request_pin_max_ttl_seconds": 60.0,
}


def wish(rig, tokens=PROMPT, **asked):
    """Let a request that is being served ask for a pin, and finish."""
    name = rig.begin(tokens)
    rig.wait_match(name, len(tokens) - 1)
    try:
        return rig.engine.pin(name, len(tokens), asked)
    finally:
        rig.engine.finish(name)


async def next_local(controller):
    """The next pin that no ledger has acknowledged, as it is told of."""
    while True:
        beat = await controller.next(Heartbeat)
        if beat.pin_requests:
            (request,) = beat.pin_requests
            (report,) = [pin for pin in beat.pins if pin.pin_id == request.pin_id]
            return beat, request, report


def scene(act, **overrides):
    """Run a scenario against an engine that takes pins from requests."""

    async def scenario():
        async with conversation(chunks=10, overrides={**ALLOWED, **overrides}) as (rig, controller):
            await controller.welcome()
            async with asyncio.timeout(WAIT):
                await act(rig, controller)

    asyncio.run(scenario())


def test_a_request_pins_its_prompt_and_the_controller_is_told_until_it_has_it():
    async def act(rig, controller):
        rig.serve(PROMPT)
        promise = wish(rig, pin_id="mine", ttl_s=30)
        assert (promise.pin_id, promise.ttl_s) == ("mine", 30)
        for _ in range(2):
            beat, request, report = await next_local(controller)
            assert (request.pin_id, request.owner) == ("mine", "requests")
            assert (report.local, report.state) == (True, PinState.ACTIVE)
            assert report.tokens_pinned == len(PROMPT)
            assert 0 < report.ttl_seconds <= 30
        adopted = Adopted(
            instance_id=beat.instance_id,
            incarnation=beat.incarnation,
            versions={"mine": request.version, "another": 3},
        )
        await controller.send(adopted)
        while (await controller.next(Heartbeat)).pin_requests:
            pass
        assert rig.engine.tiers.pins.report("mine").tokens_pinned == len(PROMPT)
        for start in range(40):
            rig.serve([10_000 + start * 100 + i for i in range(CHUNK_TOKENS)])
        assert rig.hit(PROMPT) == len(PROMPT)

    scene(act)


def test_without_a_name_repeating_the_request_renews_one_pin():
    async def act(rig, controller):
        rig.serve(PROMPT)
        rig.serve(PROMPT[:20])
        first = wish(rig)
        _, one, _ = await next_local(controller)
        assert wish(rig).pin_id == first.pin_id
        assert wish(rig, PROMPT[:20]).pin_id != first.pin_id
        while True:
            beat = await controller.next(Heartbeat)
            versions = {r.pin_id: r.version for r in beat.pin_requests}
            if len(versions) == 2:
                break
        assert versions[first.pin_id] > one.version
        assert len(rig.engine.tiers.pins) == 2

    scene(act, request_pin_quota_bytes=8 * SLOT_BYTES)


def test_the_longest_time_is_the_default_and_the_bound():
    async def act(rig, _):
        rig.serve(PROMPT)
        assert wish(rig).ttl_s == 60
        assert wish(rig, ttl_s=1e9).ttl_s == 60
        assert wish(rig, ttl_s=0.5).ttl_s == 0.5

    scene(act)


def test_a_pin_waits_for_the_stores_of_its_tokens():
    async def act(rig, controller):
        name = rig.begin(PROMPT)
        tables = rig.tables_for(len(PROMPT))
        rig.wait_match(name, len(PROMPT) - 1)
        rig.compute(tables, PROMPT, rig.engine._requests[name].scope)
        job = rig.engine.plan_store(name, len(PROMPT), tables, final=True)
        rig.engine.pin(name, len(PROMPT), {"pin_id": "mine", "on_missing": "fail"})
        rig.engine.finish(name)
        for _ in range(2):
            assert not (await controller.next(Heartbeat)).pin_requests
        rig.store(job)
        rig.engine.acknowledge([job.job_id])
        _, _, report = await next_local(controller)
        assert report.tokens_pinned == len(PROMPT)

    scene(act)


def test_what_is_missing_at_the_end_is_as_was_asked(caplog):
    async def act(rig, controller):
        rig.serve(PROMPT[:20])
        wish(rig, pin_id="none", on_missing="fail")
        wish(rig, pin_id="part")
        _, request, report = await next_local(controller)
        assert (request.pin_id, report.state) == ("part", PinState.PARTIAL)
        assert report.tokens_pinned == 20
        assert rig.engine.tiers.pins.report("none") is None

    scene(act)
    assert "request_pin.refused" in caplog.text


def test_the_owner_never_takes_more_than_its_quota(caplog):
    async def act(rig, controller):
        for start in range(3):
            tokens = [1000 * (start + 1) + i for i in range(2 * CHUNK_TOKENS)]
            rig.serve(tokens)
            wish(rig, tokens, pin_id=f"p{start}")
        while len((await controller.next(Heartbeat)).pin_requests) < 2:
            pass
        await controller.next(Heartbeat)
        assert rig.engine.tiers.pins.ids() == ["p0", "p1"]
        assert rig.engine.tiers.memory.residents.pinned_bytes == 4 * SLOT_BYTES

    scene(act)
    assert "request_pin_quota" in caplog.text


def test_another_owners_pin_is_left_alone(caplog):
    async def act(rig, controller):
        rig.serve(PROMPT)
        await controller.ask(
            PinCommand(request_id="1", deadline_seconds=5, pin=ask(PROMPT[:16], "p", owner="ops"))
        )
        wish(rig, pin_id="p")
        wish(rig, pin_id="after")
        _, request, _ = await next_local(controller)
        assert request.pin_id == "after"
        assert rig.engine.tiers.pins.report("p").tokens_asked == 16

    scene(act)
    assert "another owner" in caplog.text


def test_a_pin_that_the_ledger_made_otherwise_is_not_local_any_more():
    async def act(rig, controller):
        rig.serve(PROMPT)
        wish(rig, pin_id="p")
        _, request, _ = await next_local(controller)
        newer = ask(PROMPT[:16], "p", owner="requests", version=request.version + 1)
        await controller.ask(PinCommand(request_id="1", deadline_seconds=5, pin=newer))
        await controller.next(Heartbeat)
        assert not (await controller.next(Heartbeat)).pin_requests

    scene(act)


def test_more_pins_than_may_wait_are_refused(monkeypatch):
    monkeypatch.setattr(request_pins, "MAX_LOCAL", 2)

    async def act(rig, controller):
        rig.serve(PROMPT)
        for name in ("a", "b"):
            wish(rig, PROMPT[:20], pin_id=name)
        while len((await controller.next(Heartbeat)).pin_requests) < 2:
            pass
        with pytest.raises(LMCacheError, match="2 to be acknowledged by the controller"):
            wish(rig, PROMPT[:20], pin_id="c")

    scene(act)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"pin_id": "a/b"}, "pin_id"),
        ({"pin_id": 3}, "pin_id"),
        ({"ttl_s": 0}, "ttl_s"),
        ({"ttl_s": "long"}, "ttl_s"),
        ({"on_missing": "guess"}, "on_missing"),
        ({"owner": "root"}, "owner"),
        ("yes", "object"),
        (None, "object"),
    ],
)
def test_a_wish_that_cannot_be_read_says_where(wrong, named):
    async def act(rig, _):
        name = rig.begin(PROMPT)
        with pytest.raises(LMCacheError, match=named):
            rig.engine.pin(name, len(PROMPT), wrong)

    scene(act)


def test_no_pins_are_taken_unless_the_configuration_allows_them():
    with Rig() as rig, pytest.raises(LMCacheError, match="request_pin_owner"):
        wish(rig)
