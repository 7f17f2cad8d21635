"""``redis``: one string a frame, in a server or a cluster that several engines share."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence

from redis.connection import AbstractConnection, Connection, SSLConnection

from lmcache_backend_redis import frames
from lmcache_backend_redis.address import Node, parse_address
from lmcache_backend_redis.config import RedisConfig
from lmcache_backend_redis.credentials import Credentials
from lmcache_backend_redis.link import Request
from lmcache_backend_redis.replies import Refusal, Reply, ReplyReader
from lmcache_backend_redis.servers import Errand, Servers
from lmcache_core.api import BackendContext, Deadline, PutStatus, StorageBackend
from lmcache_core.errors import BackendError, DeadlineExceededError
from lmcache_core.keys import Key
from lmcache_core.log import get_logger

log = get_logger(__name__)

OPEN_SECONDS = 5.0
"""How long opening waits for the server."""


class RedisBackend(StorageBackend):
    """Keeps each frame as one string.

    ``SET NX`` puts it there whole or not at all. The server may evict or
    expire what it likes; to us that is a miss.

    Args:
        config: Its section.
        context: Where it is used.
    """

    def __init__(self, config: RedisConfig, context: BackendContext) -> None:
        self._address = parse_address(config.url)
        self._config = config
        self._instance = context.instance_id
        self._prefix = config.key_prefix.encode() + b":"
        self._credentials = Credentials(config)
        cluster = config.cluster or self._address.cluster
        self._servers = Servers(
            self._address.nodes, self._connect, connections=config.connections, cluster=cluster
        )
        self._store_id = ""

    @property
    def store_id(self) -> str:
        """The name that the first engine has given what is under our prefix."""
        return self._store_id

    def open(self) -> None:
        """Reach the server, and name what is there where nobody has.

        Raises:
            BackendError: It cannot be reached, or refuses.
        """
        deadline = Deadline(OPEN_SECONDS)
        name = self._prefix + b"store-id"
        given = uuid.uuid4().hex.encode()
        requests = [Request([b"SET", name, given, b"NX"]), Request([b"GET", name])]
        try:
            ((written, found),) = self._servers.ask([Errand(name, requests)], deadline)
        except DeadlineExceededError as error:
            raise BackendError(
                f"{self._where} did not answer within {OPEN_SECONDS:g} s; see that it runs and can "
                "be reached from here"
            ) from error
        for answer in (written, found):
            frames.refuse(answer)
        if not isinstance(found, bytes):
            raise BackendError(f"{self._where} does not keep what is written to it")
        self._store_id = f"redis:{found.decode(errors='replace')}"
        log.info("redis.opened", servers=self._where, store_id=self._store_id)

    def close(self) -> None:
        """End all connections; idempotent."""
        self._servers.close()

    def stat(self, keys: Sequence[Key], deadline: Deadline) -> list[int | None]:
        """Tell the length of each frame, in one round trip.

        Raises:
            BackendError: A server did not answer, or refused.
        """
        return [number or None for number in self._numbers(b"STRLEN", keys, deadline)]

    def put(
        self, keys: Sequence[Key], frames_: Sequence[memoryview], deadline: Deadline
    ) -> list[PutStatus]:
        """Store frames whose keys are not there.

        Of long ones that is asked first: to be told so when they have been
        sent costs more than a round trip.

        Raises:
            BackendError: A server did not answer, or refused for another
                reason than that it is full.
        """
        status: dict[int, PutStatus] = {}
        long = [n for n, frame in enumerate(frames_) if len(frame) >= frames.ASK_FIRST_BYTES]
        found = self._numbers(b"EXISTS", [keys[number] for number in long], deadline)
        for number, there in zip(long, found, strict=True):
            if there:
                status[number] = PutStatus.PRESENT
            elif len(frames_[number]) > frames.LONGEST_FRAME_BYTES:
                status[number] = PutStatus.FAILED
        writing = [number for number in range(len(keys)) if number not in status]
        errands = []
        for number in writing:
            name = self._name(keys[number])
            request = frames.write(name, frames_[number], self._config.ttl_seconds)
            errands.append(Errand(name, [request]))
        for number, (answer,) in zip(writing, self._servers.ask(errands, deadline), strict=True):
            status[number] = _put_status(answer)
        return [status[number] for number in range(len(keys))]

    def get(
        self, keys: Sequence[Key], buffers: Sequence[memoryview], deadline: Deadline
    ) -> list[int | None]:
        """Read frames straight into their buffers.

        Raises:
            BackendError: A server did not answer, or refused.
        """
        errands = []
        for key, buffer in zip(keys, buffers, strict=True):
            name = self._name(key)
            errands.append(Errand(name, frames.read(name, buffer)))
        answers = self._servers.ask(errands, deadline)
        return [
            frames.length_read(answer, buffer)
            for answer, buffer in zip(answers, buffers, strict=True)
        ]

    def remove(self, keys: Sequence[Key], deadline: Deadline) -> list[bool]:
        """Remove frames; the server frees their memory behind.

        Raises:
            BackendError: A server did not answer, or refused.
        """
        return [number > 0 for number in self._numbers(b"UNLINK", keys, deadline)]

    def replace(
        self, keys: Sequence[Key], frames_: Sequence[memoryview], deadline: Deadline
    ) -> list[bool]:
        """Store frames whose keys are there, each by one command.

        Raises:
            BackendError: A server did not answer, or refused for another
                reason than that it is full.
        """
        fits = [len(frame) <= frames.LONGEST_FRAME_BYTES for frame in frames_]
        errands = []
        for key, frame, fit in zip(keys, frames_, fits, strict=True):
            if fit:
                name = self._name(key)
                errands.append(Errand(name, [frames.write_over(name, frame)]))
        answers = iter(self._servers.ask(errands, deadline))
        return [fit and _put_status(next(answers)[0]) is PutStatus.STORED for fit in fits]

    def _numbers(self, command: bytes, keys: Sequence[Key], deadline: Deadline) -> list[int]:
        """Ask a number about each key."""
        names = [self._name(key) for key in keys]
        errands = [Errand(name, [Request([command, name])]) for name in names]
        numbers = []
        for (answer,) in self._servers.ask(errands, deadline):
            frames.refuse(answer)
            numbers.append(answer if isinstance(answer, int) else 0)
        return numbers

    def _name(self, key: Key) -> bytes:
        return self._prefix + key.hex().encode()

    @property
    def _where(self) -> str:
        return "redis at " + ", ".join(map(str, self._address.nodes))

    def _connect(self, node: Node, replies: ReplyReader, seconds: float) -> AbstractConnection:
        config = self._config
        make: Callable[..., AbstractConnection] = Connection
        options: dict[str, object] = {}
        if self._address.encrypted:
            make = SSLConnection
            options = {
                "ssl_ca_certs": config.tls_ca,
                "ssl_certfile": config.tls_cert,
                "ssl_keyfile": config.tls_key,
                "ssl_check_hostname": config.tls_check_hostname,
            }
        return make(
            host=node.host,
            port=node.port,
            db=self._address.database,
            credential_provider=self._credentials if self._credentials.given else None,
            protocol=2,
            socket_timeout=seconds,
            socket_connect_timeout=seconds,
            parser_class=lambda socket_read_size: replies,  # noqa: ARG005 - its size is its own
            **options,
        )


def _put_status(answer: Reply) -> PutStatus:
    if isinstance(answer, Refusal) and answer.code == "OOM":
        return PutStatus.FULL
    frames.refuse(answer)
    return PutStatus.PRESENT if answer is None else PutStatus.STORED
