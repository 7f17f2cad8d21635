"""What the quickstart runs with: ports, model, and the size of a cache small enough to flood."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from examples.pin.quickstart.problem import Problem
from examples.tiny_model.make_tiny_llama import SIZES, make_tiny_llama

ROOT = Path(__file__).resolve().parents[3]
CONFIG_FILE = Path("examples/pin/example.yaml")
INSTANCE = "lmcache_default_instance"
LOCATION = "LocalCPUBackend"
DISK = "LocalDiskBackend"

LONG_PROMPT_WORDS = 1000
# Room for the two long prompts and the two short ones that are compared, and to
# spare; three times as much floods it in some ten seconds on two cores.
CACHE_TOKENS = 4096
FLOOD_FACTOR = 3
MAX_MODEL_LEN = 4096

_NEEDED_BYTES = 1 << 30
_GIB = 1 << 30


@dataclass(frozen=True)
class Settings:
    """One run's settings.

    Attributes:
        model: What ``vllm serve`` is given: a folder or a name.
        model_name: What requests call it.
        dtype: What vLLM computes in.
        kv_bytes_per_token: Bytes of KV cache that a token takes.
        vllm_port: Where vLLM answers.
        controller_port: Where the controller answers.
        monitor_port: Where engines dial the controller.
        folder: Where logs and the tiny model go.
    """

    model: str
    model_name: str
    dtype: str
    kv_bytes_per_token: int
    vllm_port: int
    controller_port: int
    monitor_port: int
    folder: Path

    @property
    def cache_gib(self) -> float:
        """Size of the demonstration's cache, in GiB."""
        return CACHE_TOKENS * self.kv_bytes_per_token / _GIB

    @property
    def disk_folder(self) -> Path:
        """Where the disk tier keeps its files."""
        return self.folder / "disk"

    @property
    def vllm_url(self) -> str:
        """Where requests go."""
        return f"http://localhost:{self.vllm_port}"

    @property
    def controller_url(self) -> str:
        """Where pins go."""
        return f"http://localhost:{self.controller_port}"


def read_settings(environ: Mapping[str, str] = os.environ) -> Settings:
    """Read the environment, check the machine, and make the tiny model where none is named.

    Raises:
        Problem: A port is taken, the disk is full, or the model cannot be read.
    """
    ports = {
        name: _port(environ, name, default)
        for name, default in (
            ("VLLM_PORT", 8000),
            ("CONTROLLER_PORT", 9000),
            ("MONITOR_PORT", 9001),
        )
    }
    for name, port in ports.items():
        _require_free(name, port)
    folder = Path(environ.get("QUICKSTART_DIR") or ROOT / ".quickstart")
    _require_space(folder)
    folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder / "disk", ignore_errors=True)  # each run begins with an empty one
    model = environ.get("MODEL", "")
    name, dtype = model, "auto"
    if not model:
        model = short_path(make_tiny_llama(folder / "tiny-llama", SIZES["demo"]))
        name, dtype = "tiny-llama", "float32"
    return Settings(
        model=model,
        model_name=name,
        dtype=dtype,
        kv_bytes_per_token=kv_bytes_per_token(_model_config(model), dtype),
        vllm_port=ports["VLLM_PORT"],
        controller_port=ports["CONTROLLER_PORT"],
        monitor_port=ports["MONITOR_PORT"],
        folder=folder,
    )


def short_path(path: Path) -> str:
    """Name a file the way a person at the root does, where it lies below it."""
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def kv_bytes_per_token(config: dict[str, object], dtype: str) -> int:
    """Work out from a model's ``config.json`` how much KV cache a token takes, in bytes."""
    text = config.get("text_config", config)

    def number(key: str, default: int = 0) -> int:
        value = text.get(key) if isinstance(text, dict) else None
        return value if isinstance(value, int) else default

    heads = number("num_attention_heads", 1)
    head_dim = number("head_dim", number("hidden_size") // heads)
    # vLLM computes in two bytes unless it is told otherwise.
    value_bytes = 4 if dtype == "float32" else 2
    kv_heads = number("num_key_value_heads", heads)
    return max(1, 2 * number("num_hidden_layers", 1) * kv_heads * head_dim * value_bytes)


def _port(environ: Mapping[str, str], name: str, default: int) -> int:
    text = environ.get(name) or str(default)
    if not text.isdigit() or not 0 < int(text) < 1 << 16:
        raise Problem(f"{name}={text} is no port; give a number from 1 to 65535")
    return int(text)


def _require_free(name: str, port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do, so that a port that was just given up counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise Problem(
                f"port {port} is in use; stop what listens there (ss -ltnp 'sport = :{port}' "
                f"names it) or choose another: {name}={port + 10} make quickstart"
            ) from error


def _require_space(folder: Path) -> None:
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < _NEEDED_BYTES:
        raise Problem(
            f"not enough disk space: 1 GiB is needed for the model and the logs and "
            f"{free / _GIB:.1f} GiB are free at {folder}; free some, or name another folder: "
            "QUICKSTART_DIR=... make quickstart"
        )


def _model_config(model: str) -> dict[str, object]:
    path = ROOT / model / "config.json"
    if not path.exists():
        path = _download_config(model)
    config: dict[str, object] = json.loads(path.read_text())
    return config


def _download_config(model: str) -> Path:
    from huggingface_hub import hf_hub_download  # noqa: PLC0415 - only for a model that is named

    try:
        return Path(hf_hub_download(model, "config.json"))
    except Exception as error:  # its errors share no base class
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise Problem(
            f"MODEL={model} is no folder with a config.json, and could not be downloaded "
            f"({reason}); check the name and the network, or leave MODEL out to use the tiny model"
        ) from error
