"""What the controller keeps is bounded."""

from __future__ import annotations

import pytest

from lmcache_core.api.messages import Register, TierStatus
from lmcache_core.controller import directory as directory_module
from lmcache_core.controller import jobs as jobs_module
from lmcache_core.controller.directory import Directory
from lmcache_core.controller.engine_record import EngineState
from lmcache_core.controller.failures import TooManyError
from lmcache_core.controller.jobs import Jobs, JobState
from lmcache_core.errors import UnknownNameError
from lmcache_core.keys import Namespace


def register(number: int) -> Register:
    return Register(
        instance_id=f"e{number}",
        incarnation=1,
        namespace=Namespace(model="m", weights="00"),
        tiers=(TierStatus(location="memory", kind="memory", capacity_bytes=1),),
    )


def test_engines_that_went_first_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory_module, "MAX_ENGINES", 3)
    now = [0.0]
    directory = Directory(clock=lambda: now[0], wall=lambda: now[0])
    for number in range(3):
        now[0] += 1
        directory.register(b"peer", register(number))
    with pytest.raises(TooManyError, match="3 engines"):
        directory.register(b"peer", register(3))
    for engine in directory:
        engine.state = EngineState.STOPPED
    directory.register(b"peer", register(3))
    assert [engine.instance_id for engine in directory] == ["e1", "e2", "e3"]


def test_an_engine_is_silent_after_three_heartbeats() -> None:
    now = [0.0]
    directory = Directory(clock=lambda: now[0], wall=lambda: now[0])
    engine = directory.register(b"peer", register(0))
    now[0] = 14.9
    assert directory.sweep() == []
    assert directory.heard(b"other", "e0", 1) is engine
    assert engine.peer == b"other"
    now[0] = 29.8
    assert directory.sweep() == []
    now[0] = 30.0
    assert directory.sweep() == [engine]
    assert directory.sweep() == []
    assert directory.heard(b"peer", "e0", 1) is None, "it has to register again"


def test_jobs_that_ended_first_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs_module, "MAX_JOBS", 3)
    jobs = Jobs()
    with jobs.track("Slow") as slow:
        for _ in range(5):
            with jobs.track("Pin") as job:
                assert job.state is JobState.RUNNING
        assert jobs.get(slow.event_id) is slow
    assert jobs.get(job.event_id).state is JobState.DONE
    with pytest.raises(ValueError, match="no"), jobs.track("Bad") as bad:
        raise ValueError("no")
    assert (jobs.get(bad.event_id).state, bad.detail) == (JobState.FAILED, "no")
    for _ in range(3):
        with jobs.track("Pin"):
            pass
    with pytest.raises(UnknownNameError):
        jobs.get(slow.event_id)
    assert jobs.outcomes["Pin", "done"] == 8
