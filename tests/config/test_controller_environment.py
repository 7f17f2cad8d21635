"""Which of the variables that start alike are the controller's."""

from __future__ import annotations

import pytest

from lmcache_core.config.controller import load_client_config, load_controller_config
from lmcache_core.config.resolve import load_engine_config
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


def service_links(name: str) -> dict[str, str]:
    """What Kubernetes sets in a pod for a service of two ports."""
    links = {
        f"{name}_SERVICE_HOST": "10.0.0.11",
        f"{name}_SERVICE_PORT": "9000",
        f"{name}_SERVICE_PORT_HTTP": "9000",
        f"{name}_PORT": "tcp://10.0.0.11:9000",
    }
    for port in ("9000", "9001"):
        at = f"{name}_PORT_{port}_TCP"
        links |= {at: f"tcp://10.0.0.11:{port}", f"{at}_PROTO": "tcp"}
        links |= {f"{at}_PORT": port, f"{at}_ADDR": "10.0.0.11"}
    return links


@pytest.mark.parametrize("service", ["LMCACHE_CONTROLLER", "LMCACHE_CONTROLLER_MONITOR"])
def test_what_a_cluster_sets_for_a_service_called_alike_is_no_configuration(service: str) -> None:
    links = service_links(service)
    assert load(**links) == load()
    assert load_client_config(environ=links, flags={}) == load()
    assert load(**links, LMCACHE_CONTROLLER_INSECURE="true").insecure


def test_a_port_of_ones_own_is_taken_beside_such_a_service() -> None:
    links = service_links("LMCACHE_CONTROLLER") | {"LMCACHE_CONTROLLER_PORT": "9100"}
    assert load(**links).port == 9100


def test_an_address_for_a_port_is_an_error_where_there_is_no_such_service() -> None:
    with pytest.raises(ConfigError, match="port"):
        load(LMCACHE_CONTROLLER_PORT="tcp://10.0.0.11:9000")


@pytest.mark.parametrize("service", ["LMCACHE", "LMCACHE_CONTROLLER"])
def test_an_engine_says_nothing_of_such_a_service(service: str) -> None:
    assert load_engine_config(environ=service_links(service)) == load_engine_config(environ={})
