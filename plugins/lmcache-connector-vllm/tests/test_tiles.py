"""What a worker asks the kernel for, so that vLLM may begin with a hit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lmcache_connector_vllm import tiles

HAS_AMX = " amx_tile " in Path("/proc/cpuinfo").read_text()

CHILD = """
import ctypes
from lmcache_connector_vllm.tiles import ask_for_tiles

def tiles():
    mask = ctypes.c_ulong()
    assert ctypes.CDLL(None).syscall(158, 0x1022, ctypes.byref(mask)) == 0
    return bool(mask.value & 1 << 18)

print(tiles())
ask_for_tiles()
print(tiles())
"""


@pytest.mark.skipif(not HAS_AMX, reason="the CPU has no AMX")
def test_tiles_may_be_used_once_they_were_asked_for() -> None:
    found = subprocess.run(
        [sys.executable, "-c", CHILD], capture_output=True, text=True, check=True, timeout=60
    )
    assert found.stdout.split() == ["False", "True"]


@pytest.mark.parametrize("machine", ["aarch64", "x86_64"])
def test_a_machine_without_them_is_let_be(monkeypatch: pytest.MonkeyPatch, machine: str) -> None:
    monkeypatch.setattr(tiles.platform, "machine", lambda: machine)
    tiles.ask_for_tiles()
