from __future__ import annotations

import pytest

from lmcache_core.errors import ConfigError
from lmcache_transport_zmq.address import TcpAddress


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("tcp://127.0.0.1:9001", "127.0.0.1", 9001),
        ("tcp://localhost:0", "localhost", 0),
        ("tcp://[::1]:9001", "::1", 9001),
        ("tcp://[fe80::1%eth0]:1", "fe80::1%eth0", 1),
        ("tcp://controller.ns.svc:65535", "controller.ns.svc", 65535),
    ],
)
def test_an_address_is_read_and_written_alike(text: str, host: str, port: int) -> None:
    address = TcpAddress.parse(text)
    assert address == (host, port)
    assert str(address) == text


@pytest.mark.parametrize(
    "text",
    [
        "localhost:9001",
        "tcp://localhost",
        "tcp://localhost:65536",
        "tcp://localhost:x",
        "tcp://:9001",
        "tcp://::1:9001",
        "tcp://[localhost]:9001",
        "tcp://a b:1",
        "tcp://localhost:9001/path",
        "udp://localhost:9001",
        "",
    ],
)
def test_what_is_no_address_is_one_sentence_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError) as error:
        TcpAddress.parse(text)
    assert "\n" not in str(error.value)
    assert repr(text) in str(error.value)
