"""One server or a cluster, asked about many keys at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import NamedTuple, Protocol

from redis.connection import AbstractConnection
from redis.exceptions import RedisError

from lmcache_backend_redis.address import Node
from lmcache_backend_redis.link import Link, Request
from lmcache_backend_redis.pool import Pool
from lmcache_backend_redis.replies import Refusal, Reply, ReplyReader
from lmcache_backend_redis.slots import OneOwner, Owners, SlotMap, moved_to
from lmcache_core.api import Deadline
from lmcache_core.errors import BackendError, LMCacheError
from lmcache_core.log import get_logger

log = get_logger(__name__)

REDIRECTIONS = 5
"""How often a key is followed from server to server in one call."""

ASKING = Request([b"ASKING"])


class Errand(NamedTuple):
    """What is asked about one key, all of it of the server that has it.

    Attributes:
        name: The key, as the server knows it.
        requests: What is asked.
    """

    name: bytes
    requests: Sequence[Request]


class Stop(NamedTuple):
    """Where an errand is run.

    Attributes:
        node: The server.
        asking: Whether the key is only on its way there.
    """

    node: Node
    asking: bool = False


class Connector(Protocol):
    """Makes connections of the client library."""

    def __call__(self, node: Node, replies: ReplyReader, seconds: float) -> AbstractConnection:
        """Make one, not connected yet, of which no wait is longer than ``seconds``."""


class Servers:
    """Sends each errand to the server that has its key, to all servers at once.

    Args:
        seeds: The servers to begin with.
        connector: Makes connections.
        connections: Most connections to one server.
        cluster: Whether the servers are a cluster.
    """

    def __init__(
        self, seeds: Sequence[Node], connector: Connector, *, connections: int, cluster: bool
    ) -> None:
        self._seeds = seeds
        self._connector = connector
        self._connections = connections
        self._cluster = cluster
        self._owners: Owners | None = None if cluster else OneOwner(seeds[0])
        self._known: tuple[Node, ...] = ()
        self._pools: dict[Node, Pool] = {}

    def ask(self, errands: Sequence[Errand], deadline: Deadline) -> list[list[Reply]]:
        """Run errands; return the answers to the requests of each.

        It is one round trip where no key has moved from its server.

        Raises:
            BackendError: A server did not answer, or a key moves about.
            DeadlineExceededError: The deadline has passed.
        """
        answers: dict[int, list[Reply]] = {}
        stops = {
            number: Stop(self._owner(errand.name, deadline))
            for number, errand in enumerate(errands)
        }
        for _ in range(REDIRECTIONS):
            answers.update(self._round(errands, stops, deadline))
            stops = self._moved(stops, answers)
            if not stops:
                return [answers[number] for number in range(len(errands))]
        raise BackendError(
            f"{len(stops)} keys were sent from server to server {REDIRECTIONS} times"
        )

    def close(self) -> None:
        """End all connections."""
        for pool in list(self._pools.values()):
            pool.close()

    def _round(
        self, errands: Sequence[Errand], stops: Mapping[int, Stop], deadline: Deadline
    ) -> dict[int, list[Reply]]:
        numbers: dict[Node, list[int]] = defaultdict(list)
        for number, stop in stops.items():
            numbers[stop.node].append(number)
        # In one order, so that two threads cannot wait for each other's connections.
        nodes = sorted(numbers)
        links: dict[Node, Link] = {}
        answers: dict[int, list[Reply]] = {}
        with ExitStack() as stack:
            for node in nodes:
                with self._failing(node):
                    links[node] = stack.enter_context(self._pool(node).link(deadline))
            for node in nodes:
                requests = [
                    request
                    for number in numbers[node]
                    for request in _requests(errands[number], stops[number])
                ]
                with self._failing(node):
                    links[node].start(requests, deadline)
            for node in nodes:
                with self._failing(node):
                    replies = iter(links[node].finish())
                for number in numbers[node]:
                    answers[number] = _own(replies, errands[number], stops[number])
        return answers

    def _moved(
        self, stops: Mapping[int, Stop], answers: Mapping[int, list[Reply]]
    ) -> dict[int, Stop]:
        """The errands that were sent to another server, and to which."""
        again: dict[int, Stop] = {}
        for number, stop in stops.items():
            for reply in answers[number]:
                node = moved_to(reply, stop.node) if isinstance(reply, Refusal) else None
                if node is not None and isinstance(reply, Refusal):
                    again[number] = Stop(node, asking=reply.code == "ASK")
                    if self._cluster and not again[number].asking:
                        self._owners = None
                    break
        return again

    def _owner(self, name: bytes, deadline: Deadline) -> Node:
        owners = self._owners or self._learn(deadline)
        node = owners.owner(name)
        if node is None:
            self._owners = None
            raise BackendError(
                "no server of the cluster has the slot of a key; see what "
                "`redis-cli cluster info` says of it"
            )
        return node

    def _learn(self, deadline: Deadline) -> Owners:
        """Ask the cluster who has what."""
        faults = []
        for node in dict.fromkeys([*self._known, *self._seeds]):
            # One that does not answer leaves time for the next.
            part = Deadline(deadline.remaining_seconds / 2)
            try:
                with self._failing(node), self._pool(node).link(part) as link:
                    link.start([Request([b"CLUSTER", b"SLOTS"])], part)
                    owners = SlotMap(link.finish()[0], node)
            except LMCacheError as error:
                faults.append(str(error))
                continue
            self._owners, self._known = owners, tuple(owners.nodes)
            self._let_go()
            return owners
        raise BackendError(f"no server of the cluster tells who has what: {'; '.join(faults)}")

    def _let_go(self) -> None:
        """End the connections to servers that have left."""
        for node in set(self._pools) - {*self._known, *self._seeds}:
            self._pools.pop(node).close()

    def _pool(self, node: Node) -> Pool:
        pool = self._pools.get(node)
        if pool is None:
            make = partial(Link, partial(self._connector, node))
            # Of two threads that make one, one wins.
            pool = self._pools.setdefault(node, Pool(make, self._connections))
        return pool

    @contextmanager
    def _failing(self, node: Node) -> Iterator[None]:
        """Say of which server a failure is, and look who has what before the next call."""
        try:
            yield
        except LMCacheError:
            self._forget()
            raise
        except (OSError, RedisError) as error:
            self._forget()
            raise BackendError(f"redis at {node}: {error}") from error

    def _forget(self) -> None:
        if self._cluster:
            self._owners = None


def _requests(errand: Errand, stop: Stop) -> Iterator[Request]:
    for request in errand.requests:
        if stop.asking:
            yield ASKING
        yield request


def _own(replies: Iterator[Reply], errand: Errand, stop: Stop) -> list[Reply]:
    """Take an errand's answers, less those to what was put before them."""
    own = []
    for _ in errand.requests:
        if stop.asking:
            next(replies)
        own.append(next(replies))
    return own
