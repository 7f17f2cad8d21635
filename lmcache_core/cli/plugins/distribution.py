"""A new plugin's distribution: its names, and the files it begins with."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path, PurePosixPath
from string import Template
from typing import NamedTuple

from lmcache_core import __version__
from lmcache_core.api import PLUGIN_API
from lmcache_core.errors import ConfigError, ConflictError

TEMPLATES = "templates"
SUFFIX = ".tmpl"
COMMON = "common"
"""The folder of what plugins of every kind begin with."""

LONGEST_NAME = 24
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


class Kind(NamedTuple):
    """What can be begun.

    Attributes:
        prefix: Of the distribution's name, before the plugin's own.
        offered: What the configuration calls it, with ``{title}`` and
            ``{name}`` to be filled in.
        summary: What the template does, in a line, likewise.
    """

    prefix: str
    offered: str
    summary: str


KINDS = {
    "backend": Kind("lmcache-backend", "{title}Backend", "frames as files in a folder"),
    "serde": Kind("lmcache-serde", "{name}", "payloads compressed with zlib"),
    "transport": Kind("lmcache-transport", "{name}", "engines and controller over TCP"),
    "policy": Kind("lmcache-policy", "{title}", "evicts what was admitted first, used or not"),
}


class NewDistribution:
    """The names of a new plugin, all of them made from one.

    Args:
        kind: Of :data:`KINDS`.
        name: What is its own, for example ``shelf``.

    Attributes:
        kind: See above.
        name: See above; also the entry point's.
        distribution: For example ``lmcache-backend-shelf``.
        module: For example ``lmcache_backend_shelf``.
        offered: What a configuration calls it, for example ``ShelfBackend``.

    Raises:
        ConfigError: It cannot be called that; the message says what can.
    """

    def __init__(self, kind: str, name: str) -> None:
        prefix, offered, summary = KINDS[kind]
        _check(name, prefix)
        self.kind = kind
        self.name = name
        self.distribution = f"{prefix}-{name}"
        self.module = self.distribution.replace("-", "_")
        self._title = "".join(word.capitalize() for word in name.split("-"))
        self.offered = offered.format(name=name, title=self._title)
        self._summary = summary.format(name=name, title=self._title)

    def files(self) -> Iterator[tuple[PurePosixPath, str]]:
        """The path of each file below the distribution's folder, and its text."""
        names = {
            "api": repr(tuple(PLUGIN_API)),
            "core": f"lmcache-core>={'.'.join(__version__.split('.')[:2])}.dev0",
            "distribution": self.distribution,
            "module": self.module,
            "name": self.name,
            "offered": self.offered,
            "summary": self._summary,
            "title": self._title,
        }
        for folder in (COMMON, self.kind):
            root = files(__package__) / TEMPLATES / folder
            for path, template in _below(root, PurePosixPath()):
                parts = [self.module if part == "module" else part for part in path.parts]
                text = Template(template.read_text(encoding="utf-8")).substitute(names)
                yield PurePosixPath(*parts).with_suffix(""), text

    def write(self, folder: Path) -> None:
        """Write all files.

        Raises:
            ConflictError: The folder is there already, or cannot be made.
        """
        try:
            folder.mkdir(parents=True)
            for path, text in self.files():
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_text(text, encoding="utf-8")
        except FileExistsError as error:
            raise ConflictError(
                f"{folder} is there already and is not written into; remove it, or name another "
                "with --directory"
            ) from error
        except OSError as error:
            raise ConflictError(
                f"{folder} cannot be written: {error}; name another with --directory"
            ) from error


def _check(name: str, prefix: str) -> None:
    if name.replace("_", "-").startswith(prefix):
        raise ConfigError(
            f"the name {name!r} begins with {prefix!r}, which is put before it; give what comes "
            "behind"
        )
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"a plugin cannot be called {name!r}; write small letters and digits, a letter first, "
            "with single hyphens between words, for example shelf or cold-store"
        )
    if len(name) > LONGEST_NAME:
        raise ConfigError(
            f"the name {name!r} has {len(name)} characters; it may have {LONGEST_NAME}"
        )


def _below(folder: Traversable, path: PurePosixPath) -> Iterator[tuple[PurePosixPath, Traversable]]:
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir():
            yield from _below(entry, path / entry.name)
        elif entry.name.endswith(SUFFIX):
            yield path / entry.name, entry
