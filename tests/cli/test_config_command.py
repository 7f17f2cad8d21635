"""``lmcache config`` prints what a configuration comes to and where it came from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from lmcache_core.cli.main import main
from lmcache_core.config import engine_schema


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("LMCACHE_CONFIG_FILE", "LMCACHE_CHUNK_SIZE"):
        monkeypatch.delenv(name, raising=False)

    def run(text: str, *flags: str, env: dict[str, str] | None = None) -> Result:
        path = tmp_path / "lmcache.yaml"
        path.write_text(text)
        return CliRunner().invoke(main, ["config", "check", str(path), *flags], env=env)

    return run


def line(result: Result, key: str) -> list[str]:
    (found,) = [row for row in result.stdout.splitlines() if row.split()[0] == key]
    return [cell.strip() for cell in found.split("  ") if cell.strip()]


def test_every_value_has_its_source(check, tmp_path: Path) -> None:
    result = check(
        "chunk_size: 64\nmax_local_cpu_size: 2\nenable_controller: yes\nlmcache_worker_port: 1",
        env={"LMCACHE_CHUNK_SIZE": "128"},
    )
    assert result.exit_code == 0, result.output
    source = f"file {tmp_path / 'lmcache.yaml'}"
    assert line(result, "chunk_size") == ["chunk_size", "128", "environment LMCACHE_CHUNK_SIZE"]
    assert line(result, "storage[0]") == ["storage[0]", "LocalCPUBackend, 2 GiB", source]
    assert line(result, "controller_url") == ["controller_url", "tcp://localhost:9001", "default"]
    assert line(result, "weights_epoch") == ["weights_epoch", "0", "default"]
    assert line(result, "pin_owner_quota") == ["pin_owner_quota", "none", "default"]
    assert line(result, "enable_controller") == ["enable_controller", "true", source]
    assert "note: lmcache_worker_port is ignored" in result.stdout


def test_json_is_the_same(check) -> None:
    result = check("chunk_size: 64\nlmcache_worker_port: 1", "--json")
    document = json.loads(result.stdout)
    assert document["config"]["chunk_size"] == 64
    assert document["config"]["tiers"][0]["backend"] == "LocalCPUBackend"
    assert document["origin"]["chunk_size"].startswith("file ")
    assert document["origin"]["cache_policy"] == "default"
    assert any("lmcache_worker_port" in notice for notice in document["notices"])


def test_a_tier_is_shown_with_its_rules_and_a_serde_that_is_not_installed_is_a_note(check) -> None:
    text = (
        "storage: [{backend: LocalCPUBackend, max_size: 1}, "
        "{backend: LocalDiskBackend, path: /x, serde: [nosuch, {name: nosuch2, level: 1}], "
        "write: back, admit: {min_reuse: 2}}]"
    )
    result = check(text)
    assert result.exit_code == 0, result.output
    assert "unknown serde 'nosuch'" in result.stdout
    tier = " ".join(line(result, "storage[1]"))
    assert "serde: nosuch, nosuch2, write: back, promote: false, min_reuse: 2" in tier


def test_a_backend_that_is_not_installed_is_a_note(check) -> None:
    text = "storage: [{backend: LocalCPUBackend, max_size: 1}, {backend: NoSuchBackend}]"
    result = check(text)
    assert result.exit_code == 0
    assert "note: unknown backend 'NoSuchBackend'" in result.stdout


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cache_policy: lru2", "note: unknown eviction policy 'lru2'"),
        ("controller_url: nats://h:1", "note: unknown controller transport 'nats'"),
    ],
)
def test_so_is_a_policy_or_a_transport(check, text: str, words: str) -> None:
    result = check(text)
    assert result.exit_code == 0
    assert words in result.stdout
    assert "note: unknown" not in check("cache_policy: lru\nenable_controller: true").stdout


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("chunk_sise: 3", "did you mean 'chunk_size'?"),
        ("chunk_size: 256k", "no whole number"),
        ("enable_p2p: true", "enable_p2p is refused"),
        ("chunk_size: [", "not readable as YAML"),
        (
            "storage: [{backend: LocalDiskBackend, max_size: 1, path: /x}]",
            "the first tier has to be a memory backend, for example LocalCPUBackend",
        ),
    ],
)
def test_a_mistake_is_one_line_and_status_2(check, text: str, words: str) -> None:
    result = check(text)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert words in result.stderr
    assert result.stderr.count("\n") == 1


def test_the_schema_is_printed() -> None:
    result = CliRunner().invoke(main, ["config", "schema"])
    assert json.loads(result.stdout) == engine_schema()


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_no_password_is_printed(check, flags: tuple[str, ...]) -> None:
    result = check(
        "storage:\n"
        "  - {backend: LocalCPUBackend, max_size: 1}\n"
        "  - {backend: unheard, url: 'redis://me:hush@host:1', password: hush, "
        "password_file: /run/x, nested: {aws_secret_access_key: hush, list: ['a://hush@b']}}\n",
        *flags,
    )
    assert result.exit_code == 0, result.output
    assert "hush" not in result.stdout
    assert "redis://***@host:1" in result.stdout
    assert "/run/x" in result.stdout
