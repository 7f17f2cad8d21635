"""Serving the application: sockets, signals, an end without leftovers."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import signal
import socket
from collections.abc import Iterator

import uvicorn

from lmcache_core.config.controller import ControllerConfig, is_loopback
from lmcache_core.controller.app import create_app
from lmcache_core.controller.plane import ControlPlane
from lmcache_core.errors import ConfigError
from lmcache_core.log import get_logger
from lmcache_core.plugins import PluginRegistry

log = get_logger(__name__)

BACKLOG = 2048
DRAIN_SECONDS = 3
"""How long open requests may take when the controller stops."""


class _Server(uvicorn.Server):
    """uvicorn without its signal handling, which ends the process by the signal it caught."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(config: ControllerConfig, registry: PluginRegistry) -> None:
    """Serve until SIGINT or SIGTERM.

    Raises:
        ConfigError: A port is taken or an address is wrong.
        UnknownNameError: No controller transport is installed.
    """
    sockets = bind(config.host, config.port)
    try:
        plane = await ControlPlane.open(config, registry)
        try:
            await _serve(config, plane, sockets)
        finally:
            await plane.close()
    finally:
        for sock in sockets:
            sock.close()


async def _serve(
    config: ControllerConfig, plane: ControlPlane, sockets: list[socket.socket]
) -> None:
    server = _Server(
        uvicorn.Config(
            create_app(plane),
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            backlog=BACKLOG,
            timeout_graceful_shutdown=DRAIN_SECONDS,
        )
    )

    def stop() -> None:
        server.should_exit = True
        # Requests that wait for an engine would hold up the end for as long
        # as they may wait.
        plane.commands.close()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    try:
        if not is_loopback(config.monitor_name):
            log.warning("controller.monitor_exposed", address=plane.listener.address)
        host, port = sockets[0].getsockname()[:2]
        log.info("controller.started", host=host, port=port, monitor=plane.listener.address)
        await server.serve(sockets=sockets)
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
    log.info("controller.stopped")


def bind(host: str, port: int) -> list[socket.socket]:
    """Bind every address a host stands for, all to one port.

    Raises:
        ConfigError: The port is taken, or the host is not of this machine.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        message = f"the host {host!r} has no address here: {error}"
        raise ConfigError(message, key="host") from error
    bound: list[socket.socket] = []
    unusable: OSError | None = None
    for family, kind, proto, _, address in dict.fromkeys(found):
        sock = socket.socket(family, kind, proto)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            sock.bind((address[0], port, *address[2:]))
        except OSError as error:
            sock.close()
            if error.errno == errno.EADDRNOTAVAIL:
                unusable = error
                continue
            for other in bound:
                other.close()
            raise ConfigError(_why(host, port, error), key="port") from error
        # Callers who read that it has started may connect before the server
        # gets to accept; they wait in the backlog.
        sock.listen(BACKLOG)
        port = sock.getsockname()[1]
        bound.append(sock)
    if not bound:
        message = f"{host!r} is no address of this machine: {unusable}"
        raise ConfigError(message, key="host")
    return bound


def _why(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {port} of {host} is taken by another program; stop it or choose another with "
            "--port (0 takes any free one)"
        )
    return f"port {port} of {host} cannot be served: {error.strerror}"
