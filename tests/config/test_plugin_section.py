"""A plugin's section is validated by the plugin's own type."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import pytest

from lmcache_core.config import plugin_section
from lmcache_core.errors import ConfigError

WHERE = "storage backend shelf"


class Section(msgspec.Struct, frozen=True):
    path: str
    depth: Annotated[int, msgspec.Meta(ge=1)] = 2
    boards: dict[str, int] = {}

    def __post_init__(self) -> None:
        if self.path == "/":
            message = "not the root"
            raise ValueError(message)


class Nothing(msgspec.Struct):
    pass


def test_a_good_section() -> None:
    section = plugin_section(Section, {"path": "/a", "boards": {"oak": 1}}, WHERE)
    assert section == Section("/a", 2, {"oak": 1})


@pytest.mark.parametrize(
    ("options", "key", "words"),
    [
        ({"paths": "/a"}, "paths", "has no key 'paths'; did you mean 'path'?"),
        ({"path": "/a", "xyz": 1}, "xyz", "known are boards, depth, path"),
        ({}, "path", "needs the key 'path'"),
        ({"path": 3}, "path", "expected `str`, got `int`"),
        ({"path": "/a", "depth": 0}, "depth", ">= 1"),
        ({"path": "/a", "depth": "2"}, "depth", "expected `int`, got `str`"),
        ({"path": "/a", "boards": {"oak": "x"}}, "boards[...]", "expected `int`"),
        ({"path": "/"}, None, "not the root"),
    ],
)
def test_a_wrong_section_is_a_sentence(
    options: dict[str, Any], key: str | None, words: str
) -> None:
    with pytest.raises(ConfigError) as failure:
        plugin_section(Section, options, WHERE)
    assert str(failure.value).startswith(WHERE)
    assert words in str(failure.value)
    assert failure.value.key == key


def test_a_plugin_without_a_section_takes_no_key() -> None:
    assert plugin_section(Nothing, {}, WHERE) == Nothing()
    with pytest.raises(ConfigError, match="it has nothing to configure"):
        plugin_section(Nothing, {"a": 1}, WHERE)
