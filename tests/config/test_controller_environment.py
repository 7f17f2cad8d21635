"""Which of the variables that start alike are the controller's."""

from __future__ import annotations

import pytest

from lmcache_core.config.controller import load_controller_config
from lmcache_core.errors import ConfigError


def load(**environ: str):
    return load_controller_config(file=None, environ=environ, flags={})


def test_a_variable_sets_what_it_names() -> None:
    assert load(LMCACHE_CONTROLLER_PORT="9100").port == 9100


@pytest.mark.parametrize("name", ["URL", "PULL_URL", "REPLY_URL"])
def test_a_variable_for_engines_is_left_to_them(name: str) -> None:
    assert load(**{f"LMCACHE_CONTROLLER_{name}": "localhost:9001"}) == load()


def test_a_variable_that_is_nobodys_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no key 'ports'; did you mean 'port'"):
        load(LMCACHE_CONTROLLER_PORTS="9100")
