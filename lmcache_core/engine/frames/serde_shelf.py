"""The serdes that the frames of a storage tier may have been encoded by."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from lmcache_core.api import KVSpec
from lmcache_core.engine.frames.serde_chain import Link, SerdeChain
from lmcache_core.errors import ConflictError, LMCacheError
from lmcache_core.log import get_logger

log = get_logger(__name__)

MAX_CHAINS = 64
"""Chains that are kept; what a frame's header names, anybody may have written."""


class SerdeShelf:
    """A tier's own serdes, and those that are installed, made when they are first needed.

    A frame may have been encoded otherwise than the tier's configuration
    says: before it was changed, by an engine that shares the store, or
    because an operator has asked for it. What is installed can read it all
    the same. One that authenticates is used only where the tier's
    configuration has it, because only there it is given its secret; and where
    it has one, nothing that was written without it is taken.

    Args:
        own: The tier's serdes, in the order of encoding.
        make: Makes the serde of a name as it is without a configuration.
        spec: What will be encoded.

    Attributes:
        own: The chain of the tier's serdes; an empty one where it has none.

    Raises:
        ConfigError: They make no chain, or one refuses the payloads.
    """

    def __init__(self, own: Sequence[Link], make: Callable[[str], Link], spec: KVSpec) -> None:
        self._links = {link.name: link for link in own}
        self._make = make
        self._spec = spec
        self._lock = threading.Lock()
        self._chains: dict[tuple[str, ...], SerdeChain] = {}
        try:
            self.own = SerdeChain(own)
            self.own.accept(spec)
        except BaseException:
            self.close()
            raise

    def chain(self, names: Sequence[str]) -> SerdeChain:
        """The chain of some serdes, whatever they are asked to read or write.

        Raises:
            UnknownNameError: One is not installed.
            ConfigError: They make no chain, or one cannot be used here.
            ConflictError: One authenticates and is not the tier's own.
            PluginError: One is broken.
        """
        wanted = tuple(names)
        with self._lock:
            chain = self._chains.get(wanted)
            if chain is None:
                chain = SerdeChain([self._link(name) for name in wanted])
                if len(self._chains) >= MAX_CHAINS:
                    self._chains.clear()
                self._chains[wanted] = chain
            return chain

    def reader(self, names: Sequence[str]) -> SerdeChain | None:
        """What decodes a frame that some serdes have encoded; None where it may not be read."""
        if self.own.takes(names):
            return self.own
        if self.own.authenticates:
            return None
        try:
            return self.chain(names)
        except LMCacheError as error:
            log.info("serde.unusable", serdes=",".join(names), reason=str(error))
            return None

    def writer(self, names: Sequence[str]) -> SerdeChain:
        """What encodes frames of this tier otherwise than its configuration says.

        Raises:
            UnknownNameError: A serde is not installed.
            ConfigError: They make no chain, or one cannot be used here.
            ConflictError: What they encode would not be read again.
            PluginError: One is broken.
        """
        chain = self.chain(names)
        if self.own.authenticates and not self.own.takes(names):
            what = f"one encoded by {','.join(names)}" if names else "a raw one"
            message = (
                f"this tier takes no frame that its own chain {','.join(self.own.names)} has not "
                f"authenticated, and would not read {what} again; name that chain, or a part of it "
                "that authenticates"
            )
            raise ConflictError(message)
        return chain

    def close(self) -> None:
        """Close the serdes; nothing is called afterwards."""
        for link in self._links.values():
            try:
                link.serde.close()
            except Exception:
                # What comes after it has to be closed all the same.
                log.exception("serde.close_failed", serde=link.name)

    def _link(self, name: str) -> Link:
        link = self._links.get(name)
        if link is not None:
            return link
        link = self._make(name)
        if link.authenticates:
            link.serde.close()
            message = (
                f"serde {name} authenticates, and is used only in a tier whose configuration "
                "names it among its serdes and gives it its secret"
            )
            raise ConflictError(message)
        SerdeChain([link]).accept(self._spec)
        self._links[name] = link
        return link
