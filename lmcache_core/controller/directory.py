"""Which engines there are, which of them can be asked."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from lmcache_core.api.messages import Register
from lmcache_core.api.transport import Peer
from lmcache_core.controller.engine_record import EngineRecord, EngineState
from lmcache_core.controller.failures import EngineAwayError, TooManyError
from lmcache_core.controller.ranks import means
from lmcache_core.errors import ConflictError, UnknownNameError

MAX_ENGINES = 4096
"""Engines kept, live or not; those that went first make room."""

_AWAY = {EngineState.SILENT: "has not been heard of", EngineState.STOPPED: "has stopped"}


class Directory:
    """Engines by id; one incarnation each.

    Args:
        clock: Monotonic seconds.
        wall: Unix time.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._wall = wall
        self._engines: dict[str, EngineRecord] = {}

    def __iter__(self) -> Iterator[EngineRecord]:
        """All engines, live or not, by id."""
        return iter(sorted(self._engines.values(), key=lambda engine: engine.instance_id))

    def rival(self, message: Register) -> EngineRecord | None:
        """The live engine of another incarnation that holds the id, if there is one."""
        engine = self._engines.get(message.instance_id)
        if engine is None or not engine.is_live or engine.incarnation == message.incarnation:
            return None
        return engine

    def register(self, peer: Peer, message: Register) -> EngineRecord:
        """Take an engine in; whoever held its id before is forgotten.

        Raises:
            TooManyError: There are as many live engines as are kept.
        """
        now, wall = self._clock(), self._wall()
        engine = self._engines.get(message.instance_id)
        if engine is not None and engine.incarnation == message.incarnation:
            engine.renew(peer, message, now=now, wall=wall)
            return engine
        if engine is None:
            self._make_room()
        engine = EngineRecord(peer, message, now=now, wall=wall)
        self._engines[engine.instance_id] = engine
        return engine

    def heard(self, peer: Peer, instance_id: str, incarnation: int) -> EngineRecord | None:
        """Note that an engine has spoken; None where it has to register first."""
        engine = self._engines.get(instance_id)
        if engine is None or engine.incarnation != incarnation or not engine.is_live:
            return None
        engine.peer = peer
        engine.touch(now=self._clock(), wall=self._wall())
        return engine

    def sweep(self) -> list[EngineRecord]:
        """Mark the engines that are overdue silent; return them."""
        now = self._clock()
        gone = [e for e in self._engines.values() if e.is_live and e.is_overdue(now)]
        for engine in gone:
            engine.state = EngineState.SILENT
        return gone

    def live(self) -> list[EngineRecord]:
        """The engines that can be asked."""
        return [engine for engine in self._engines.values() if engine.is_live]

    def get(self, instance_id: str) -> EngineRecord:
        """The engine of an id, live or not.

        Raises:
            UnknownNameError: No engine has registered under it.
        """
        engine = self._engines.get(instance_id)
        if engine is None:
            raise UnknownNameError(
                "instance",
                instance_id,
                self._engines,
                hint="An engine registers by itself; see its controller_url."
                if not self._engines
                else None,
            )
        return engine

    def members(self, instance_id: str) -> list[EngineRecord]:
        """The engine of an id, or the data-parallel ranks ``<id>_dp<r>`` of one server.

        Raises:
            UnknownNameError: Neither is known.
        """
        if instance_id in self._engines:
            return [self._engines[instance_id]]
        ranks = [engine for engine in self if means(instance_id, engine.instance_id)]
        return ranks or [self.get(instance_id)]

    def live_members(self, instance_id: str) -> list[EngineRecord]:
        """Those of :meth:`members` that can be asked.

        Raises:
            UnknownNameError: None is known.
            EngineAwayError: None of them can be asked.
        """
        members = self.members(instance_id)
        live = [engine for engine in members if engine.is_live]
        if not live:
            raise EngineAwayError(instance_id, _AWAY[members[0].state])
        return live

    def identity(self, name: str) -> bytes:
        """The identity of the namespace that a model's name or a digest means.

        Raises:
            UnknownNameError: No instance that is known serves it.
            ConflictError: Instances serve a model of that name in several ways.
        """
        found = {
            engine.identity: engine.namespace.model
            for engine in self._engines.values()
            if name in (engine.namespace.model, engine.identity.hex(), engine.digest.hex())
        }
        if not found:
            kind = "namespace"
            known = {engine.namespace.model for engine in self._engines.values()}
            raise UnknownNameError(kind, name, known)
        if len(found) > 1:
            digests = ", ".join(sorted(identity.hex() for identity in found))
            message = (
                f"instances serve {name!r} in {len(found)} ways that share no cache; name one by "
                f"its namespace_identity: {digests}"
            )
            raise ConflictError(message)
        return next(iter(found))

    def serving(self, identity: bytes) -> list[EngineRecord]:
        """The live engines of a namespace."""
        return [engine for engine in self.live() if engine.identity == identity]

    def _make_room(self) -> None:
        if len(self._engines) < MAX_ENGINES:
            return
        gone = [engine for engine in self._engines.values() if not engine.is_live]
        if not gone:
            message = f"{MAX_ENGINES} engines are live, as many as one controller manages"
            raise TooManyError(message)
        del self._engines[min(gone, key=lambda engine: engine.heard_at).instance_id]
