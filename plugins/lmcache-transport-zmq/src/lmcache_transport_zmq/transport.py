"""Makes both ends of the connection between engines and controller."""

from __future__ import annotations

import asyncio
import errno
import socket as stdlib_socket

import zmq
import zmq.asyncio

from lmcache_core.api.spec import EmptyConfig
from lmcache_core.api.transport import ControllerTransport
from lmcache_core.errors import ConfigError
from lmcache_transport_zmq.address import TcpAddress
from lmcache_transport_zmq.link import ZmqLink
from lmcache_transport_zmq.listener import ZmqListener
from lmcache_transport_zmq.sockets import harden


class ZmqTransport(ControllerTransport):
    """ZeroMQ over TCP.

    Args:
        config: Nothing; see the README.
    """

    def __init__(self, config: EmptyConfig | None = None) -> None:
        del config

    def dial(self, address: str) -> ZmqLink:
        """Make the engine's end; returns at once, also when nobody listens.

        Raises:
            ConfigError: The address cannot be understood or has port 0.
        """
        target = TcpAddress.parse(address)
        if target.port == 0:
            message = f"{address!r}: port 0 can be listened to but not dialled"
            raise ConfigError(message)
        return ZmqLink(target)

    async def listen(self, address: str) -> ZmqListener:
        """Listen on every address the host stands for; port 0 takes any free port.

        Raises:
            ConfigError: The address cannot be understood, is not of this
                machine, or is taken.
        """
        wanted = TcpAddress.parse(address)
        hosts = await _resolve(wanted)
        context = zmq.asyncio.Context(io_threads=1)
        socket = context.socket(zmq.ROUTER)
        harden(socket)
        # A peer that is gone or full is told from one that listens; a peer
        # that dials anew while its old connection hangs takes its place.
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
        port = wanted.port
        try:
            for host in hosts:
                port = _bind(socket, TcpAddress(host, port))
        except zmq.ZMQError as error:
            context.destroy(linger=0)
            raise ConfigError(_why(wanted, error)) from error
        return ZmqListener(context, socket, str(TcpAddress(wanted.host, port)))


def _bind(socket: zmq.asyncio.Socket, address: TcpAddress) -> int:
    socket.setsockopt(zmq.IPV6, int(address.ip_version == 6))
    socket.bind(str(address))
    endpoint = socket.getsockopt_string(zmq.LAST_ENDPOINT)
    return int(endpoint.rpartition(":")[2])


async def _resolve(address: TcpAddress) -> list[str]:
    if address.ip_version is not None:
        return [address.host]
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(address.host, 0, type=stdlib_socket.SOCK_STREAM)
    except OSError as error:
        message = f"{address}: the host name {address.host!r} has no address here ({error})"
        raise ConfigError(message) from error
    hosts = list(dict.fromkeys(str(item[4][0]) for item in found))
    return [host for host in hosts if await asyncio.to_thread(_is_usable, host)]


def _is_usable(host: str) -> bool:
    """Whether this machine has the address; ``localhost`` may name ::1 where IPv6 is off."""
    family = stdlib_socket.AF_INET6 if ":" in host else stdlib_socket.AF_INET
    try:
        with stdlib_socket.socket(family, stdlib_socket.SOCK_STREAM) as probe:
            probe.bind((host, 0))
    except OSError:
        return False
    return True


def _why(address: TcpAddress, error: zmq.ZMQError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"{address} is taken by another program; stop it or choose another port "
            "(port 0 takes any free one)"
        )
    return f"{address} cannot be listened on: {error}; choose an address of this machine"
