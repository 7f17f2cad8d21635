"""What the machine has, as far as it matters here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lmcache_core.cli.doctor.finding import Finding

NVIDIA = Path("/proc/driver/nvidia")


def findings(nvidia: Path = NVIDIA) -> Iterator[Finding]:
    """The GPUs.

    Args:
        nvidia: Where the NVIDIA driver says what it drives.
    """
    yield _gpu(nvidia)


def _gpu(nvidia: Path) -> Finding:
    """By the driver's own files: no CUDA library is loaded for a question."""
    from lmcache_core.memory.native import load_native

    try:
        models = [_model(gpu / "information") for gpu in sorted((nvidia / "gpus").iterdir())]
    except OSError:
        return Finding("gpu", "ok", "no NVIDIA driver; vLLM serves on the CPU here")
    if not models:
        return Finding("gpu", "note", "an NVIDIA driver without a GPU; see `nvidia-smi`")
    text = ", ".join(models)
    native, _ = load_native()
    if native is None or not native.WITH_CUDA:
        return Finding(
            "gpu",
            "wrong",
            f"{text}, and the native page mover was built without CUDA; put nvcc of the CUDA "
            "toolkit on the PATH and reinstall lmcache-core "
            "(`pip install --force-reinstall --no-binary lmcache-core lmcache-core`)",
        )
    return Finding("gpu", "ok", text)


def _model(information: Path) -> str:
    for line in information.read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "Model":
            return value.strip()
    return information.parent.name
