"""What bounds the memory that a process can still have."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class Bound(NamedTuple):
    """One bound.

    Attributes:
        free_bytes: What it leaves.
        what: Its name, for messages.
    """

    free_bytes: int
    what: str


def tightest_bound(
    proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")
) -> Bound | None:
    """The bound that leaves least, or None where the system tells of none.

    A memory file may be made larger than the machine; the kernel then ends the
    serving process when pages are touched. So it is asked before.

    Args:
        proc: Where procfs is mounted.
        cgroups: Where the cgroup v2 tree is mounted.
    """
    bounds = _machine(proc) + _control_groups(proc, cgroups)
    return min(bounds, default=None)


def _machine(proc: Path) -> list[Bound]:
    free = _fields(proc / "meminfo", unit=1024)
    available = free.get("MemAvailable:")
    if available is None:
        return []
    return [Bound(available + free.get("SwapFree:", 0), "available memory and swap of the machine")]


def _control_groups(proc: Path, root: Path) -> list[Bound]:
    """The process's own group and those above it."""
    try:
        lines = (proc / "self/cgroup").read_text().splitlines()
    except OSError:
        return []
    path = next((line[3:] for line in lines if line.startswith("0::")), None)
    if path is None:
        return []
    bounds = []
    group = root / path.lstrip("/")
    for folder in (group, *group.parents):
        if not folder.is_relative_to(root):
            break
        bound = _control_group(folder)
        if bound is not None:
            bounds.append(bound)
    return bounds


def _control_group(folder: Path) -> Bound | None:
    try:
        limit = int((folder / "memory.max").read_text())
        used = int((folder / "memory.current").read_text())
    except (OSError, ValueError):  # the root has no limit, and "max" is none
        return None
    cached = _fields(folder / "memory.stat", unit=1)
    reclaimable = cached.get("inactive_file", 0) + cached.get("active_file", 0)
    free = max(0, limit - used + reclaimable)
    return Bound(free, f"memory limit of {limit} bytes in {folder / 'memory.max'}")


def _fields(path: Path, unit: int) -> dict[str, int]:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    return {parts[0]: int(parts[1]) * unit for parts in map(str.split, lines) if len(parts) > 1}
