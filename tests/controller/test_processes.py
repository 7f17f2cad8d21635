"""Controller and engines as processes: killed, frozen, started in any order."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.controller.controller_process import ControllerProcess, clean_environment
from tests.controller.engine_peer import MEMORY, EnginePeer, eventually
from tests.net.ports import free_port

ROOT = Path(__file__).parents[2]
PROMPT = list(range(1000))


@contextlib.contextmanager
def engine_process(address: str, instance_id: str = "child") -> Iterator[subprocess.Popen[bytes]]:
    """An engine that has cached the prompt, once it has been welcomed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.controller.engine_peer", address, instance_id, "0.3"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        env=clean_environment(),
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def pin(controller: ControllerProcess, timeout_s: float = 10) -> tuple[int, object]:
    body = {"instance_id": "child", "location": MEMORY, "tokens": PROMPT, "timeout_s": timeout_s}
    answer = controller.post("/pin", **body)
    return answer.status_code, answer.json().get("num_tokens")


def test_a_frozen_engine_is_504_and_then_503_and_recovers(controller: ControllerProcess) -> None:
    with engine_process(controller.monitor) as engine:
        assert pin(controller) == (200, 1000)
        engine.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        assert pin(controller, 0.4) == (504, None)
        assert time.monotonic() - began < 3
        eventually(lambda: pin(controller, 0.4)[0] == 503)
        assert controller.post("/lookup", tokens=PROMPT).json()["layout_info"] == {}
        engine.send_signal(signal.SIGCONT)
        eventually(lambda: pin(controller) == (200, 1000))


def test_a_killed_engine_is_503_within_its_heartbeats(controller: ControllerProcess) -> None:
    with engine_process(controller.monitor) as engine:
        assert pin(controller) == (200, 1000)
        engine.kill()
        engine.wait()
        began = time.monotonic()
        assert pin(controller)[0] in (503, 504)
        assert time.monotonic() - began < 5
    with engine_process(controller.monitor):
        eventually(lambda: pin(controller) == (200, 1000))


def test_a_killed_controller_comes_back_with_everything(own_controller: ControllerProcess) -> None:
    with engine_process(own_controller.monitor):
        assert pin(own_controller) == (200, 1000)
        body = {"placements": [{"instance_id": "child", "location": MEMORY}], "tokens": PROMPT}
        made = own_controller.client.put("/v1/pins/kept", json={**body, "ttl_s": 500})
        assert made.status_code == 201
        own_controller.kill()
        own_controller.start()
        eventually(lambda: own_controller.state("child") == "live")
        eventually(
            lambda: (
                own_controller.post("/lookup", tokens=PROMPT).json()["layout_info"]
                == {"child": [MEMORY, 1000]}
            )
        )
        pins = own_controller.post("/pins").json()["pins"]
        assert len(pins) == 2
        assert {p["state"] for p in pins} == {"active"}
        shown = own_controller.client.get("/v1/pins/kept").json()
        assert shown["version"] == made.json()["version"]
        assert abs(shown["expires_at"] - made.json()["expires_at"]) < 2
        # The content is the same as before, although only the rest of its time is known.
        again = own_controller.client.put("/v1/pins/kept", json={**body, "ttl_s": 500})
        assert again.status_code == 200
        released = own_controller.post(
            "/unpin", instance_id="child", location=MEMORY, tokens=PROMPT
        )
        assert released.json()["num_tokens"] == 1000
        assert pin(own_controller) == (200, 1000)


def test_a_frozen_controller_loses_no_engine(own_controller: ControllerProcess) -> None:
    with engine_process(own_controller.monitor):
        own_controller.process.send_signal(signal.SIGSTOP)
        time.sleep(1.5)  # five heartbeats: what is tested is that they pass
        own_controller.process.send_signal(signal.SIGCONT)
        eventually(lambda: own_controller.state("child") == "live")
        eventually(lambda: pin(own_controller) == (200, 1000))


def test_engines_may_be_first(tmp_path: Path) -> None:
    port = free_port()
    peers = [EnginePeer(f"tcp://127.0.0.1:{port}", f"early{n}") for n in range(3)]
    try:
        with ControllerProcess(tmp_path / "log", "--monitor-port", str(port)) as controller:
            for peer in peers:
                peer.wait_welcome()
            assert len(controller.client.get("/v1/instances").json()["instances"]) == 3
    finally:
        for peer in peers:
            peer.stop()


def test_a_controller_that_stops_lets_waiting_requests_go(
    own_controller: ControllerProcess,
) -> None:
    import concurrent.futures

    with own_controller.peer("silent") as peer:
        peer.answering = False
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(
                own_controller.post, "/pin", instance_id="silent", location=MEMORY, tokens=[1]
            )
            eventually(lambda: peer.commands)
            began = time.monotonic()
            own_controller.process.terminate()
            assert waiting.result().status_code == 503
            assert own_controller.process.wait(10) == 0
        assert time.monotonic() - began < 5


def test_it_imports_neither_torch_nor_vllm_and_stays_small(controller: ControllerProcess) -> None:
    code = (
        "import sys, lmcache_core.controller.server;"
        "from lmcache_core.plugins import PluginRegistry; PluginRegistry.discover();"
        "from lmcache_core.controller.routes import ROUTES;"
        "print([m for m in ('torch', 'vllm', 'numpy') if m in sys.modules])"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, env=clean_environment()
    )
    assert out.stdout.strip() == b"[]"
    status = Path(f"/proc/{controller.process.pid}/status").read_text()
    resident_kib = int(status.partition("VmRSS:")[2].split()[0])
    assert resident_kib < 90 * 1024
