"""vLLM with the connector, the controller, and waiting until both are ready."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from examples.pin.quickstart.client import get_text, post
from examples.pin.quickstart.problem import Problem
from examples.pin.quickstart.server import Server
from examples.pin.quickstart.settings import (
    CONFIG_FILE,
    INSTANCE,
    MAX_MODEL_LEN,
    Settings,
    short_path,
)

KV_TRANSFER_CONFIG = '{"kv_connector":"LMCacheConnectorV1","kv_role":"kv_both"}'
START_SECONDS = 600.0
_DEFAULT_MONITOR_PORT = 9001

# What vLLM would otherwise look for outside, or take a share of the machine for.
_QUIET = {
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
_OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
_CAUSES = (
    (r"No space left on device", "the disk is full; free some space"),
    (
        r"Name or service not known|name resolution|Network is unreachable|ConnectTimeout",
        "the model could not be downloaded; check the network, or leave MODEL out",
    ),
    (r"address already in use", "its port was taken meanwhile; choose another with VLLM_PORT"),
    (r"OutOfMemoryError|Cannot allocate memory|MemoryError", "there is not enough memory"),
)


def vllm_server(settings: Settings) -> Server:
    """Describe the vLLM of the example, with tiers that are small enough to flood."""
    variables = {
        "LMCACHE_CONFIG_FILE": str(CONFIG_FILE),
        "LMCACHE_MAX_LOCAL_CPU_SIZE": f"{settings.cache_gib:.4f}",
        "LMCACHE_LOCAL_DISK": short_path(settings.disk_folder),
        "LMCACHE_MAX_LOCAL_DISK_SIZE": f"{settings.cache_gib:.4f}",
    }
    if settings.monitor_port != _DEFAULT_MONITOR_PORT:
        variables["LMCACHE_CONTROLLER_URL"] = f"localhost:{settings.monitor_port}"
    command = [
        *(_script("vllm"), "serve", settings.model),
        *("--served-model-name", settings.model_name),
        *("--host", "localhost", "--port", str(settings.vllm_port)),
        *("--dtype", settings.dtype, "--max-model-len", str(MAX_MODEL_LEN), "--enforce-eager"),
        *("--no-enable-prefix-caching", "--enable-prompt-tokens-details"),
        *("--kv-transfer-config", KV_TRANSFER_CONFIG),
    ]
    return Server("vLLM", command, settings.folder / "vllm.log", variables)


def controller_server(settings: Settings) -> Server:
    """Describe the controller of the example."""
    command = [
        *(_script("lmcache_controller"), "--host", "localhost"),
        *("--port", str(settings.controller_port)),
        *("--monitor-port", str(settings.monitor_port)),
    ]
    # Each run begins with no pins, and leaves those of the user's own controller alone.
    variables = {"LMCACHE_CONTROLLER_LEDGER": "none"}
    return Server("the controller", command, settings.folder / "controller.log", variables)


def start(server: Server, settings: Settings) -> None:
    """Start a server.

    Raises:
        Problem: Its program is not installed.
    """
    named = settings.model_name == settings.model
    try:
        server.start({**os.environ, **_QUIET, **({} if named else _OFFLINE)})
    except FileNotFoundError as error:
        raise Problem(
            f"{server.command[0]} is not installed beside {sys.executable}; run: make quickstart"
        ) from error


def wait_ready(servers: Sequence[Server], settings: Settings, console: Console) -> None:
    """Wait until both servers answer and the engine has found the controller.

    Raises:
        Problem: One ended, or took too long.
    """
    steps: tuple[tuple[str, Callable[[], bool]], ...] = (
        (
            "the controller answers",
            lambda: get_text(f"{settings.controller_url}/healthz") is not None,
        ),
        ("vLLM answers", lambda: get_text(f"{settings.vllm_url}/health") is not None),
        ("vLLM's engine has registered", lambda: _registered(settings)),
    )
    deadline = time.monotonic() + START_SECONDS
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("starting", total=len(steps))
        for what, done in steps:
            progress.update(task, description=f"waiting until {what}")
            while not done():
                for server in servers:
                    _require_alive(server)
                if time.monotonic() > deadline:
                    raise Problem(
                        f"{what}: not so after {START_SECONDS:.0f} s; the logs are in "
                        f"{settings.folder}"
                    )
                time.sleep(0.25)
            progress.advance(task)
        progress.update(task, description="both are ready")


def _registered(settings: Settings) -> bool:
    try:
        answer = post(f"{settings.controller_url}/query_worker_info", {"instance_id": INSTANCE})
    except Problem:  # an instance that it does not know yet
        return False
    return bool(answer.get("worker_infos"))


def _require_alive(server: Server) -> None:
    if server.exit_code is None:
        return
    last_lines = server.last_lines()
    cause = next((says for sign, says in _CAUSES if re.search(sign, last_lines)), None)
    raise Problem(
        f"{last_lines}\n\n{server.name} ended while starting (exit code {server.exit_code})"
        + (f": {cause}" if cause else "")
        + f"; the last lines of its log are above, the whole of it is {server.log}"
    )


def _script(name: str) -> str:
    return short_path(Path(sys.executable).parent / name)
