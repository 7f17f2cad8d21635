"""``/compress`` and ``/decompress`` against a controller and an engine over a real disk."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from lmcache_core.api.messages import RecodeCommand
from lmcache_core.config import TierConfig
from tests.controller.controller_process import ControllerProcess
from tests.controller.engine_peer import DISK, MEMORY, eventually
from tests.engine.rig import CHUNK_TOKENS, SLOT_BYTES, Rig
from tests.engine.test_storage_tier import settle

CHUNKS = 8
TOKENS = list(range(100, 100 + 3 * CHUNK_TOKENS))
BLOCK_BYTES = 4096


def disk_rig(controller: ControllerProcess, folder: Path) -> Rig:
    section = {"path": str(folder)}
    overrides: dict[str, object] = {
        "enable_controller": True,
        "controller_url": controller.monitor,
        "instance_id": "packing",
        "heartbeat_seconds": 0.3,
        "tiers": (
            TierConfig(MEMORY, CHUNKS * 4 * SLOT_BYTES),
            TierConfig(DISK, 1 << 30, section),
        ),
    }
    return Rig(chunks=CHUNKS, overrides=overrides, block_bytes=BLOCK_BYTES)


@pytest.fixture
def engine(controller: ControllerProcess, tmp_path: Path) -> Iterator[Rig]:
    with disk_rig(controller, tmp_path) as made:
        eventually(lambda: controller.state("packing") == "live")
        made.serve(TOKENS)
        settle(made)
        yield made


def ask(controller: ControllerProcess, path: str, **extra: object) -> httpx.Response:
    body = {"instance_id": "packing", "method": "zstd", "location": DISK, **extra}
    return controller.post(path, **body)


def used(controller: ControllerProcess) -> int:
    tiers = controller.instance("packing")["tiers"]
    return int(next(tier["used_bytes"] for tier in tiers if tier["location"] == DISK))


def test_a_prompt_is_compressed_and_decompressed(
    controller: ControllerProcess, engine: Rig, tmp_path: Path
) -> None:
    before = engine.engine.tiers.status()[1].used_bytes
    answer = ask(controller, "/compress", tokens=TOKENS)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body.pop("event_id").startswith("Compress_")
    saved = body.pop("saved_bytes")
    assert body == {"num_tokens": len(TOKENS), "chunks": {"recoded": 3}}
    assert saved == before - engine.engine.tiers.status()[1].used_bytes > 0
    files = sum(path.stat().st_size for path in tmp_path.rglob("*") if len(path.name) > 60)
    assert files == before - saved
    event = answer.json()["event_id"]
    assert controller.post("/check_finish", event_id=event).json() == {"status": "done"}
    job = controller.client.get(f"/v1/jobs/{event}").json()
    assert (job["state"], job["num_tokens"]) == ("done", len(TOKENS))
    assert ask(controller, "/compress", tokens=TOKENS).json()["num_tokens"] == 0
    engine.engine.tiers.drop(MEMORY, engine.engine.tiers.keys(MEMORY), force=True)
    assert engine.serve(TOKENS) == len(TOKENS) - 1
    back = ask(controller, "/decompress", tokens=[]).json()
    assert (back["num_tokens"], back["saved_bytes"]) == (len(TOKENS), -saved)
    assert engine.engine.tiers.status()[1].used_bytes == before


@pytest.mark.parametrize(
    ("extra", "status", "words"),
    [
        ({"location": MEMORY}, 409, "storage tier: LocalDiskBackend"),
        ({"method": "cachegen"}, 404, "zstd"),
        ({"method": "zstd,"}, 404, "zstd"),
        ({"method": "aesgcm"}, 422, "aesgcm"),
        ({"method": ""}, 422, "method"),
        ({"location": "Nowhere"}, 404, "LocalDiskBackend"),
        ({"instance_id": "nobody"}, 404, "packing"),
        ({"tokens": [-1]}, 422, "tokens"),
        ({"prompt": "a", "tokens": [1]}, 422, "one of"),
    ],
)
@pytest.mark.parametrize("path", ["/compress", "/decompress"])
def test_what_cannot_be_is_a_problem_that_says_what_to_do(
    controller: ControllerProcess,
    engine: Rig,
    path: str,
    extra: dict[str, object],
    status: int,
    words: str,
) -> None:
    answer = ask(controller, path, **extra)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert words in answer.text


def test_a_job_shows_how_far_it_is_and_fails_with_what_was_done(
    controller: ControllerProcess, engine: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    tier = engine.engine.tiers.storage[0]
    monkeypatch.setattr(tier.recoder, "_clock", lambda: -1.0)
    answer = ask(controller, "/compress", timeout_s=0.6)
    assert answer.status_code == 504
    assert answer.json()["facts"]["left_chunks"] == 3
    (job,) = controller.client.get("/v1/jobs?operation=Compress&limit=1").json()["jobs"]
    assert (job["state"], job["num_tokens"]) == ("failed", 0)
    assert (job["chunks_done"], job["chunks"]) == (0, 3)


def test_what_a_killed_controller_had_begun_is_unknown(own_controller: ControllerProcess) -> None:
    with own_controller.peer("slow") as peer:
        peer.answering = False
        body = {"instance_id": "slow", "method": "zstd", "location": DISK, "tokens": TOKENS}

        def ask_in_vain() -> None:
            with pytest.raises(httpx.HTTPError):
                httpx.post(f"{own_controller.url}/compress", json=body, timeout=30)

        asker = threading.Thread(target=ask_in_vain)
        asker.start()
        eventually(lambda: peer.asked(RecodeCommand))
        (command,) = peer.asked(RecodeCommand)
        assert (command.serdes, command.undo) == (("zstd",), False)
        peer.tell_progress(command, 1, 3)

        def shown() -> dict[str, object]:
            (job,) = own_controller.client.get("/v1/jobs?operation=Compress").json()["jobs"]
            return dict(job)

        eventually(lambda: shown()["chunks_done"] == 1)
        event = shown()["event_id"]
        running = own_controller.post("/check_finish", event_id=event).json()
        assert running == {
            "status": "running", "asked": 1, "answered": 0, "chunks": 3, "chunks_done": 1
        }  # fmt: skip
        # What it has begun is in the ledger's file with the next commit.
        pin = {"instance_id": "slow", "location": MEMORY, "tokens": TOKENS}
        peer.answering = True
        assert own_controller.post("/pin", **pin).status_code == 200
        own_controller.kill()
        asker.join()
        own_controller.start()
        job = own_controller.client.get(f"/v1/jobs/{event}").json()
        assert job["state"] == "unknown"
        assert own_controller.post("/check_finish", event_id=event).json() == {"status": "unknown"}


def test_an_engine_that_goes_fails_the_job(controller: ControllerProcess) -> None:
    with controller.peer("leaving") as peer:
        peer.answering = False
        answers: list[httpx.Response] = []
        body = {"instance_id": "leaving", "method": "zstd", "location": DISK}
        asker = threading.Thread(
            target=lambda: answers.append(httpx.post(f"{controller.url}/compress", json=body))
        )
        asker.start()
        eventually(lambda: peer.asked(RecodeCommand))
        peer.stop()
        asker.join()
    assert answers[0].status_code == 503
    (job,) = controller.client.get("/v1/jobs?operation=Compress&limit=1").json()["jobs"]
    assert job["state"] == "failed"
