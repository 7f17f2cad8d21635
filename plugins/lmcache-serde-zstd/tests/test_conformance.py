"""The kit of serdes."""

from __future__ import annotations

import pytest

from lmcache_core.testing import SerdeTests
from lmcache_serde_zstd.config import ZstdConfig
from lmcache_serde_zstd.serde import ZstdSerde


class TestZstd(SerdeTests):
    @pytest.fixture(params=[-3, 1, 19])
    def level(self, request):
        return request.param

    @pytest.fixture
    def make_serde(self, level):
        return lambda: ZstdSerde(ZstdConfig(level=level))
