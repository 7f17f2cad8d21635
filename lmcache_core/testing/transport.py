"""The conformance kit of controller transports, and the fixtures its checks need."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from lmcache_core.api.transport import ControllerTransport
from lmcache_core.testing.conformance import Conformance
from lmcache_core.testing.transport_checks import MakeTransport, TransportChecks
from lmcache_core.testing.transport_ends import Ends


class ControllerTransportTests(TransportChecks, Conformance):
    """Checks that a controller transport keeps the promises of its contract.

    To run it, subclass it and supply the fixtures ``make_transport``,
    ``any_address`` and ``free_address``::

        class TestMyTransport(ControllerTransportTests):
            @pytest.fixture
            def make_transport(self):
                return lambda: MyTransport(MyConfig())

            @pytest.fixture
            def any_address(self):
                return "my://127.0.0.1:0"

            @pytest.fixture
            def free_address(self):
                return f"my://127.0.0.1:{a_port_nobody_listens_on()}"

    The kit makes a transport for each end, and closes what it opens. Further
    fixtures are optional, and the checks that need one skip without it:
    ``bad_address`` and ``send_garbage``.
    """

    @pytest.fixture
    def make_transport(self) -> MakeTransport:
        """Make a transport."""
        pytest.fail("supply the fixture make_transport: a function that makes a transport")

    @pytest.fixture
    def any_address(self) -> str:
        """What to listen on so that any free port is taken."""
        pytest.fail("supply the fixture any_address: what takes any free port")

    @pytest.fixture
    def free_address(self) -> str:
        """An address that can be listened on, and that nobody listens on."""
        pytest.fail("supply the fixture free_address: an address that nobody listens on")

    @pytest.fixture
    def bad_address(self) -> str:
        """What the transport cannot understand."""
        pytest.skip("there is no fixture bad_address")

    @pytest.fixture
    def send_garbage(self) -> Callable[[str], None]:
        """Send, as one peer, a frame to an address that is no message."""
        pytest.skip("there is no fixture send_garbage")

    @pytest.fixture
    def ends(self, make_transport: MakeTransport) -> Iterator[Ends]:
        """Makes links and listeners, and closes what a check leaves open."""
        made = Ends(make_transport)
        yield made
        made.close()

    @pytest.fixture
    def transport(self, make_transport: MakeTransport) -> ControllerTransport:
        """A transport."""
        return make_transport()
