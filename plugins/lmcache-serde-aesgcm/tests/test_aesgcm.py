"""Only what was encrypted for a chunk is decrypted, and only with its key."""

from __future__ import annotations

import hashlib
import threading

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from lmcache_core.api import KVSpec
from lmcache_core.config import plugin_section
from lmcache_core.errors import ConfigError, SerdeError
from lmcache_serde_aesgcm.config import AESGCMConfig
from lmcache_serde_aesgcm.serde import AESGCMSerde

CHUNK, OTHER_CHUNK = b"k" * 32, b"o" * 32
SPEC = KVSpec(dtype="bfloat16", layout="LBHNC", groups=())


def secret(name):
    return hashlib.sha256(name.encode()).hexdigest()


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """Make a serde with keys of these names in files; the last one encrypts."""
    folder = tmp_path_factory.mktemp("keys")

    def make(*names, contents=secret):
        keys = {}
        for name in names:
            path = folder / f"{name}-{contents(name)[:8]}"
            path.touch(0o600)
            path.write_text(contents(name) + "\n")
            keys[name] = f"file:{path}"
        serde = AESGCMSerde(AESGCMConfig(keys=keys, encrypt_with=names[-1]))
        serde.accept(SPEC)
        return serde

    return make


@pytest.fixture(scope="module")
def serde(make):
    return make("k1")


def decode(serde, stored, nbytes, chunk=CHUNK):
    target = bytearray(b"\xaa" * nbytes)
    serde.decode(chunk, memoryview(stored), memoryview(target))
    return bytes(target)


payloads = st.one_of(
    st.binary(max_size=300),
    st.builds(
        lambda run, times: run * times, st.binary(min_size=1, max_size=7), st.integers(1, 30_000)
    ),
)


@given(payload=payloads)
def test_a_payload_comes_back_for_its_own_chunk_only(serde, payload):
    stored = bytes(serde.encode(CHUNK, memoryview(payload)))
    assert decode(serde, stored, len(payload)) == payload
    with pytest.raises(SerdeError, match="was not encrypted for this chunk"):
        decode(serde, stored, len(payload), OTHER_CHUNK)


def test_what_is_stored_is_aes_256_gcm_as_the_documentation_says(serde):
    stored = bytes(serde.encode(CHUNK, memoryview(b"payload")))
    assert stored[:4] == b"\x01\x02k1"
    plain = AESGCM(bytes.fromhex(secret("k1"))).decrypt(
        stored[4:16], stored[16:], b"\x01\x02k1" + CHUNK
    )
    assert plain == b"payload"


def test_no_two_payloads_look_alike_and_none_shows(serde):
    payload = b"find me " * 1000
    stored = [bytes(serde.encode(CHUNK, memoryview(payload))) for _ in range(50)]
    assert len({one[4:16] for one in stored}) == 50
    assert len({one[16:] for one in stored}) == 50
    assert not any(b"find me" in one for one in stored)


@given(payload=payloads, data=st.data())
def test_a_flipped_bit_anywhere_is_an_error(serde, payload, data):
    stored = bytearray(serde.encode(CHUNK, memoryview(payload)))
    # The version, the id's length, the id, the nonce, the ciphertext, the tag.
    at = data.draw(st.one_of(st.integers(0, 15), st.integers(0, len(stored) - 1)))
    at = data.draw(st.sampled_from([at, len(stored) - 1, len(stored) - 16]))
    stored[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(SerdeError):
        decode(serde, bytes(stored), len(payload))


@given(payload=payloads, data=st.data())
def test_bytes_cut_short_or_longer_are_an_error(serde, payload, data):
    stored = bytes(serde.encode(CHUNK, memoryview(payload)))
    end = data.draw(st.integers(0, len(stored) - 1))
    for wrong in (stored[:end], stored[end + 1 :], stored + b"\0", stored + stored):
        with pytest.raises(SerdeError):
            decode(serde, wrong, len(payload))


@given(stored=st.binary(max_size=120), nbytes=st.integers(0, 100))
def test_any_bytes_are_an_error(serde, stored, nbytes):
    for bytes_ in (stored, b"\x01\x02k1" + stored, b"\x01" + stored):
        with pytest.raises(SerdeError):
            decode(serde, bytes_, nbytes)


def test_a_payload_of_another_length_is_an_error(serde):
    stored = bytes(serde.encode(CHUNK, memoryview(bytes(100))))
    for nbytes in (0, 99, 101):
        with pytest.raises(SerdeError, match=f"100 bytes are encrypted, and {nbytes} are wanted"):
            decode(serde, stored, nbytes)


def test_the_id_of_another_key_that_is_known_is_an_error(make):
    serde = make("k1", "k2")
    stored = bytes(serde.encode(CHUNK, memoryview(b"payload")))
    assert stored[:4] == b"\x01\x02k2"
    with pytest.raises(SerdeError):
        decode(serde, b"\x01\x02k1" + stored[4:], 7)


def test_keys_are_rotated_by_their_ids(make):
    old = make("k1")
    both = make("k1", "k2")
    new = make("k2")
    first = bytes(old.encode(CHUNK, memoryview(b"of old")))
    second = bytes(both.encode(CHUNK, memoryview(b"of new")))
    assert (old.label, both.label, new.label) == ("k1", "k2", "k2")
    assert decode(both, first, 6) == b"of old"
    assert decode(both, second, 6) == decode(new, second, 6) == b"of new"
    with pytest.raises(SerdeError, match="encrypted with key 'k1'; configured are k2"):
        decode(new, first, 6)
    with pytest.raises(SerdeError, match="encrypted with key 'k2'; configured are k1"):
        decode(old, second, 6)


def test_another_key_of_the_same_id_is_an_error(make, serde):
    other = make("k1", contents=lambda name: secret(name + "another"))
    stored = bytes(other.encode(CHUNK, memoryview(b"payload")))
    assert decode(other, stored, 7) == b"payload"
    with pytest.raises(SerdeError, match="called 'k1' here"):
        decode(serde, stored, 7)


def test_threads_share_one_serde(make):
    serde = make("k1", "k2")
    failures = []

    def work(number):
        payload = bytes([number]) * 300_000
        for _ in range(8):
            stored = serde.encode(CHUNK, memoryview(payload))
            if decode(serde, stored, len(payload)) != payload:
                failures.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert not failures
    serde.close()
    serde.close()


def test_a_section_that_cannot_be_meant_is_an_error_without_the_key():
    key = secret("k1")
    for section, message in (
        ({}, "keys"),
        ({"keys": {}}, "keys is empty"),
        ({"keys": {"k 1": "env:K"}}, "k 1"),
        ({"keys": {"k" * 33: "env:K"}}, "1 to 32"),
        ({"keys": {"k1": key}}, "neither file:PATH nor env:NAME"),
        ({"keys": {"k1": "file:"}}, "neither file:PATH nor env:NAME"),
        ({"keys": {"k1": "env:A", "k2": "env:B"}}, "encrypt_with has to say"),
        ({"keys": {"k1": "env:A"}, "encrypt_with": "k2"}, "encrypt_with is 'k2'; the keys are k1"),
        ({"keys": {"k1": "env:A"}, "key": key}, "no key 'key'"),
    ):
        with pytest.raises(ConfigError, match=message) as failure:
            plugin_section(AESGCMConfig, section, "serde aesgcm")
        assert key not in str(failure.value)
