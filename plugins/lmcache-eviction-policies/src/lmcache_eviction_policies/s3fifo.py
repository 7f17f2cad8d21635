"""S3-FIFO: a short line for what is new, a long one for what was used again."""

from __future__ import annotations

from lmcache_core.api import EvictionPolicy
from lmcache_core.api.spec import EmptyConfig
from lmcache_core.keys import Key, Parts, make_parts
from lmcache_eviction_policies.line import Line

MAX_USES = 3
"""Uses are counted up to here, so that fame fades."""

SMALL_SHARE = 10
"""One key in ten is for the small line."""

SWEEP = 64
"""Keys spared for one victim; the next one goes although it was used.

Without a bound the first eviction after a busy time would pass over the
whole cache. Where so many in a row were used, one is as good as the next.
"""


class S3FIFO(EvictionPolicy):
    """Keeps what is used once from pushing out what is used often.

    A key begins in the small line. Used at least twice there, it goes on into
    the main line; else it is evicted, early, and its name stays in the ghost
    line for a while: admitted again, it begins in the main line. In the main
    line a key that was used goes back to the end with one use less. After
    Yang et al., "FIFO queues are all you need for cache eviction" (SOSP 2023).

    The ghost line remembers at most as many keys as are known. What is
    removed instead of evicted leaves no ghost.

    Args:
        config: There is nothing to configure.
    """

    def __init__(self, config: EmptyConfig | None = None) -> None:
        del config
        self._small = Line()
        self._main = Line()
        self._ghosts = Line()
        self._known = 0
        self._uses: Parts[Key, int] = make_parts()

    def admit(self, key: Key) -> None:
        """Put a key at the end of the small line; one with a ghost in the main line."""
        line = self._main if key in self._ghosts else self._small
        self._ghosts.discard(key)
        self._known += 1
        self._uses[key[0]][key] = 0
        line.append(key)

    def touch(self, key: Key) -> None:
        """Count a use, which changes no place."""
        uses = self._uses[key[0]]
        if uses.get(key, MAX_USES) < MAX_USES:
            uses[key] += 1

    def remove(self, key: Key) -> None:
        """Forget a key, and its ghost."""
        self._ghosts.discard(key)
        self._leave(key)

    def evict(self, key: Key) -> None:
        """Take out the victim; from the small line it leaves a ghost."""
        if key in self._small:
            self._ghosts.append(key)
        self._leave(key)

    def hold(self, key: Key) -> None:
        """Keep a key's place for it."""
        self._line_of(key).hold(key)

    def release(self, key: Key) -> None:
        """Give a key its place back."""
        self._line_of(key).release(key)

    def victim(self) -> Key | None:
        """The first key that was not used enough to be spared."""
        for _ in range(SWEEP):
            key = self._next()
            if key is None or not self._spare(key):
                return key
        key = self._next()
        if key is not None:
            self._uses[key[0]][key] = 0  # named again when asked again
        return key

    def __len__(self) -> int:
        return len(self._small) + len(self._main)

    def _next(self) -> Key | None:
        """The key to look at: of the small line, while it has more than its share."""
        small = len(self._small)
        if small and small * SMALL_SHARE >= len(self):
            return self._small.first()
        return self._main.first()

    def _spare(self, key: Key) -> bool:
        """Let a key go on that was used; whether it was."""
        uses = self._uses[key[0]]
        if key in self._small:
            if uses[key] < 2:
                return False
            self._small.discard(key)
            self._main.append(key)
            uses[key] = 0
            return True
        if not uses[key]:
            return False
        self._main.renew(key)
        uses[key] -= 1
        return True

    def _leave(self, key: Key) -> None:
        if self._uses[key[0]].pop(key, None) is not None:
            self._known -= 1
            self._line_of(key).discard(key)
        while len(self._ghosts) > self._known and (ghost := self._ghosts.first()) is not None:
            self._ghosts.discard(ghost)

    def _line_of(self, key: Key) -> Line:
        return self._small if key in self._small else self._main
