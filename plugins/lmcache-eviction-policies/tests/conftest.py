"""What each policy must do, written to be read and not to be fast."""

from __future__ import annotations

import pytest

from lmcache_eviction_policies.in_line import FIFO, LRU, MRU
from lmcache_eviction_policies.lfu import LFU
from lmcache_eviction_policies.s3fifo import S3FIFO


class Model:
    """All known keys in order; a held one is passed over and keeps its place."""

    def __init__(self):
        self.order = []
        self.held = set()

    @property
    def known(self):
        return set(self.order)

    def free(self, keys):
        return [key for key in keys if key not in self.held]

    def admit(self, key):
        self.order.append(key)

    def touch(self, key):
        pass

    def remove(self, key):
        self.held.discard(key)
        if key in self.order:
            self.order.remove(key)

    def evict(self, key):
        self.remove(key)

    def hold(self, key):
        self.held.add(key)

    def release(self, key):
        self.held.remove(key)

    def victim(self):
        return next(iter(self.free(self.order)), None)

    def __len__(self):
        return len(self.free(self.known))


class FIFOModel(Model):
    pass


class LRUModel(Model):
    def touch(self, key):
        if key in self.order:
            self.order.remove(key)
            self.order.append(key)


class MRUModel(LRUModel):
    def victim(self):
        return next(reversed(self.free(self.order)), None)


class LFUModel(LRUModel):
    """The order is that of the last use, which decides among equal ranks."""

    def __init__(self):
        super().__init__()
        self.age = 0
        self.uses = {}
        self.rank = {}

    def admit(self, key):
        super().admit(key)
        self.uses[key] = 1
        self.rank[key] = self.age + 1

    def touch(self, key):
        super().touch(key)
        if key in self.order:
            self.uses[key] += 1
            self.rank[key] = self.age + self.uses[key]

    def evict(self, key):
        self.age = self.rank[key]
        self.remove(key)

    def victim(self):
        return min(self.free(self.order), key=lambda key: self.rank[key], default=None)


class S3FIFOModel(Model):
    def __init__(self):
        super().__init__()
        self.small = []
        self.main = []
        self.ghosts = []
        self.uses = {}

    @property
    def known(self):
        return {*self.small, *self.main}

    def admit(self, key):
        self.uses[key] = 0
        if key in self.ghosts:
            self.ghosts.remove(key)
            self.main.append(key)
        else:
            self.small.append(key)

    def touch(self, key):
        if key in self.known:
            self.uses[key] = min(3, self.uses[key] + 1)

    def remove(self, key):
        self.ghosts = [ghost for ghost in self.ghosts if ghost != key]
        self.take_out(key)

    def evict(self, key):
        if key in self.small:
            self.ghosts.append(key)
        self.take_out(key)

    def take_out(self, key):
        self.held.discard(key)
        self.small = [other for other in self.small if other != key]
        self.main = [other for other in self.main if other != key]
        excess = len(self.ghosts) - len(self.known)
        self.ghosts = self.ghosts[max(0, excess) :]

    def victim(self):
        spared = 0
        while True:
            small, main = self.free(self.small), self.free(self.main)
            if not small and not main:
                return None
            if small and 10 * len(small) >= len(small) + len(main):
                key = small[0]
                used = self.uses[key] >= 2
            else:
                key = main[0]
                used = self.uses[key] >= 1
            if not used:
                return key
            if spared == 64:
                self.uses[key] = 0
                return key
            spared += 1
            if key in self.small:
                self.small.remove(key)
                self.uses[key] = 0
            else:
                self.main.remove(key)
                self.uses[key] -= 1
            self.main.append(key)


PAIRS = {
    "LRU": (LRU, LRUModel),
    "MRU": (MRU, MRUModel),
    "FIFO": (FIFO, FIFOModel),
    "LFU": (LFU, LFUModel),
    "S3-FIFO": (S3FIFO, S3FIFOModel),
}


@pytest.fixture(scope="module")
def pairs():
    """Each policy's class and its model's, by name."""
    return PAIRS


@pytest.fixture(scope="module", params=PAIRS)
def pair(request):
    """One policy's class and its model's."""
    return PAIRS[request.param]
