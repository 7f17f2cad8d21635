"""One real server with a stranger's backend as its third tier, through everything.

The backend is what the tutorial "Your first backend" begins with, the tiers
are those of its configuration: host memory, the disk, the stranger. All tests
share one vLLM, because it takes a minute to start; each uses prompts of its
own and leaves both servers as it found them.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import yaml

from tests.docs.blocks import commands_in
from tests.e2e.stack import INSTANCE, MEMORY, Stack, build_stranger, search_path, until

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

STRANGER = "ShelfBackend"
DISK = "LocalDiskBackend"
PAGE = (Path(__file__).parents[2] / "docs" / "tutorial" / "first-backend.md").read_text()
CACHE_TOKENS = 4096
CHUNK = 256


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return build_stranger(tmp_path_factory.mktemp("stranger"))


@pytest.fixture(scope="module")
def stack(tmp_path_factory, site):
    folder = tmp_path_factory.mktemp("stack")
    (shown,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    memory, *below = yaml.safe_load(shown)["storage"]
    assert [memory["backend"], *(tier["backend"] for tier in below)] == [MEMORY, DISK, STRANGER]
    below = [{**tier, "path": str(folder / tier["backend"])} for tier in below]
    stack = Stack(folder, CACHE_TOKENS, below, site)
    try:
        stack.start()
        yield stack
    finally:
        stack.stop()


@pytest.fixture
def prompt(request):
    """Makes prompts that share nothing with those of other tests."""
    rng = random.Random(request.node.name)
    return lambda length: [rng.randrange(20, 500) for _ in range(length)]


def found(stack, pin_id):
    """A pin as the controller has it, or None."""
    try:
        return stack.get(f"v1/pins/{pin_id}")
    except httpx.HTTPStatusError:
        return None


def flood(stack, factor=3):
    rng = random.Random(time.monotonic_ns())
    for _ in range(factor * CACHE_TOKENS // 1024 + 1):
        stack.complete([rng.randrange(20, 500) for _ in range(1024)], 1)


def from_below(stack):
    """Tokens of hits that came from tiers below host memory."""
    return sum(n for source, n in stack.cached_from().items() if source not in ("host", "device"))


def comes_from_below(stack, prompt):
    """Of a prompt that nobody has pinned, host memory has nothing."""
    before = from_below(stack)
    cached = stack.complete(prompt)[1]
    assert cached == len(prompt) - 1
    until("all of it is counted from below", lambda: from_below(stack) == before + cached)


def test_the_stranger_is_listed(site):
    command = [str(Path(sys.executable).with_name("lmcache")), "plugins", "--json"]
    listed = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": search_path(site)},
        capture_output=True,
        check=True,
        timeout=60,
        text=True,
    )
    assert STRANGER in listed.stdout
    json.loads(listed.stdout)


def test_a_pin_right_after_the_answer_pins_all_of_the_prompt(stack, prompt):
    for length in (12, 300, 700):
        tokens = prompt(length)
        stack.complete(tokens, 1)
        answer = stack.pin(tokens)
        assert answer.json()["num_tokens"] == length, answer.text
        stack.post("unpin", {"event_id": answer.json()["event_id"]}).raise_for_status()


def test_never_seen_tokens_pin_nothing_and_a_cached_prefix_is_pinned(stack, prompt):
    tokens = prompt(700)
    assert stack.pin(tokens).json()["num_tokens"] == 0
    stack.complete(tokens[:300], 1)
    assert stack.pin(tokens).json()["num_tokens"] == 300
    assert stack.post("clear", {"instance_id": INSTANCE, "location": MEMORY}).status_code == 200
    assert stack.pin(tokens).json()["num_tokens"] == 300, "clear passes over what is pinned"


def test_the_pinned_prompt_survives_a_flood_of_three_caches(stack, prompt):
    pinned, other = prompt(100), prompt(100)
    cold, _ = stack.complete(pinned)
    stack.complete(other)
    assert stack.pin(pinned).json()["num_tokens"] == 100
    before = stack.cached_from().get("host", 0)
    flood(stack)
    warm, cached = stack.complete(pinned)
    assert (warm, cached) == (cold, 99)
    assert stack.cached_from()["host"] >= before + 99
    comes_from_below(stack, other)


def test_the_third_tier_serves_what_both_above_have_lost(stack, prompt):
    """Its pins hold through a restart of the controller, which learns of it by events."""
    tokens = prompt(2 * CHUNK + 40)
    cold, _ = stack.complete(tokens)
    until(
        "the frames are pinned in the third tier",
        lambda: stack.pin(tokens, STRANGER).json()["num_tokens"] == len(tokens),
    )
    stack.controller.stop()
    flood(stack)
    stack.start_controller()
    for location in (MEMORY, DISK):
        body = {"instance_id": INSTANCE, "location": location, "tokens": tokens}
        stack.post("clear", body).raise_for_status()
    until(
        "the events have told that only the third tier has them",
        lambda: (
            stack.post("lookup", {"tokens": tokens}).json()["layout_info"]
            == {INSTANCE: [STRANGER, len(tokens)]}
        ),
    )
    below = stack.cached_from_below()
    warm, cached = stack.complete(tokens)
    assert (warm, cached) == (cold, len(tokens) - 1)
    assert stack.cached_from_below() == below + len(tokens) - 1
    assert stack.pin(tokens, STRANGER).json()["num_tokens"] == len(tokens)


def test_a_completion_pins_its_own_prompt(stack, prompt):
    tokens, other = prompt(100), prompt(100)
    wish = {"lmcache.pin": {"ttl_s": 300}}
    response = stack.respond(tokens, kv_transfer_params=wish)
    promise = response["kv_transfer_params"]["lmcache.pin"]
    assert promise["ttl_s"] == 300
    stack.complete(other)
    pin = until("the pin is in the ledger", lambda: found(stack, promise["pin_id"]))
    assert (pin["owner"], pin["state"], pin["num_tokens"]) == ("requests", "active", 100)
    flood(stack)
    assert stack.complete(tokens) == (response["choices"][0]["token_ids"], 99)
    comes_from_below(stack, other)
    wrong = {"lmcache.pin": {"ttl_s": -1}}
    refusal = stack.respond(prompt(12), kv_transfer_params=wrong)["kv_transfer_params"]
    assert "ttl_s" in refusal["lmcache.pin"]["error"]


@pytest.mark.skipif(shutil.which("curl") is None, reason="the tutorial needs curl")
def test_what_the_tutorial_asks_is_answered_as_it_says(stack):
    typed = {
        "localhost:8000": f"localhost:{stack.vllm_port}",
        "localhost:9000": f"localhost:{stack.controller_port}",
        "tiny-llama": "m",
        "lmcache_default_instance": INSTANCE,
        "/tmp/first-backend/shelf": str(stack.folder / STRANGER),
    }

    def answer(command):
        for shown, here in typed.items():
            command = command.replace(shown, here)
        run = subprocess.run(
            ["bash", "-c", command], capture_output=True, check=True, text=True, timeout=120
        )
        return run.stdout

    serving = commands_in(PAGE.partition("## Serve with it")[2])
    ask, files, pin, *clear, lookup = [c for c in serving if c.startswith(("curl", "ls"))]
    before = set(answer(files).split())
    first = json.loads(answer(ask))
    until("three files are there", lambda: len(set(answer(files).split()) - before) == 3)
    assert json.loads(answer(pin))["num_tokens"] == 600
    for command in clear:
        assert "num_tokens" in json.loads(answer(command))
    until(
        "only the third tier has them",
        lambda: json.loads(answer(lookup))["layout_info"] == {INSTANCE: [STRANGER, 600]},
    )
    again = json.loads(answer(ask))
    assert again["choices"][0]["text"] == first["choices"][0]["text"]
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] == 599


def test_the_stranger_is_a_tier_like_any_other(stack, prompt):
    tokens = prompt(CHUNK)
    stack.complete(tokens, 1)
    until("the frame is there", lambda: stack.pin(tokens, STRANGER).json()["num_tokens"] == CHUNK)
    tiers = stack.get(f"v1/instances/{INSTANCE}")["tiers"]
    assert [tier["location"] for tier in tiers] == [MEMORY, DISK, STRANGER]
    body = {"instance_id": INSTANCE, "location": STRANGER, "tokens": tokens}
    assert stack.post("clear", body).json()["num_tokens"] == 0, "clear passes over what is pinned"
    assert stack.post("clear", {**body, "force": True}).json()["num_tokens"] == CHUNK
    assert stack.post("health", {"instance_id": INSTANCE}).json()["error_codes"] == {"0": 0}


def test_sixty_four_pins_at_once_all_succeed(stack, prompt):
    tokens = prompt(300)
    stack.complete(tokens, 1)
    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(lambda n: stack.pin(tokens[: 200 + n]), range(64)))
    assert [answer.json()["num_tokens"] for answer in answers] == [200 + n for n in range(64)]
    for answer in answers:
        assert stack.post("unpin", {"event_id": answer.json()["event_id"]}).status_code == 200


def test_a_frozen_engine_costs_a_deadline_and_recovers_by_itself(stack, prompt):
    tokens = prompt(60)
    cold, _ = stack.complete(tokens)
    core = stack.engine_core()
    stack.freeze(core)
    try:
        begin = time.monotonic()
        answer = stack.pin(tokens)
        assert answer.status_code in (503, 504)
        assert answer.headers["content-type"].startswith("application/problem+json")
        assert time.monotonic() - begin < 15
    finally:
        stack.thaw(core)
    until("the engine is back", stack.registered)
    assert stack.complete(tokens) == (cold, 59)
    until("pins work again", lambda: stack.pin(tokens).status_code == 200)


def test_a_frozen_controller_does_not_stop_the_server(stack, prompt):
    tokens = prompt(60)
    stack.freeze(stack.controller.pid)
    try:
        cold, _ = stack.complete(tokens)
        assert stack.complete(tokens) == (cold, 59)
    finally:
        stack.thaw(stack.controller.pid)
    until("pins work again", lambda: stack.pin(tokens).status_code == 200)
    assert stack.pin(tokens).json()["num_tokens"] == 60


def test_a_killed_controller_is_replaced_and_the_pins_are_there(stack, prompt):
    tokens = prompt(60)
    stack.complete(tokens)
    pinned = stack.pin(tokens)
    os.kill(stack.controller.pid, signal.SIGKILL)
    stack.controller.stop()
    with pytest.raises(httpx.HTTPError):
        stack.pin(tokens)
    assert stack.complete(tokens)[1] == 59
    stack.start_controller()
    assert pinned.status_code == 200
    held = until("the pins are adopted", lambda: stack.get("v1/pins"))
    assert json.dumps(held).count("pin_id") >= 1
    assert stack.pin(tokens).json()["num_tokens"] == 60


def test_unknown_names_are_answered_with_the_known_ones(stack, prompt):
    answer = stack.post("pin", {"instance_id": "x", "location": MEMORY, "tokens": [1]})
    assert (answer.status_code, INSTANCE in answer.text) == (404, True)
    answer = stack.pin([1], "NoSuchBackend")
    assert (answer.status_code, STRANGER in answer.text) == (404, True)
    for tokens in ([], [-1], [2**32], [1.5], ["a"], [True], None):
        answer = stack.post("pin", {"instance_id": INSTANCE, "location": MEMORY, "tokens": tokens})
        assert answer.status_code == 422, tokens
