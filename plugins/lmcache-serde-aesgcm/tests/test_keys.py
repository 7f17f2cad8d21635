"""Where keys come from, and that nothing of them is ever shown."""

from __future__ import annotations

import pytest

from lmcache_core.api import KVSpec
from lmcache_core.errors import ConfigError
from lmcache_serde_aesgcm.config import AESGCMConfig
from lmcache_serde_aesgcm.keys import read_key
from lmcache_serde_aesgcm.serde import AESGCMSerde

KEY = bytes(range(32))
SPEC = KVSpec(dtype="", layout="", groups=())


@pytest.fixture
def key_file(tmp_path):
    path = tmp_path / "kv.key"
    path.touch(0o600)
    path.write_text(KEY.hex() + "\n")
    return path


def test_a_key_is_read_from_a_file(key_file, caplog):
    assert read_key("k1", f"file:{key_file}") == KEY
    assert not caplog.records


def test_a_key_is_read_from_the_environment(monkeypatch):
    monkeypatch.setenv("KV_KEY", KEY.hex().upper())
    assert read_key("k1", "env:KV_KEY") == KEY


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_a_file_that_others_may_read_is_warned_of(key_file, caplog, mode):
    key_file.chmod(mode)
    assert read_key("k1", f"file:{key_file}") == KEY
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "key_file.open_to_others" in caplog.text
    assert str(key_file) in caplog.text
    assert oct(mode) in caplog.text


@pytest.mark.parametrize(
    "content",
    [b"", KEY, KEY.hex()[:-1].encode(), KEY.hex().encode() + b"00", b"g" * 64, b"0" * 5000],
    ids=["empty", "raw", "short", "long", "no digits", "very long"],
)
def test_what_is_no_key_is_an_error_that_shows_nothing_of_it(key_file, content):
    key_file.write_bytes(content)
    with pytest.raises(ConfigError, match="64 hexadecimal digits") as failure:
        read_key("k1", f"file:{key_file}")
    assert KEY.hex()[:8] not in str(failure.value)
    assert failure.value.key == "keys"


def test_a_key_that_is_not_there_is_an_error_that_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.delenv("KV_KEY", raising=False)
    with pytest.raises(ConfigError, match=r"gone: No such file.*openssl rand -hex 32"):
        read_key("k1", f"file:{tmp_path / 'gone'}")
    with pytest.raises(ConfigError, match="no variable KV_KEY"):
        read_key("k1", "env:KV_KEY")
    with pytest.raises(ConfigError, match="directory"):
        read_key("k1", f"file:{tmp_path}")


def test_the_serde_fails_when_it_is_asked_to_accept_and_not_later(tmp_path, key_file):
    serde = AESGCMSerde(
        AESGCMConfig(
            keys={"k1": f"file:{key_file}", "k2": f"file:{tmp_path / 'gone'}"}, encrypt_with="k1"
        )
    )
    with pytest.raises(ConfigError, match="'k2' cannot be read"):
        serde.accept(SPEC)


def test_nothing_of_a_key_is_logged_or_shown(key_file, caplog):
    caplog.set_level("DEBUG", logger="lmcache")
    key_file.chmod(0o644)
    config = AESGCMConfig(keys={"k1": f"file:{key_file}"})
    serde = AESGCMSerde(config)
    serde.accept(SPEC)
    serde.encode(b"k" * 32, memoryview(b"payload"))
    assert "keys.read" in caplog.text
    shown = caplog.text + repr(serde) + repr(config) + serde.label
    assert KEY.hex()[:8] not in shown.lower()
    assert repr(KEY)[2:20] not in shown
