"""Real vLLM, a real controller and a stranger's backend, in processes of their own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml

from examples.pin.quickstart.server import Server, group_members
from examples.tiny_model.make_tiny_llama import SIZES, make_tiny_llama
from tests.net.ports import free_port

INSTANCE = "the_instance"
MEMORY = "LocalCPUBackend"
LMCACHE = [sys.executable, "-c", "from lmcache_core.cli.main import main; main()"]
START_SECONDS = 280
EACH_ANEW = httpx.Limits(max_keepalive_connections=0)  # Servers are killed between two requests.
WAIT_SECONDS = 30

KV_BYTES_PER_TOKEN = 2 * 2 * 2 * 32 * 4
"""Of the tiny model in float32: two layers, K and V, two heads of 32."""


def until(what: str, done: Callable[[], Any], seconds: float = WAIT_SECONDS) -> Any:
    """Wait for something that another process does; return what ``done`` did."""
    deadline = time.monotonic() + seconds
    while True:
        answer = done()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not so after {seconds} s")
        time.sleep(0.05)


def search_path(site: Path) -> str:
    """Where a process of a test finds modules: a folder of the test's first."""
    return os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])


@dataclass
class Stack:
    """Both servers and how to talk to them.

    Attributes:
        folder: Where models and logs go.
        cache_tokens: Size of the memory tier.
        storage: Entries of the tiers below it.
        site: A folder with more distributions for vLLM's processes, or None.
    """

    folder: Path
    cache_tokens: int
    storage: Sequence[Mapping[str, Any]] = ()
    site: Path | None = None
    controller_port: int = field(default_factory=free_port)
    monitor_port: int = field(default_factory=free_port)
    vllm_port: int = field(default_factory=free_port)
    # One for all requests: each that is made reads the machine's certificates,
    # which costs more than most requests do.
    client: httpx.Client = field(default_factory=lambda: httpx.Client(limits=EACH_ANEW))

    def __post_init__(self) -> None:
        programs = Path(sys.executable).parent
        model = make_tiny_llama(self.folder / "model", SIZES["tiny"])
        config = self.folder / "lmcache.yaml"
        size = self.cache_tokens * KV_BYTES_PER_TOKEN / 2**30
        content = {
            "storage": [{"backend": MEMORY, "max_size": size}, *self.storage],
            "enable_controller": True,
            "lmcache_instance_id": INSTANCE,
            "controller_url": f"127.0.0.1:{self.monitor_port}",
            "lmcache_worker_heartbeat_time": 0.5,
            "request_pin_owner": "requests",
            "request_pin_quota": size,
            "request_pin_max_ttl_seconds": 600,
        }
        config.write_text(yaml.safe_dump(content))
        self.vllm = Server(
            "vLLM",
            [
                *(str(programs / "vllm"), "serve", str(model), "--served-model-name", "m"),
                *("--host", "127.0.0.1", "--port", str(self.vllm_port)),
                *("--dtype", "float32", "--enforce-eager", "--block-size", "32"),
                *("--max-model-len", "2048", "--no-enable-prefix-caching"),
                "--enable-prompt-tokens-details",
                "--kv-transfer-config",
                '{"kv_connector":"LMCacheConnectorV1","kv_role":"kv_both"}',
            ],
            self.folder / "vllm.log",
            {
                "LMCACHE_CONFIG_FILE": str(config),
                "VLLM_CPU_KVCACHE_SPACE": "1",
                "VLLM_NO_USAGE_STATS": "1",
                "VLLM_HOST_IP": "127.0.0.1",
                "HF_HUB_OFFLINE": "1",
                "TRANSFORMERS_OFFLINE": "1",
                "TOKENIZERS_PARALLELISM": "false",
                **({"PYTHONPATH": search_path(self.site)} if self.site else {}),
            },
        )
        self.controller = self._controller()

    def _controller(self) -> Server:
        programs = Path(sys.executable).parent
        return Server(
            "the controller",
            [
                *(str(programs / "lmcache_controller"), "--port", str(self.controller_port)),
                *("--monitor-host", "127.0.0.1", "--monitor-port", str(self.monitor_port)),
                *("--ledger", "none"),
            ],
            self.folder / "controller.log",
        )

    # -- processes ---------------------------------------------------------

    def start(self) -> None:
        """Start vLLM first and the controller last: any order has to do."""
        self.vllm.start(os.environ)
        until("vLLM answers", self._vllm_ready, START_SECONDS)
        self.start_controller()

    def start_controller(self) -> None:
        """Start a controller that knows nothing, and wait until the engine is there."""
        self.controller = self._controller()
        self.controller.start(os.environ)
        until("the engine has registered", self.registered)

    def stop(self) -> None:
        self.client.close()
        self.controller.stop()
        self.vllm.stop()

    def registered(self) -> bool:
        try:
            answer = self.post("query_worker_info", {"instance_id": INSTANCE})
        except httpx.HTTPError:
            return False
        return answer.status_code == 200 and bool(answer.json()["worker_infos"])

    def engine_core(self) -> int:
        """The process that schedules, and with it the engine."""
        for pid in group_members(self.vllm.pid):
            if "EngineCor" in Path(f"/proc/{pid}/comm").read_text():
                return pid
        raise AssertionError("vLLM has no engine core")

    def freeze(self, pid: int) -> None:
        os.kill(pid, signal.SIGSTOP)

    def thaw(self, pid: int) -> None:
        os.kill(pid, signal.SIGCONT)

    # -- requests ----------------------------------------------------------

    def complete(self, prompt: Sequence[int], tokens: int = 8) -> tuple[list[int], int]:
        """Greedy tokens of a completion, and how many of the prompt's were cached."""
        got = self.respond(prompt, tokens)
        details = got["usage"]["prompt_tokens_details"] or {}
        return got["choices"][0]["token_ids"], details.get("cached_tokens") or 0

    def respond(self, prompt: Sequence[int], tokens: int = 8, **fields: Any) -> Any:
        """The whole response to a completion."""
        body = {
            "model": "m",
            "prompt": list(prompt),
            "max_tokens": tokens,
            "temperature": 0,
            "ignore_eos": True,
            "return_token_ids": True,
            **fields,
        }
        url = f"http://127.0.0.1:{self.vllm_port}/v1/completions"
        answer = self.client.post(url, json=body, timeout=120)
        answer.raise_for_status()
        return answer.json()

    def cached_from(self) -> dict[str, float]:
        """Tokens that vLLM took from caches since its start, by source."""
        text = self.client.get(f"http://127.0.0.1:{self.vllm_port}/metrics", timeout=30).text
        pattern = (
            r'vllm:prompt_tokens_cached_by_source_total\{[^}]*source="(\w+)"[^}]*\} ([\d.e+]+)'
        )
        return {source: float(value) for source, value in re.findall(pattern, text)}

    def cached_from_below(self) -> float:
        """Those that came from neither the device nor host memory."""
        return sum(
            n for source, n in self.cached_from().items() if source not in ("host", "device")
        )

    def post(self, route: str, body: dict[str, Any], seconds: float = 30) -> httpx.Response:
        url = f"http://127.0.0.1:{self.controller_port}/{route}"
        return self.client.post(url, json=body, timeout=seconds)

    def get(self, route: str) -> Any:
        url = f"http://127.0.0.1:{self.controller_port}/{route}"
        answer = self.client.get(url, timeout=30)
        answer.raise_for_status()
        return answer.json()

    def pin(self, tokens: Sequence[int], location: str = MEMORY, **fields: Any) -> httpx.Response:
        body = {"instance_id": INSTANCE, "location": location, "tokens": list(tokens), **fields}
        return self.post("pin", body)

    def _vllm_ready(self) -> bool:
        assert self.vllm.exit_code is None, self.vllm.last_lines(40)
        try:
            url = f"http://127.0.0.1:{self.vllm_port}/health"
            return self.client.get(url, timeout=5).status_code == 200
        except httpx.HTTPError:
            return False


def build_stranger(folder: Path) -> Path:
    """Write a backend as its author would, and build and install its wheel.

    Returns:
        The folder it is installed in.
    """
    project, wheels, site = folder / "project", folder / "wheels", folder / "site"
    begin = [*LMCACHE, "plugins", "new", "backend", "shelf", "--directory", str(project)]
    subprocess.run(begin, check=True, timeout=60)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(wheels)]
    subprocess.run([*build, str(project)], check=True, timeout=120)
    (wheel,) = wheels.glob("*.whl")
    install = [*pip, "install", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(install, check=True, timeout=120)
    return site
