"""Which versions of pins were released."""

from __future__ import annotations

from collections import OrderedDict

MAX_REMEMBERED = 4096


class Released:
    """Remembers the versions of the pins released last, so that a late command revives none."""

    def __init__(self) -> None:
        self._versions: OrderedDict[str, int] = OrderedDict()

    def note(self, pin_id: str, version: int) -> None:
        """A pin was released at a version."""
        self._versions[pin_id] = max(version, self.version(pin_id))
        if len(self._versions) > MAX_REMEMBERED:
            self._versions.popitem(last=False)

    def version(self, pin_id: str) -> int:
        """The highest version at which a pin was released; -1 for none."""
        return self._versions.get(pin_id, -1)
