"""``lmcache`` against a controller: pin, unpin, pins, lookup, move, clear, jobs, adopt, warm."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from lmcache_core.api.messages import RecodeCommand
from lmcache_core.cli.main import main
from lmcache_core.keys import Scope
from tests.controller.completions import TOO_LONG, completions
from tests.controller.controller_process import ControllerProcess
from tests.controller.engine_peer import DISK, MEMORY, EnginePeer, eventually

PROMPT = list(range(1, 43))
TOKENS = ",".join(map(str, PROMPT))
TOKEN = "a-token-of-this-test"


@pytest.fixture(scope="module")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControllerProcess]:
    environ = {"LMCACHE_CONTROLLER_TOKEN": TOKEN}
    headers = {"Authorization": f"Bearer {TOKEN}"}
    log = tmp_path_factory.mktemp("cli") / "log"
    with ControllerProcess(log, environ=environ, headers=headers) as process:
        yield process


@pytest.fixture
def peer(controller: ControllerProcess) -> Iterator[EnginePeer]:
    with controller.peer("node") as engine:
        engine.cache(PROMPT)
        yield engine


class Command:
    """Runs ``lmcache`` in the environment of somebody who works with one controller."""

    def __init__(self, controller: ControllerProcess) -> None:
        self.env: dict[str, str | None] = {
            "LMCACHE_CONTROLLER_PORT": controller.url.rpartition(":")[2],
            "LMCACHE_CONTROLLER_TOKEN": TOKEN,
        }

    def __call__(self, *arguments: str, stdin: str | None = None) -> Result:
        return CliRunner().invoke(main, list(arguments), input=stdin, env=self.env)

    def json(self, *arguments: str, stdin: str | None = None) -> Any:
        result = self(*arguments, "--json", stdin=stdin)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)


@pytest.fixture
def lmcache(controller: ControllerProcess) -> Command:
    return Command(controller)


WHERE = ("--instance", "node", "--location", MEMORY)


def test_a_pin_is_made_listed_shown_and_released(lmcache: Command, peer: EnginePeer) -> None:
    made = lmcache(
        "pin", "greeting", *WHERE, "--tokens", TOKENS, "--ttl", "7230s", "--owner", "me",
        "--label", "team=a", "--on-missing", "fail", "--renew",
    )  # fmt: skip
    assert made.exit_code == 0, made.output
    for word in ("greeting", "active", "42 of 42", "me", "2h00m", f"node:{MEMORY}", "team=a"):
        assert word in made.stdout
    (shown,) = lmcache.json("pins", "greeting")
    assert (shown["ttl_s"], shown["renew"], shown["on_missing"]) == (7230, "on_hit", "fail")
    for flags, count in (
        ((), 1),
        (("--owner", "me", "--label", "team=a", "--state", "active"), 1),
        (("--owner", "you"), 0),
        (("--label", "team=b"), 0),
    ):
        assert len(lmcache.json("pins", *flags)) == count
    assert lmcache("pins", "--owner", "you").stdout == "no pins\n"
    released = lmcache("unpin", "greeting")
    assert released.stdout == "greeting: released\n"
    assert not peer.held


def test_a_pin_without_a_name_gets_one(lmcache: Command, peer: EnginePeer) -> None:
    made = lmcache.json("pin", *WHERE, "--tokens", TOKENS)
    assert list(peer.held) == [made["pin_id"]]
    (answer,) = lmcache.json("unpin", made["pin_id"])
    assert answer["state"] == "released"


@pytest.mark.parametrize(
    ("value", "stdin"),
    [
        (json.dumps(PROMPT), None),
        (" ".join(map(str, PROMPT)), None),
        ("-", "\n".join(map(str, PROMPT))),
        ("-", json.dumps({"count": 42, "tokens": PROMPT})),
        ("@FILE", None),
    ],
)
def test_tokens_come_as_text_from_a_file_and_from_standard_input(
    lmcache: Command, peer: EnginePeer, tmp_path: Path, value: str, stdin: str | None
) -> None:
    file = tmp_path / "tokens.json"
    file.write_text(json.dumps(PROMPT))
    found = lmcache("lookup", "--tokens", value.replace("FILE", str(file)), stdin=stdin)
    assert found.exit_code == 0, found.output
    assert found.stdout.splitlines()[1].split() == ["node", MEMORY, "42"]


def test_nobody_who_holds_anything_is_said(lmcache: Command, peer: EnginePeer) -> None:
    assert lmcache("lookup", "--tokens", "7 7 7").stdout == "nobody holds any of it\n"


def test_pins_are_warmed(lmcache: Command, controller: ControllerProcess) -> None:
    with (
        completions(lambda body, _headers: peer.cache(body["prompt"])) as server,
        controller.peer("node", serving_url=server.url) as peer,
    ):
        assert lmcache("warm", "--all").stdout == "nothing to warm\n"
        for name, tokens in (("good", TOKENS), ("long", f"{TOO_LONG} 2 3")):
            pin = ("pin", name, *WHERE, "--tokens", tokens, "--on-missing", "reserve")
            assert lmcache(*pin, "--label", f"name={name}").exit_code == 0
        event = lmcache("warm", "--label", "name=none", "--no-wait").stdout.partition(":")[0]
        assert lmcache.json("jobs", event)[0]["operation"] == "WarmPins"
        warmed = lmcache("warm", "good", "--prompt-timeout", "30s")
        assert warmed.exit_code == 0, warmed.output
        row = ["good", f"node:{MEMORY}", "active", "42", "of", "42", "yes", "-"]
        assert warmed.stdout.splitlines()[1].split() == row
        failed = lmcache("warm", "--state", "pending", "--namespace", "peer", "--json")
        assert failed.exit_code == 1
        (placement,) = json.loads(failed.stdout)["placements"]
        assert placement["pin_id"] == "long"
        assert "maximum context length" in placement["reason"]
        assert len(lmcache.json("pins", "--namespace", "peer")) == 2
        assert lmcache("unpin", "good", "long").exit_code == 0


def test_what_cannot_be_released_keeps_nothing_else(lmcache: Command, peer: EnginePeer) -> None:
    for name in ("one", "two"):
        assert lmcache("pin", name, *WHERE, "--tokens", TOKENS).exit_code == 0
    result = lmcache("unpin", "one", "none", "two", "nor-this", "--json")
    assert result.exit_code == 1
    assert [answer["pin_id"] for answer in json.loads(result.stdout)] == ["one", "two"]
    assert "unknown pin 'none'" in result.stderr
    assert "unknown pin 'nor-this'" in result.stderr
    assert not peer.held


def test_a_plan_tells_what_it_would_cost_and_pins_nothing(
    lmcache: Command, peer: EnginePeer
) -> None:
    # The scripted engine says that pins may take 128 bytes, four a token.
    small = lmcache("pin", *WHERE, "--tokens", "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16", "--plan")
    assert (small.exit_code, small.stdout.splitlines()[1].split()[1]) == (0, "yes")
    much = lmcache("pin", *WHERE, "--tokens", TOKENS, "--plan")
    assert much.exit_code == 1
    assert "more than they may" in much.stdout
    assert not peer.held


def test_what_exists_is_replaced_only_on_demand(lmcache: Command, peer: EnginePeer) -> None:
    first = lmcache("pin", "mine", *WHERE, "--tokens", TOKENS, "--replace")
    assert first.exit_code == 0, first.output
    refused = lmcache("pin", "mine", *WHERE, "--tokens", "1 2 3")
    assert refused.exit_code == 1
    assert "exists with other content" in refused.stderr
    assert "--replace" in refused.stderr
    assert lmcache("pin", "mine", *WHERE, "--tokens", "1 2 3", "--replace").exit_code == 0
    assert lmcache("unpin", "mine").exit_code == 0


def test_chunks_are_compressed_and_decompressed(lmcache: Command, peer: EnginePeer) -> None:
    where = ("--instance", "node", "--location", DISK, "--method", "zstd")
    peer.facts = {"recoded_chunks": 2, "not_shorter_chunks": 1, "full_chunks": 0, "saved_bytes": 9}
    packed = lmcache("compress", *where, "--tokens", TOKENS)
    assert packed.stdout.splitlines() == [
        f"0 tokens in {DISK} of node were encoded anew, which takes 9 bytes less",
        "recoded: 2 chunks",
        "not shorter: 1 chunks",
    ]
    peer.facts = {"saved_bytes": -9}
    assert "9 bytes more" in lmcache("decompress", *where, "--all").stdout
    one, other = peer.asked(RecodeCommand)
    assert (len(one.tokens) // 4, one.undo) == (len(PROMPT), False)
    assert (other.tokens, other.undo, other.serdes) == (b"", True, ("zstd",))
    assert lmcache.json("compress", *where, "--all")["saved_bytes"] == -9
    assert lmcache("compress", *where).exit_code == 2
    assert lmcache("compress", *where, "--all", "--tokens", "1").exit_code == 2
    assert lmcache("decompress", *where[:4], "--all").exit_code == 2


def test_chunks_are_moved_and_cleared(lmcache: Command, peer: EnginePeer) -> None:
    moved = lmcache("move", "--from", f"node:{MEMORY}", "--to", f"node:{DISK}", "--tokens", "1 2")
    assert moved.stdout == f"0 tokens are in {DISK} of node\n"
    assert lmcache("clear", *WHERE).exit_code == 2
    assert lmcache("clear", *WHERE, "--all", "--tokens", "1").exit_code == 2
    cleared = lmcache("clear", *WHERE, "--all")
    assert cleared.stdout.endswith(f"tokens dropped from {MEMORY} of node\n")
    assert not peer.keys[MEMORY]


def test_jobs_are_listed_shown_and_waited_for(lmcache: Command, peer: EnginePeer) -> None:
    event = lmcache.json("clear", *WHERE, "--all")["event_id"]
    listed = lmcache.json("jobs", "--operation", "Clear", "--limit", "1")
    assert [job["event_id"] for job in listed] == [event]
    shown = lmcache("jobs", event, "--wait")
    assert shown.exit_code == 0, shown.output
    assert "done" in shown.stdout
    assert "1 of 1" in shown.stdout
    lmcache("clear", "--instance", "node", "--location", "nowhere", "--all")
    (failed,) = lmcache.json("jobs", "--state", "failed", "--limit", "1")
    shown = lmcache("jobs", failed["event_id"])
    assert shown.exit_code == 1
    assert "unknown location" in shown.stdout


def test_a_running_job_is_waited_for(
    lmcache: Command, peer: EnginePeer, controller: ControllerProcess
) -> None:
    go_on = threading.Event()
    peer.before_reply = lambda _command: go_on.wait(10)
    request = {"instance_id": "node", "location": MEMORY}
    clearing = threading.Thread(target=controller.post, args=("/clear",), kwargs=request)
    clearing.start()
    (job,) = eventually(
        lambda: controller.client.get("/v1/jobs", params={"state": "running"}).json()["jobs"]
    )
    far = controller.post("/check_finish", event_id=job["event_id"]).json()
    assert far == {"status": "running", "asked": 1, "answered": 0}
    threading.Timer(0.4, go_on.set).start()
    shown = lmcache("jobs", job["event_id"], "--wait", "--json")
    clearing.join()
    assert json.loads(shown.stdout)[0]["state"] == "done"


def test_an_engine_that_serves_this_ledger_is_adopted_already(
    lmcache: Command, peer: EnginePeer
) -> None:
    adopted = lmcache("adopt", "node")
    assert adopted.exit_code == 0, adopted.output
    assert adopted.stdout.splitlines()[1].split()[:3] == ["node", "live", "peerhost"]
    assert [engine["other_ledger"] for engine in lmcache.json("adopt", "node")] == [None]


def test_what_a_request_varied_by_is_named_by_options(lmcache: Command, peer: EnginePeer) -> None:
    tokens = list(range(50, 92))
    peer.cache(tokens, scope=Scope.of(cache_salt="s", adapter="a1", tags={"team": "x", "k": ""}))
    text = ",".join(map(str, tokens))
    scope = ["--cache-salt", "s", "--adapter", "a1", "--tag", "team=x", "--tag", "k="]
    made = lmcache.json("pin", "varied", *WHERE, "--tokens", text, *scope)
    assert (made["num_tokens"], made["adapter"], made["tags"]) == (42, "a1", {"team": "x", "k": ""})
    assert lmcache.json("pin", *WHERE, "--tokens", text, *scope[:4])["num_tokens"] == 0


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["lookup"], 2, "--tokens, --prompt or --messages"),
        (["lookup", "--tokens", "1", "--prompt", "a"], 2, "give one of"),
        (["lookup", "--tokens", "1 b"], 2, "no token ids"),
        (["lookup", "--tokens", " "], 2, "no token ids"),
        (["lookup", "--tokens", "[]"], 2, "no token ids"),
        (["lookup", "--tokens", "[1.5]"], 2, "no token ids"),
        (["lookup", "--tokens", "@/no/such/file"], 2, "/no/such/file cannot be read"),
        (["lookup", "--messages", "/no/such/file"], 2, "cannot be read"),
        (["lookup", "--tokens", "-1"], 1, "tokens[0]"),
        (["pin", "--location", "x", "--tokens", "1"], 2, "--instance or --namespace"),
        (["pin", *WHERE, "--tokens", "1", "--ttl", "soon"], 2, "2h or 7d"),
        (["pin", *WHERE, "--tokens", "1", "--label", "x"], 2, "KEY=VALUE"),
        (["pin", *WHERE, "--tokens", "1", "--tag", "x"], 2, "KEY=VALUE"),
        (["pin", *WHERE, "--prompt", "hello"], 1, "serving_url"),
        (["pin", "--instance", "nobody", "--location", "x", "--tokens", "1"], 1, "node"),
        (["pins", "none"], 1, "unknown pin 'none'"),
        (["pins", "none", "--owner", "me"], 2, "the name of a pin, or"),
        (["pins", "--label", "x"], 2, "KEY=VALUE"),
        (["unpin"], 2, "names of pins"),
        (["unpin", "none"], 1, "unknown pin"),
        (["move", "--from", "x", "--to", "y", "--tokens", "1"], 2, "INSTANCE:LOCATION"),
        (["clear", *WHERE], 2, "--tokens, --prompt, --messages or --all"),
        (["adopt"], 2, "INSTANCE"),
        (["warm"], 2, "or --all"),
        (["warm", "x", "--all"], 2, "or --all"),
        (["warm", "x"], 1, "unknown pin 'x'"),
        (["warm", "x", "--adapter", "y"], 2, "CONTENT=NAME"),
        (["warm", "x", "--prompt-timeout", "2h"], 1, "prompt_timeout_s"),
        (["adopt", "nobody"], 1, "unknown instance 'nobody'; available: node"),
        (["jobs", "none"], 1, "unknown event"),
        (["jobs", "--wait"], 2, "one EVENT"),
        (["pins", "--url", "localhost:9000"], 2, "write for example http://"),
    ],
)
def test_what_is_wrong_is_one_line_and_a_status(
    lmcache: Command, peer: EnginePeer, arguments: list[str], status: int, words: str
) -> None:
    result = lmcache(*arguments)
    assert result.exit_code == status, result.output
    assert words in result.stderr
    assert "Traceback" not in result.output


def test_without_the_token_it_is_refused_and_a_file_may_hold_it(
    lmcache: Command, peer: EnginePeer, tmp_path: Path
) -> None:
    lmcache.env["LMCACHE_CONTROLLER_TOKEN"] = None
    refused = lmcache("pins")
    assert refused.exit_code == 1
    assert "--token-file" in refused.stderr
    lmcache.env["LMCACHE_CONTROLLER_TOKEN"] = "the token of another one"
    assert "another token" in lmcache("pins").stderr
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    assert lmcache("pins", "--token-file", str(file)).exit_code == 0


def test_where_nobody_answers_it_says_what_to_do() -> None:
    result = CliRunner().invoke(main, ["pins", "--url", "http://127.0.0.1:1"])
    assert result.exit_code == 2
    assert "lmcache controller serve" in result.stderr
    assert "--url" in result.stderr
