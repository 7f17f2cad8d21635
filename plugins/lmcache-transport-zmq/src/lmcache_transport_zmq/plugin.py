"""The entry point: offers the transport and imports ZeroMQ only when it is used."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lmcache_core import hookimpl
from lmcache_core.api import TransportSpec
from lmcache_core.api.transport import ControllerTransport

LMCACHE_PLUGIN_API = (0, 2)


def load() -> Callable[..., ControllerTransport]:
    """Import the transport."""
    from lmcache_transport_zmq.transport import ZmqTransport  # noqa: PLC0415 - see above

    return ZmqTransport


@hookimpl
def lmcache_register_controller_transports() -> Sequence[TransportSpec]:
    """Offer ``tcp://host:port``."""
    return [
        TransportSpec(
            name="zmq",
            summary="engines and controller over ZeroMQ, MessagePack frames",
            load=load,
            schemes=("tcp",),
        )
    ]
