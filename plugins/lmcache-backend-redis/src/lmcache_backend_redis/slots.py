"""Which server of a cluster has which key."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol, cast

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import InvalidResponse

from lmcache_backend_redis.address import Node
from lmcache_backend_redis.replies import Refusal, Reply


class Owners(Protocol):
    """Tells which server has a key."""

    def owner(self, name: bytes) -> Node | None:
        """The server of a key, None where that is not known."""

    @property
    def nodes(self) -> Iterable[Node]:
        """All servers that are known."""


class OneOwner:
    """A single server, which has everything.

    Args:
        node: The server.
    """

    def __init__(self, node: Node) -> None:
        self.nodes = (node,)

    def owner(self, name: bytes) -> Node | None:
        """The one server."""
        del name
        return self.nodes[0]


class SlotMap:
    """The slots of a cluster, as one of its servers has told them.

    Args:
        told: The answer to ``CLUSTER SLOTS``.
        by: Who told it, which is what a missing host stands for.

    Raises:
        InvalidResponse: It is no such answer, or a refusal.
    """

    def __init__(self, told: Reply, by: Node) -> None:
        if isinstance(told, Refusal):
            raise InvalidResponse(f"it is not a cluster that can be asked: {told.text}")
        self._owners: list[Node | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        try:
            for first, last, (host, port, *_), *_replicas in cast("Any", told):
                node = Node(host.decode() if host else by.host, int(port))
                self._owners[first : last + 1] = [node] * (last + 1 - first)
        except (TypeError, ValueError, AttributeError) as error:
            raise InvalidResponse(f"the answer to CLUSTER SLOTS is {told!r}") from error

    def owner(self, name: bytes) -> Node | None:
        """The server of a key's slot."""
        return self._owners[key_slot(name)]

    @property
    def nodes(self) -> Iterable[Node]:
        """All servers that have slots."""
        return dict.fromkeys(node for node in self._owners if node is not None)


def moved_to(refusal: Refusal, by: Node) -> Node | None:
    """Where a refusal says that a key is, None where it says nothing of the sort."""
    if refusal.code not in {"MOVED", "ASK"}:
        return None
    host, _, port = refusal.text.split(" ")[2].rpartition(":")
    return Node(host.strip("[]") or by.host, int(port))
