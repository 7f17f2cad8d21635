"""The kit of serdes."""

from __future__ import annotations

import pytest

from lmcache_core.testing import SerdeTests
from lmcache_serde_aesgcm.config import AESGCMConfig
from lmcache_serde_aesgcm.serde import AESGCMSerde


class TestAESGCM(SerdeTests):
    authenticates = True

    @pytest.fixture
    def make_serde(self, monkeypatch):
        monkeypatch.setenv("KV_KEY", "5a" * 32)
        return lambda: AESGCMSerde(AESGCMConfig(keys={"k1": "env:KV_KEY"}))

    @pytest.fixture
    def make_unusable_serde(self, tmp_path):
        return lambda: AESGCMSerde(AESGCMConfig(keys={"k1": f"file:{tmp_path / 'gone'}"}))
