"""The promises of the contract, over real sockets."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest
import zmq

from lmcache_core.api.transport import ControllerTransport
from lmcache_core.testing import ControllerTransportTests
from lmcache_transport_zmq.plugin import lmcache_register_controller_transports

(SPEC,) = lmcache_register_controller_transports()


class TestZmqTransport(ControllerTransportTests):
    @pytest.fixture
    def make_transport(self) -> Callable[[], ControllerTransport]:
        return lambda: SPEC.load()(SPEC.config())

    @pytest.fixture
    def any_address(self) -> str:
        return "tcp://127.0.0.1:0"

    @pytest.fixture
    def free_address(self) -> str:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return f"tcp://127.0.0.1:{probe.getsockname()[1]}"

    @pytest.fixture
    def bad_address(self) -> str:
        return "tcp://127.0.0.1"

    @pytest.fixture
    def send_garbage(self) -> Callable[[str], None]:
        def send(address: str) -> None:
            with zmq.Context() as context, context.socket(zmq.DEALER) as end:
                end.connect(address)
                end.send(b"\x01garbage")

        return send
