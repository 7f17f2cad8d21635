"""Who may use a server: passwords, users, certificates, and what is said of them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest

from lmcache_core.api import PutStatus, StorageBackend
from lmcache_core.errors import BackendError
from lmcache_core.testing.calls import put, read, remove, stat
from lmcache_core.testing.material import sample_frame
from tests.net.redis_servers import RedisServer

PASSWORD = "correct horse: battery@staple/%"
MIB = 1 << 20

Opened = Callable[..., StorageBackend]
OwnServer = Callable[..., RedisServer]

COMMANDS = ("get", "set", "strlen", "exists", "getrange", "unlink", "watch", "multi", "exec")
"""What the documentation says a user needs, beside what the client library says hello with."""


@pytest.fixture
def locked(own_server: OwnServer) -> RedisServer:
    """A server with a user of few rights."""
    server = own_server()
    allowed = [f"+{command}" for command in COMMANDS]
    server.run("ACL", "SETUSER", "cache", "on", f">{PASSWORD}", "~lmcache:*", *allowed)
    server.run("ACL", "SETUSER", "default", "off")
    return server


@pytest.mark.parametrize("where", ["url", "password", "password_file", "password_env"])
def test_a_user_of_few_rights_can_do_all_that_is_needed(
    opened: Opened,
    locked: RedisServer,
    where: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    monkeypatch.setenv("STORE_PASSWORD", PASSWORD)
    options = {
        "url": {"url": f"redis://cache:{quote(PASSWORD, safe='')}@127.0.0.1:{locked.port}"},
        "password": {"url": locked.url, "username": "cache", "password": PASSWORD},
        "password_file": {
            "url": locked.url,
            "username": "cache",
            "password_file": str(tmp_path / "password"),
        },
        "password_env": {
            "url": locked.url,
            "username": "cache",
            "password_env": "STORE_PASSWORD",
        },
    }[where]
    backend = opened(**options)
    assert put(backend, 1, 4 * MIB) is PutStatus.STORED
    assert stat(backend, 1) == 4 * MIB
    assert read(backend, 1, 4 * MIB) == bytes(sample_frame(1, 4 * MIB))
    assert remove(backend, 1) is True
    assert PASSWORD not in caplog.text
    assert quote(PASSWORD, safe="") not in caplog.text


def test_a_password_that_was_changed_is_read_anew(
    opened: Opened, own_server: OwnServer, tmp_path: Path
) -> None:
    server = own_server("--requirepass", "old")
    file = tmp_path / "password"
    file.write_text("old")
    backend = opened(url=server.url, password_file=str(file))
    server.kill()
    server._options[-1] = "new"
    server.start()
    file.write_text("new")
    assert stat(backend, 1) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "NOAUTH Authentication required.; give username and password"),
        ({"username": "cache", "password": "wrong"}, "invalid username-password pair"),
        ({"password_file": "nowhere"}, "password_file nowhere cannot be read: No such file"),
        ({"password_env": "NO_SUCH_VARIABLE"}, "no variable NO_SUCH_VARIABLE"),
        (
            {"username": "cache", "password": PASSWORD, "key_prefix": "other"},
            "NOPERM .*; the user needs get, set, ",
        ),
    ],
)
def test_who_may_not_is_told_so_without_the_password(
    opened: Opened, locked: RedisServer, options: dict[str, str], message: str
) -> None:
    with pytest.raises(BackendError, match=message) as failure:
        opened(url=locked.url, **options)
    assert options.get("password", "no password") not in str(failure.value)


def test_an_unknown_authority_is_refused(opened: Opened, encrypted_server: RedisServer) -> None:
    with pytest.raises(BackendError, match="certificate verify failed"):
        opened(url=encrypted_server.url, password="kit")


def test_a_certificate_of_another_host_is_refused_unless_told_not_to_look(
    opened: Opened, encrypted_server: RedisServer, certificates: Path
) -> None:
    ca = str(certificates / "ca.pem")
    url = f"rediss://localhost:{encrypted_server.port}"
    with pytest.raises(BackendError, match="certificate is not valid for 'localhost'"):
        opened(url=url, password="kit", tls_ca=ca)
    opened(url=url, password="kit", tls_ca=ca, tls_check_hostname=False)


def test_a_server_that_asks_for_a_certificate_gets_one(
    opened: Opened, encrypted_server: RedisServer, certificates: Path
) -> None:
    encrypted_server.run("CONFIG", "SET", "tls-auth-clients", "yes")
    encrypted_server.identity = {
        "ssl_certfile": str(certificates / "client.pem"),
        "ssl_keyfile": str(certificates / "client.key"),
    }
    try:
        ca = {"tls_ca": str(certificates / "ca.pem"), "password": "kit"}
        with pytest.raises(BackendError):
            opened(url=encrypted_server.url, **ca)
        own = {
            "tls_cert": str(certificates / "client.pem"),
            "tls_key": str(certificates / "client.key"),
        }
        backend = opened(url=encrypted_server.url, **ca, **own)
        assert put(backend, 1, 4 * MIB) is PutStatus.STORED
        assert read(backend, 1, 4 * MIB) == bytes(sample_frame(1, 4 * MIB))
    finally:
        encrypted_server.run("CONFIG", "SET", "tls-auth-clients", "optional")
        encrypted_server.identity = {}
