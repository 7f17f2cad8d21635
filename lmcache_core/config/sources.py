"""Where configuration values come from, in the order they are laid over each other."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from lmcache_core.config.service_links import without_service_links
from lmcache_core.errors import ConfigError

FILE_VARIABLE = "LMCACHE_CONFIG_FILE"
PREFIX = "LMCACHE_"
OVERRIDE_PREFIX = "lmcache."

FOREIGN_VARIABLES = (
    FILE_VARIABLE,
    "LMCACHE_CONNECTOR_TAKEOVER",
    "LMCACHE_PLUGINS_BLOCKED",
    "LMCACHE_PLUGINS_STRICT",
    "LMCACHE_TRACE_PLUGINS",
)
"""Variables that are read elsewhere and are no configuration keys."""

FOREIGN_PREFIX = "LMCACHE_CONTROLLER_"
"""The controller's own variables, but for those that name an engine's key too."""


class Given(NamedTuple):
    """One value as somebody wrote it.

    Attributes:
        value: What was written.
        origin: Where, for messages.
    """

    value: object
    origin: str


def from_file(path: Path, variable: str = FILE_VARIABLE) -> dict[str, Given]:
    """Read a YAML file of keys.

    Args:
        path: The file.
        variable: What names it where nothing else does.

    Raises:
        ConfigError: It cannot be read, is no YAML, or is no map.
    """
    origin = f"file {path}"
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        message = (
            f"there is no configuration file {path}; correct the name ({variable}, where it "
            "is taken from there) or make the file"
        )
        raise ConfigError(message) from error
    except (OSError, UnicodeDecodeError) as error:
        message = f"the configuration file {path} cannot be read: {error}"
        raise ConfigError(message) from error
    try:
        content = yaml.load(text, _StrictLoader)  # noqa: S506 - a SafeLoader, only stricter
    except yaml.YAMLError as error:
        message = f"not readable as YAML: {_yaml_problem(error)}"
        raise ConfigError(message, source=origin) from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        message = f"expected a map of keys to values, found a {type(content).__name__}"
        raise ConfigError(message, source=origin)
    return {str(key): Given(value, origin) for key, value in content.items()}


def from_environment(environ: Mapping[str, str], known: frozenset[str]) -> dict[str, Given]:
    """Take the ``LMCACHE_*`` variables; an empty one counts as not set.

    What a cluster sets for a service whose name starts alike is nobody's.

    Args:
        environ: The variables.
        known: Keys of the configuration, so that the controller's own
            variables can be told from an engine's.
    """
    given: dict[str, Given] = {}
    for name, value in sorted(without_service_links(environ, PREFIX).items()):
        if name in FOREIGN_VARIABLES or not value.strip():
            continue
        key = name.removeprefix(PREFIX).lower()
        if name.startswith(FOREIGN_PREFIX) and key not in known:
            continue
        given[key] = Given(value, f"environment {name}")
    return given


def from_overrides(overrides: Mapping[str, Any]) -> dict[str, Given]:
    """Take the keys that start with ``lmcache.``; the others are somebody else's."""
    return {
        key.removeprefix(OVERRIDE_PREFIX): Given(value, f"kv_connector_extra_config {key}")
        for key, value in overrides.items()
        if key.startswith(OVERRIDE_PREFIX)
    }


def _yaml_problem(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem and error.problem_mark:
        mark = error.problem_mark
        return f"{error.problem}, line {mark.line + 1}, column {mark.column + 1}"
    return " ".join(str(error).split())


class _StrictLoader(yaml.SafeLoader):
    """PyYAML takes the last of two equal keys in silence; this one objects."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:  # noqa: FBT002 - PyYAML's signature
        seen: set[str] = set()
        for key_node, _ in node.value:
            if isinstance(key_node, yaml.ScalarNode) and key_node.value != "<<":
                if key_node.value in seen:
                    message = f"the key {key_node.value!r} is there twice"
                    raise yaml.constructor.ConstructorError(
                        None, None, message, key_node.start_mark
                    )
                seen.add(key_node.value)
        return super().construct_mapping(node, deep=deep)
