"""Addresses of the form ``tcp://host:port``."""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

from lmcache_core.errors import ConfigError

_PATTERN = re.compile(r"tcp://(?:\[(?P<six>[^\[\]]+)\]|(?P<host>[^\[\]:/\s]+)):(?P<port>\d{1,5})")


class TcpAddress(NamedTuple):
    """A host, by name or number, and a port.

    Attributes:
        host: A name, an IPv4 address, or an IPv6 address without brackets.
        port: From 0 to 65535.
    """

    host: str
    port: int

    @classmethod
    def parse(cls, address: str) -> TcpAddress:
        """Read an address.

        Raises:
            ConfigError: It is not of the form ``tcp://host:port``.
        """
        match = _PATTERN.fullmatch(address)
        if match is None or int(match["port"]) > 65535:
            message = (
                f"{address!r} is no address of the form tcp://host:port, for example "
                "tcp://localhost:9001 or tcp://[::1]:9001"
            )
            raise ConfigError(message)
        parsed = cls(match["six"] or match["host"], int(match["port"]))
        if match["six"] and parsed.ip_version != 6:
            message = f"{address!r}: what stands in brackets is no IPv6 address"
            raise ConfigError(message)
        return parsed

    @property
    def ip_version(self) -> int | None:
        """4 or 6 where the host is a number, None where it is a name."""
        try:
            return ipaddress.ip_address(self.host.partition("%")[0]).version
        except ValueError:
            return None

    def __str__(self) -> str:
        host = f"[{self.host}]" if self.ip_version == 6 else self.host
        return f"tcp://{host}:{self.port}"
