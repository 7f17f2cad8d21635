"""Who may ask: loopback, tokens, exposure."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.controller.controller_process import ControllerProcess

TOKEN = "correct-horse-battery"
PATHS = ["/pin", "/pins", "/v1/pins", "/v1/instances", "/plugins", "/metrics", "/readyz", "/schema"]


@pytest.mark.parametrize("how", ["file", "environment"])
def test_with_a_token_every_route_but_healthz_needs_it(tmp_path: Path, how: str) -> None:
    flags: list[str] = []
    environ = {}
    if how == "file":
        (tmp_path / "token").write_text(TOKEN + "\n")
        flags = ["--token-file", str(tmp_path / "token")]
    else:
        environ = {"LMCACHE_CONTROLLER_TOKEN": TOKEN}
    with ControllerProcess(tmp_path / "log", *flags, environ=environ) as controller:
        client = controller.client
        assert client.get("/healthz").status_code == 200
        for path in [*PATHS, "/nowhere", "/healthz/"]:
            refused = client.get(path)
            assert refused.status_code == 401, path
            assert refused.headers["www-authenticate"].startswith("Bearer")
            assert refused.headers["content-type"] == "application/problem+json"
        for wrong in ("Bearer wrong-token", f"Basic {TOKEN}", f"bearer{TOKEN}", "", "Bearer"):
            assert client.get("/pins", headers={"Authorization": wrong}).status_code == 401
        right = {"Authorization": f"Bearer {TOKEN}"}
        for path in PATHS[1:]:
            assert client.get(path, headers=right).status_code == 200, path
        assert client.get("/nowhere", headers=right).status_code == 404
        assert TOKEN not in (tmp_path / "log").read_text()


def test_a_page_of_another_site_may_not_ask(controller: ControllerProcess) -> None:
    own = controller.url
    for origin, status in ((own, 200), ("http://evil.example", 403), ("null", 403)):
        for method, path in (("POST", "/pins"), ("GET", "/v1/pins")):
            answer = controller.client.request(method, path, headers={"Origin": origin})
            assert answer.status_code == status, (origin, path)
    assert answer.json()["type"] == "urn:lmcache:problem:foreign-origin"


def test_a_site_whose_name_was_made_to_mean_loopback_may_not_ask(
    controller: ControllerProcess,
) -> None:
    port = controller.url.rpartition(":")[2]
    for name, status in (
        ("evil.example", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("localhost", 200),
        ("LOCALHOST", 200),
        ("127.0.0.1", 200),
        ("[::1]", 200),
        (socket.gethostname(), 200),
    ):
        for host in (name, f"{name}:{port}"):
            headers = {"Host": host, "Origin": f"http://{host}"}
            assert controller.client.post("/pins", headers=headers).status_code == status, host
            read = controller.client.get("/v1/pins", headers={"Host": host})
            assert read.status_code == status, host


def test_with_a_token_other_addresses_are_served(tmp_path: Path) -> None:
    environ = {"LMCACHE_CONTROLLER_TOKEN": TOKEN}
    with ControllerProcess(tmp_path / "log", "--host", "0.0.0.0", environ=environ) as controller:
        assert controller.client.get("/pins").status_code == 401
        assert controller.monitor
        right = {"Authorization": f"Bearer {TOKEN}", "Host": "kv.example"}
        assert controller.client.get("/pins", headers=right).status_code == 200


def test_insecure_serves_everybody_when_it_is_said(tmp_path: Path) -> None:
    with ControllerProcess(
        tmp_path / "log", "--host", "0.0.0.0", "--insecure", "--monitor-host", "0.0.0.0"
    ) as controller:
        assert controller.client.get("/pins").status_code == 200
        named = controller.client.get("/pins", headers={"Host": "kv.example"})
        assert named.status_code == 200
        assert "monitor_exposed" in controller.log.read_text()
