"""The commands that a page shows."""

from __future__ import annotations

import re
from pathlib import Path

_BLOCK = re.compile(r"^```(bash|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[str]:
    """List the shell commands of a page; see :func:`commands_in`."""
    return commands_in(page.read_text())


def commands_in(text: str) -> list[str]:
    """List the shell commands of a text.

    Every line of a ``bash`` block is one; of a ``console`` block, every line
    after a prompt.
    """
    found = []
    for kind, block in _BLOCK.findall(text):
        for line in block.splitlines():
            if kind == "bash" and line.strip():
                found.append(line)
            elif line.startswith("$ "):
                found.append(line.removeprefix("$ "))
    return found
