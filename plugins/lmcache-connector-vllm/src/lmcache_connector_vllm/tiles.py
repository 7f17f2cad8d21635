"""The registers in which AMX keeps its tiles, which a process has to ask the kernel for."""

from __future__ import annotations

import ctypes
import platform

_ARCH_PRCTL = 158
_ARCH_REQ_XCOMP_PERM = 0x1023
_TILE_DATA = 18


def ask_for_tiles() -> None:
    """Ask for them, for all threads of this process; where there are none nothing happens.

    vLLM 0.32 leaves it to the first matrix product of several rows. A server
    that is asked first for a prompt that is cached computes one token of it,
    has no such product, and ends with an illegal instruction in its attention
    (bfloat16 on a CPU with AMX; a prompt of one token does it without us).
    """
    if platform.system() == "Linux" and platform.machine() == "x86_64":
        # Refused only where there is no AMX.
        ctypes.CDLL(None).syscall(_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _TILE_DATA)
