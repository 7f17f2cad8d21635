"""The configuration of ``redis``."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from lmcache_backend_redis.address import parse_address

PASSWORDS = ("password", "password_file", "password_env")


class RedisConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the servers are, who we are there, and what our keys are called.

    Attributes:
        url: See below.
        cluster: See below.
        username: See below.
        password: See below.
        password_file: See below.
        password_env: See below.
        tls_ca: See below.
        tls_cert: See below.
        tls_key: See below.
        tls_check_hostname: See below.
        key_prefix: See below.
        ttl_seconds: See below.
        connections: See below.
    """

    url: Annotated[
        str,
        Meta(
            description="`redis://`, `valkey://` or `resp://`, with TLS `rediss://` or "
            "`valkeys://`, then host, port and database; `redis-cluster://` and so on for a "
            "cluster, which may name several servers by comma."
        ),
    ]
    cluster: Annotated[
        bool, Meta(description="Whether it is a cluster, whatever the URL says.")
    ] = False
    username: Annotated[str | None, Meta(description="Whom to log in as.")] = None
    password: Annotated[
        str | None, Meta(description="The password; better in a file or the environment.")
    ] = None
    password_file: Annotated[
        str | None,
        Meta(description="A file with the password, read anew for each connection."),
    ] = None
    password_env: Annotated[
        str | None, Meta(description="The environment variable that has the password.")
    ] = None
    tls_ca: Annotated[
        str | None,
        Meta(description="File of authorities to trust beside the system's."),
    ] = None
    tls_cert: Annotated[str | None, Meta(description="File of a certificate of our own.")] = None
    tls_key: Annotated[str | None, Meta(description="File of its key.")] = None
    tls_check_hostname: Annotated[
        bool, Meta(description="Whether the server's certificate has to name its host.")
    ] = True
    key_prefix: Annotated[
        str,
        Meta(min_length=1, description="What the names of all our keys begin with."),
    ] = "lmcache"
    ttl_seconds: Annotated[
        Annotated[int, Meta(gt=0)] | None,
        Meta(description="How long the server keeps a frame; by default until it needs the room."),
    ] = None
    connections: Annotated[
        int, Meta(ge=1, le=64, description="Most connections to one server.")
    ] = 4

    def __post_init__(self) -> None:
        """Refuse what contradicts itself.

        Raises:
            ValueError: It does.
        """
        address = parse_address(self.url)
        given = [name for name in PASSWORDS if getattr(self, name) is not None]
        if address.password is not None:
            given.insert(0, "url")
        if len(given) > 1:
            raise ValueError(f"the password is in {' and in '.join(given)}; leave one of them")
        if address.username and self.username:
            raise ValueError("the user is in url and in username; leave one of them")
        if (self.cluster or address.cluster) and address.database:
            raise ValueError(f"a cluster has no database {address.database}; leave it out of url")
        if bool(self.tls_cert) != bool(self.tls_key):
            raise ValueError("tls_cert and tls_key go together; one of them is missing")
        tls = self.tls_ca or self.tls_cert or not self.tls_check_hostname
        if tls and not address.encrypted:
            raise ValueError("there are tls_ keys and the url is not encrypted; write rediss://")

    def __repr__(self) -> str:
        """Without url and password: it may be logged."""
        return f"RedisConfig(key_prefix={self.key_prefix!r}, cluster={self.cluster})"
