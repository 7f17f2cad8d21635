"""The pin example, typed as the tutorial prints it, against real vLLM."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from examples.pin.quickstart.client import Reading, ask, cached_by_source, get_text, post
from examples.pin.quickstart.problem import Problem
from examples.pin.quickstart.server import Server
from examples.tiny_model.make_tiny_llama import PIN_PROMPT
from tests.docs.blocks import commands
from tests.net.ports import free_ports

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]
MODEL = "tiny-llama"
INSTANCE = "lmcache_default_instance"
MEMORY = "LocalCPUBackend"
START_SECONDS = 280.0
CACHE_TOKENS = 4096
KV_BYTES_PER_TOKEN = 2 * 2 * 2 * 32 * 2
"""Of the tiny model as vLLM computes it: two layers, K and V, two heads of 32, two bytes."""


@dataclass
class Example:
    """The example's servers, and what the tutorial tells a person to type."""

    ports: dict[str, str]
    folder: Path
    environment: dict[str, str]

    def typed(self, pattern: str) -> list[str]:
        """The tutorial's commands that match, with this run's ports in them."""
        shown = commands(ROOT / "docs/tutorial/pin.md")
        printed = re.compile(rf"\b({'|'.join(self.ports)})\b")
        return [
            printed.sub(lambda port: self.ports[port[0]], line) for line in shown if pattern in line
        ]

    def run(self, command: str) -> str:
        """Type a command and return what it prints."""
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", command],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @property
    def vllm_url(self) -> str:
        return f"http://localhost:{self.ports['8000']}"

    @property
    def controller_url(self) -> str:
        return f"http://localhost:{self.ports['9000']}"

    def ask(self, prompt: str | list[int], max_tokens: int = 8) -> Reading:
        return ask(self.vllm_url, MODEL, prompt, max_tokens)

    def pin(self, prompt: str) -> dict[str, Any]:
        body = {"model": MODEL, "prompt": prompt}
        tokens = post(f"{self.vllm_url}/tokenize", body)["tokens"]
        return post(
            f"{self.controller_url}/pin",
            {"tokens": tokens, "instance_id": INSTANCE, "location": MEMORY},
        )

    def flood(self, caches: int) -> None:
        """Let other prompts through, so many times the cache's size."""
        asked = 0
        while asked < caches * CACHE_TOKENS:
            asked += self.ask(f"Flood {time.monotonic_ns()}:" + " river" * 1000, 1).prompt_tokens


def until(what: str, done: Callable[[], bool], servers: list[Server], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        for server in servers:
            assert server.exit_code is None, server.last_lines(40)
        assert time.monotonic() < deadline, f"{what}: not so after {seconds} s"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def example(tmp_path_factory, run_server, clean_environment):
    folder = tmp_path_factory.mktemp("example")
    (folder / "examples").symlink_to(ROOT / "examples")
    programs = Path(sys.executable).parent
    clean_environment = clean_environment | {
        "PATH": f"{programs}{os.pathsep}{clean_environment['PATH']}"
    }
    ports = dict(zip(("8000", "9000", "9001"), map(str, free_ports(3)), strict=True))
    example = Example(ports, folder, clean_environment)
    (make_model,) = example.typed("make_tiny_llama.py")
    example.run(make_model)
    (controller,) = example.typed("lmcache_controller")
    (serve,) = example.typed("vllm serve")
    variables = {
        "PATH": example.environment["PATH"],
        "LMCACHE_CONTROLLER_URL": f"localhost:{ports['9001']}",
        # So that the controller has it tokenise text.
        "LMCACHE_SERVING_URL": f"http://localhost:{ports['8000']}",
        # The printed size is a flood of 15 GiB.
        "LMCACHE_MAX_LOCAL_CPU_SIZE": f"{CACHE_TOKENS * KV_BYTES_PER_TOKEN / 2**30:.6f}",
        "VLLM_HOST_IP": "127.0.0.1",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
    }
    started = [
        run_server(
            Server(
                line.split()[0],
                ["bash", "-c", f"cd {folder} && {line}"],
                folder / f"{name}.log",
                variables,
            )
        )
        for name, line in (("controller", controller), ("vllm", serve))
    ]
    health = f"{example.vllm_url}/health"
    until("vLLM answers", lambda: get_text(health) is not None, started, START_SECONDS)
    until("the engine has registered", lambda: registered(example), started, 30)
    return example


def registered(example: Example) -> bool:
    try:
        body = {"instance_id": INSTANCE}
        answer = post(f"{example.controller_url}/query_worker_info", body)
    except Problem:
        return False
    return bool(answer["worker_infos"])


def test_the_tutorial_as_printed(example):
    first, second = example.typed("/v1/completions")
    assert json.loads(example.run(first))["usage"]["prompt_tokens"] == 12

    (tokenize,) = example.typed("/tokenize")
    tokens = json.loads(example.run(tokenize))["tokens"]
    page = (ROOT / "docs/tutorial/pin.md").read_text()
    assert json.dumps(tokens, separators=(",", ":")) in page, "the page shows other ids"

    (pin,) = example.typed("/pin ")
    answer = json.loads(example.run(pin.replace("TOKENS", json.dumps(tokens))))
    assert answer == {"event_id": answer["event_id"], "num_tokens": 12}
    assert answer["event_id"].startswith("Pin_")

    before = cached_by_source(example.vllm_url)
    usage = json.loads(example.run(second))["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] == 11
    (metrics,) = example.typed("cached_by_source")
    counted = dict(re.findall(r'source="(\w+)"\} ([\d.]+)', example.run(metrics)))
    assert float(counted["host"]) == before.get("host", 0) + 11
    assert float(counted["device"]) == 0, "vLLM's own prefix cache is off"

    (listing,) = example.typed("/pins")
    assert INSTANCE in example.run(listing)
    (unpin,) = example.typed("/unpin")
    released = json.loads(example.run(unpin.replace("TOKENS", json.dumps(tokens))))
    assert released["num_tokens"] == 12


def test_a_pinned_prompt_survives_a_flood_of_three_caches_and_an_unpinned_one_does_not(example):
    long = "Handbook:" + " castle garden museum" * 100
    other = "Novel:" + " castle garden museum" * 100
    cold = {text: example.ask(text) for text in (PIN_PROMPT, long, other)}
    for text in (PIN_PROMPT, long):
        assert example.pin(text)["num_tokens"] == cold[text].prompt_tokens
    assert example.ask(other).cached_tokens == cold[other].prompt_tokens - 1, "it was cached too"
    example.flood(3)
    for text in (PIN_PROMPT, long):
        warm = example.ask(text)
        assert warm.sources == {"host": cold[text].prompt_tokens - 1}
        assert warm.cached_tokens == cold[text].prompt_tokens - 1
    assert example.ask(other).cached_tokens <= 1, "only the beginning that all prompts share"


def test_a_pin_in_the_instant_after_the_answer_holds_all_of_it(example):
    for round_ in range(8):
        prompt = f"Round {round_}:" + " island" * (40 * round_)
        asked = example.ask(prompt, 1).prompt_tokens
        assert example.pin(prompt)["num_tokens"] == asked


def test_tokens_never_seen_pin_nothing(example):
    body = {"tokens": [700] * 40, "instance_id": INSTANCE, "location": MEMORY}
    assert post(f"{example.controller_url}/pin", body)["num_tokens"] == 0


@pytest.fixture
def unpinned(example):
    """The example without the pins of other tests, which pins may not push out."""
    for pin in post(f"{example.controller_url}/pins", {})["pins"]:
        post(f"{example.controller_url}/unpin", {"pin_id": pin["pin_id"]})
    return example


def test_a_prompt_never_seen_is_pinned_and_warmed_before_its_first_user_comes(unpinned):
    tokens = [500 + number % 97 for number in range(700)]
    url = ("--url", unpinned.controller_url)
    place = ("--instance", INSTANCE, "--location", MEMORY, "--on-missing", "reserve")
    pin = shlex.join(["lmcache", "pin", "keeper", *place, "--tokens", json.dumps(tokens), *url])
    made = json.loads(unpinned.run(f"{pin} --json"))
    assert (made["state"], made["num_tokens"]) == ("pending", 0)
    job = json.loads(unpinned.run(shlex.join(["lmcache", "warm", "keeper", *url, "--json"])))
    (placement,) = job["placements"]
    assert (job["state"], placement["computed"], placement["reason"]) == ("done", True, "")
    assert (placement["state"], placement["num_tokens"]) == ("active", 700)
    unpinned.flood(3)
    assert unpinned.ask(tokens).cached_tokens == 699
    assert unpinned.run(shlex.join(["lmcache", "unpin", "keeper", *url])) == "keeper: released\n"


def test_what_vllm_refuses_to_compute_is_passed_on(unpinned):
    models = json.loads(get_text(f"{unpinned.vllm_url}/v1/models"))
    longest = models["data"][0]["max_model_len"]
    url = ("--url", unpinned.controller_url)
    place = ("--instance", INSTANCE, "--location", MEMORY)
    for name, tokens in (("long", [700] * (longest + 1)), ("odd", [999_999_999])):
        unpinned.run(
            shlex.join(["lmcache", "pin", name, *place, "--tokens", json.dumps(tokens), *url])
        )
    warm = shlex.join(["lmcache", "warm", "long", "odd", *url, "--json"])
    long, odd = json.loads(unpinned.run(f"{warm} || test $? = 1"))["placements"]
    assert not any(place["num_tokens"] or place["computed"] for place in (long, odd))
    assert f"maximum context length is {longest} tokens" in long["reason"]
    assert "vocabulary" in odd["reason"]
    unpinned.run(shlex.join(["lmcache", "unpin", "long", "odd", *url]))


@pytest.mark.parametrize("kind", ["prompt", "messages"])
def test_text_is_tokenised_by_the_server_as_it_computes_it(example, kind):
    text = f"Asked for as {kind}:" + " harbour" * 60
    place = {"instance_id": INSTANCE, "location": MEMORY}
    if kind == "prompt":
        asked = example.ask(text, 1).prompt_tokens
        answer = post(f"{example.controller_url}/pin", {"prompt": text, **place})
        assert answer["num_tokens"] == asked
        return
    messages = [{"role": "system", "content": text}]
    body = {"model": MODEL, "messages": [*messages, {"role": "user", "content": "Go on."}]}
    whole = post(f"{example.vllm_url}/v1/chat/completions", {**body, "max_tokens": 1})
    answer = post(f"{example.controller_url}/pin", {"messages": messages, **place})
    question = {"model": MODEL, "messages": messages, "add_generation_prompt": False}
    tokens = post(f"{example.vllm_url}/tokenize", question)["count"]
    assert answer["num_tokens"] == tokens < whole["usage"]["prompt_tokens"]
