"""``make quickstart``'s program: what it shows, how it ends, and that it leaves nothing behind."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.net.ports import free_ports

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.vllm, pytest.mark.slow]


class Run:
    """One run of the quickstart on ports and in a folder of its own."""

    def __init__(self, folder: Path, ports: list[int], environment: dict[str, str]) -> None:
        self.folder, self.ports = folder, ports
        names = ("VLLM_PORT", "CONTROLLER_PORT", "MONITOR_PORT")
        self.environment = {
            **environment,
            **dict(zip(names, map(str, ports), strict=True)),
            "QUICKSTART_DIR": str(folder),
            "COLUMNS": "100",
        }

    def start(self, **variables: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "examples.pin.quickstart"],
            cwd=ROOT,
            env={**self.environment, **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(self, **variables: str) -> tuple[int, str, str]:
        process = self.start(**variables)
        try:
            out, err = process.communicate(timeout=290)
        except subprocess.TimeoutExpired:
            process.terminate()
            out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def left_running(self) -> list[str]:
        """Command lines of processes that carry this run's ports."""
        return [line for line in command_lines() if any(str(port) in line for port in self.ports)]


def command_lines() -> Iterator[str]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            yield path.read_bytes().replace(b"\0", b" ").decode(errors="replace")


@pytest.fixture
def run(tmp_path, clean_environment):
    return Run(tmp_path, free_ports(3), clean_environment)


def test_it_pins_floods_restarts_and_shows_that_the_pin_held(run):
    code, out, err = run.finish()
    assert code == 0, out[-4000:] + err
    answers = [json.loads(line) for line in out.splitlines() if line.startswith('{"event_id"')]
    assert [answer["num_tokens"] for answer in answers[:2]] == [12, 12]
    assert "the pinned prompt: 11 of 12 tokens from disk, the same answer" in " ".join(out.split())
    assert f"$ curl -X POST http://localhost:{run.ports[1]}/pin " in out
    rows = re.findall(r"│ ([\w' ]+?) +│ (yes|no) +│ +(\d+) │ +(\d+) │ +([^│]+?) │", out)
    assert [(name, pinned) for name, pinned, *_ in rows] == [
        ("the example's", "yes"),
        ("a short one", "no"),
        ("the long one", "yes"),
        ("a long one", "no"),
    ]
    for _, pinned, tokens, cached, source in rows:
        if pinned == "yes":
            assert int(cached) == int(tokens) - 1
            assert source == f"host: {cached}"
        else:
            assert int(cached) <= 1
    assert "Where to go next" in out
    assert run.left_running() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_everything(run, number):
    process = run.start()
    try:
        deadline = time.monotonic() + 60
        while not (run.folder / "vllm.log").exists():
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 128 + number
    assert "nothing was left running" in err
    assert run.left_running() == []


def test_a_port_in_use_is_one_sentence(run):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", run.ports[1]))
        taken.listen()
        code, _, err = run.finish()
    assert code == 1
    (sentence,) = err.strip().splitlines()
    assert sentence.startswith(f"port {run.ports[1]} is in use;")
    assert "CONTROLLER_PORT=" in sentence


def test_a_model_that_is_not_there_is_one_sentence(run):
    code, _, err = run.finish(MODEL="nobody/nothing", HF_HUB_OFFLINE="1")
    assert code == 1
    (sentence,) = err.strip().splitlines()
    assert sentence.startswith("MODEL=nobody/nothing is no folder with a config.json")
    assert "check the name and the network" in sentence


def test_a_vllm_that_ends_shows_the_end_of_its_log(run, tmp_path):
    model = tmp_path / "broken"
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "llama", "architectures": ["NoSuchModel"]}')
    code, _, err = run.finish(MODEL=str(model), HF_HUB_OFFLINE="1")
    assert code == 1
    *log, sentence = err.strip().splitlines()
    assert re.match(r"vLLM ended while starting \(exit code 1\)", sentence)
    assert str(tmp_path / "vllm.log") in sentence
    assert any("Error" in line for line in log)
    assert run.left_running() == []


def test_a_full_disk_is_one_sentence(run, monkeypatch):
    # A file system that is full cannot be had without privileges; what is
    # asked of it can.
    from examples.pin.quickstart import settings
    from examples.pin.quickstart.problem import Problem

    usage = os.statvfs_result((4096, 4096, 100, 10, 10, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _: usage)
    with pytest.raises(Problem, match=r"^not enough disk space: 1 GiB is needed"):
        settings.read_settings(run.environment)
