"""The one root of every error this project raises on purpose.

A message says what failed, what was expected, what is available and what to
do; the facts are attributes too, so that a caller never parses a sentence.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class LMCacheError(Exception):
    """Root of all errors raised by lmcache distributions and their plugins."""


class ConfigError(LMCacheError):
    """A configuration value, key or file is wrong.

    Attributes:
        key: The configuration key concerned, or None for the file as a whole.
        source: Where the value came from, for example ``file example.yaml``.
    """

    def __init__(self, message: str, *, key: str | None = None, source: str | None = None) -> None:
        where = f" ({source})" if source else ""
        super().__init__(f"{message}{where}")
        self.key = key
        self.source = source


class UnknownNameError(LMCacheError):
    """A name was asked for that nothing answers to.

    Attributes:
        kind: What was looked for, for example ``storage backend``.
        name: The name asked for.
        available: The names that would have been found, sorted.
    """

    def __init__(
        self, kind: str, name: str, available: Iterable[str], *, hint: str | None = None
    ) -> None:
        self.kind = kind
        self.name = name
        self.available = sorted(available)
        known = ", ".join(self.available) or "none"
        close = get_close_matches(name, self.available, n=1)
        advice = f" Did you mean {close[0]!r}?" if close else ""
        if hint:  # then the name is right, and what is missing is known
            advice = f" {hint}"
        super().__init__(f"unknown {kind} {name!r}; available: {known}.{advice}")


class PluginError(LMCacheError):
    """A plugin that the configuration needs cannot be used.

    Attributes:
        plugin: The plugin's entry-point name.
        reason: Why it cannot be used.
    """

    def __init__(self, plugin: str, reason: str) -> None:
        super().__init__(f"plugin {plugin!r} cannot be used: {reason}")
        self.plugin = plugin
        self.reason = reason


class CapacityError(LMCacheError):
    """A request does not fit into what is left of a bounded resource.

    Attributes:
        resource: What is full, for example ``pins of tier LocalCPUBackend``.
        asked_bytes: How much was asked for.
        used_bytes: How much is taken.
        limit_bytes: The bound.
    """

    def __init__(
        self, resource: str, *, asked_bytes: int, used_bytes: int, limit_bytes: int, advice: str
    ) -> None:
        super().__init__(
            f"{resource}: {asked_bytes} bytes asked for, {used_bytes} of {limit_bytes} bytes used; "
            f"{advice}"
        )
        self.resource = resource
        self.asked_bytes = asked_bytes
        self.used_bytes = used_bytes
        self.limit_bytes = limit_bytes


class DeadlineExceededError(LMCacheError):
    """Something did not answer within its deadline.

    Attributes:
        what: What was waited for.
        deadline_seconds: How long it was waited for.
    """

    def __init__(self, what: str, deadline_seconds: float) -> None:
        super().__init__(f"{what} did not finish within {deadline_seconds:g} s")
        self.what = what
        self.deadline_seconds = deadline_seconds


class NotCachedError(LMCacheError):
    """Tokens that had to be cached are not.

    Attributes:
        asked: Number of tokens asked for.
        cached: Length of the prefix of them that is cached.
    """

    def __init__(self, location: str, *, asked: int, cached: int) -> None:
        super().__init__(
            f"{cached} of {asked} tokens are cached in {location}; compute the prompt first, "
            "or ask for what is there with on_missing=partial, or for the rest too with "
            "on_missing=reserve"
        )
        self.asked = asked
        self.cached = cached


class NotHeldError(LMCacheError):
    """A pin that was to be changed is not held whole as it was said to be.

    Attributes:
        pin_id: The pin's name.
    """

    def __init__(self, pin_id: str, *, location: str, version: int) -> None:
        super().__init__(
            f"pin {pin_id!r} is not held whole in {location} at version {version}; ask for it "
            "with its tokens"
        )
        self.pin_id = pin_id


class ConflictError(LMCacheError):
    """The thing exists already in another form, or another party owns it."""


class FrameError(LMCacheError):
    """Bytes read from a store are not the whole frame that was asked for."""


class SerdeError(LMCacheError):
    """A serde cannot encode a payload, or bytes are not what it has encoded."""


class BackendError(LMCacheError):
    """A storage or memory backend failed; the tier above turns this into a miss."""


class MessageError(LMCacheError):
    """A message from the other end of a transport cannot be understood."""
