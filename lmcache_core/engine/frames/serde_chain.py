"""The serdes of a storage tier, one after the other."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from lmcache_core.api import KVSpec, Serde
from lmcache_core.engine.frames.encoding import MAX_WORD, WORD, Stage
from lmcache_core.errors import ConfigError, LMCacheError, SerdeError
from lmcache_core.keys import Key

MAX_SERDES = 4
"""A header has room for what they say of themselves beside the largest page map."""

_NAME = re.compile(rf"{WORD}{{1,{MAX_WORD}}}")
_LABEL = re.compile(rf"{WORD}{{0,{MAX_WORD}}}")


class Link(NamedTuple):
    """One serde of a chain.

    Attributes:
        name: What the configuration calls it.
        serde: It.
        authenticates: What its spec says.
    """

    name: str
    serde: Serde
    authenticates: bool


class SerdeChain:
    """Encodes payloads by each serde in order, and decodes them in the opposite order.

    Whatever a stranger's code does wrong is a SerdeError.

    Args:
        links: The serdes, in the order of encoding; none for raw payloads.

    Raises:
        ConfigError: They are too many, one is there twice, or a header
            cannot name one.
    """

    def __init__(self, links: Sequence[Link]) -> None:
        self._links = tuple(links)
        self._names = [link.name for link in links]
        twice = next((name for name in self._names if self._names.count(name) > 1), None)
        unfit = next((name for name in self._names if not _NAME.fullmatch(name)), None)
        if len(links) > MAX_SERDES or twice or unfit:
            message = (
                f"serde {twice!r} is in the chain twice"
                if twice
                else f"serde {unfit!r} has a name that no frame's header can hold: at most "
                f"{MAX_WORD} printable characters without spaces, commas or colons"
                if unfit
                else f"the chain has {len(links)} serdes, and the most are {MAX_SERDES}"
            )
            raise ConfigError(message, key="storage")

    def __len__(self) -> int:
        """Number of serdes."""
        return len(self._links)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the serdes, in the order of encoding."""
        return tuple(self._names)

    @property
    def authenticates(self) -> bool:
        """Whether any of them does."""
        return any(link.authenticates for link in self._links)

    def accept(self, spec: KVSpec) -> None:
        """Let each look at what it will encode.

        Raises:
            ConfigError: One refuses it.
        """
        for link in self._links:
            try:
                link.serde.accept(spec)
            except LMCacheError:
                raise
            except Exception as error:
                message = f"serde {link.name}: accept raised {type(error).__name__}: {error}"
                raise ConfigError(message, key="storage") from error

    def takes(self, names: Sequence[str]) -> bool:
        """Whether a frame that was encoded by these serdes may be decoded here.

        It may where it was written under this chain, or before some serde was
        added to it, but never without one that authenticates: who can write
        to the store must not be able to replace what is encrypted.
        """
        rest = iter(self._links)
        for name in names:
            for link in rest:
                if link.name == name:
                    break
                if link.authenticates:
                    return False
            else:
                return False
        return not any(link.authenticates for link in rest)

    def encode(self, key: Key, payload: memoryview) -> tuple[list[Stage], memoryview]:
        """Encode a payload; return what was done and what is to be stored.

        Args:
            key: What it is bound to.
            payload: Its bytes, which are left as they are.

        Raises:
            SerdeError: A serde cannot.
        """
        stages = []
        data = payload
        for name, serde, _ in self._links:
            with _faults_of(name, "encode"):
                encoded = memoryview(serde.encode(key, data)).cast("B")
                label = serde.label
            if not _LABEL.fullmatch(label):
                raise SerdeError(f"serde {name}: its label {label!r} does not fit into a header")
            stages.append(Stage(name, label, len(data)))
            data = encoded
        return stages, data

    def decode(
        self,
        key: Key,
        stages: Sequence[Stage],
        stored: memoryview,
        payload: memoryview,
        spare: Sequence[memoryview],
    ) -> None:
        """Fill ``payload`` from what was stored.

        Args:
            key: What it is bound to.
            stages: What was done, by serdes that :meth:`takes` agrees to, to
                a payload of just that length.
            stored: The bytes.
            payload: Where to put them.
            spare: Room for what is between two serdes, used in turn.

        Raises:
            SerdeError: They are not what the serdes have encoded.
        """
        serdes = {link.name: link.serde for link in self._links}
        data = stored
        for number in reversed(range(len(stages))):
            name, _, nbytes = stages[number]
            if number and nbytes > len(spare[number % 2]):
                raise SerdeError(f"serde {name} was given {nbytes} bytes, more than there can be")
            target = spare[number % 2][:nbytes] if number else payload
            with _faults_of(name, "decode"):
                serdes[name].decode(key, data, target)
            data = target


@contextmanager
def _faults_of(name: str, what: str) -> Iterator[None]:
    try:
        yield
    except SerdeError:
        raise
    except (Exception, SystemExit) as error:
        message = f"serde {name}: {what} raised {type(error).__name__}: {error}"
        raise SerdeError(message) from error
