"""Where servers are, as the configuration writes it."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

DEFAULT_PORT = 6379

PLAIN = ("redis", "valkey", "resp")
ENCRYPTED = ("rediss", "valkeys")
CLUSTER = "-cluster"


class Node(NamedTuple):
    """One server."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class Address(NamedTuple):
    """What a URL says.

    Attributes:
        nodes: The servers to begin with; one, but for a cluster.
        database: Number of the database.
        encrypted: Whether to speak TLS.
        cluster: Whether the URL says that it is a cluster.
        username: From the URL, or None.
        password: From the URL, or None.
    """

    nodes: tuple[Node, ...]
    database: int
    encrypted: bool
    cluster: bool
    username: str | None
    password: str | None


def parse_address(url: str) -> Address:
    """Read a URL, for example ``rediss://user:password@host:6379/0``.

    A cluster may name several servers, by comma.

    Raises:
        ValueError: It is not one of ours. The message shows no part of it
            that may be secret.
    """
    authority, parts = _split(url)
    scheme = parts.scheme.removesuffix(CLUSTER)
    if scheme not in PLAIN + ENCRYPTED:
        known = ", ".join(f"{name}://" for name in PLAIN + ENCRYPTED)
        raise ValueError(
            f"the url begins with {parts.scheme or 'no scheme'!r}; it takes {known}, and each of "
            f"them with {CLUSTER} before the colon"
        )
    if parts.query or parts.fragment:
        raise ValueError("the url has a query; write what it says as keys of their own")
    credentials, _, hosts = authority.rpartition("@")
    username, _, password = credentials.partition(":")
    nodes = tuple(_node(text) for text in hosts.split(","))
    cluster = parts.scheme.endswith(CLUSTER)
    if len(nodes) > 1 and not cluster:
        raise ValueError(f"the url names {len(nodes)} servers; only a cluster has several")
    return Address(
        nodes,
        _database(parts.path),
        scheme in ENCRYPTED,
        cluster,
        unquote(username) or None,
        unquote(password) or None,
    )


def _split(url: str) -> tuple[str, SplitResult]:
    """What lies between ``//`` and the path, and the URL with one host in its place.

    Several hosts are beyond what a URL may have there, and newer versions of
    Python refuse them where one is an IPv6 address.
    """
    scheme, found, rest = url.partition("://")
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    return authority, urlsplit(f"{scheme}{found}host{rest[len(authority) :]}" if found else url)


def _node(text: str) -> Node:
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"{text!r} in the url is no host:port: {error}") from error
    if not host:
        raise ValueError("the url names no host; write for example redis://localhost:6379")
    return Node(host, port or DEFAULT_PORT)


def _database(path: str) -> int:
    number = path.strip("/")
    if number and not number.isdecimal():
        raise ValueError(f"the url ends with {path!r}; what is there is a database's number")
    return int(number or 0)
