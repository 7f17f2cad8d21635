"""A serde, a policy and a transport as ``lmcache plugins new`` writes them, at a stranger's."""

from __future__ import annotations

import json

import pytest

from tests.examples.stranger import Stranger

OFFERED = {"serde": "press", "policy": "Queue", "transport": "wire"}
"""What each is called in a configuration."""

WHAT_THEY_DO = {
    "serde": "decode_gives_back_what_was_encoded",
    "policy": "that_a_key_was_held_does_not_show",
    "transport": "the_controller_may_restart",
}
"""A check of each kind that says that its kit was run."""


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Stranger:
    """With one of each kind, written and installed."""
    pytest.importorskip("hatchling")
    stranger = Stranger(tmp_path_factory.mktemp("home"))
    write = [
        f"lmcache plugins new {kind} {name.lower()} --directory {kind}"
        for kind, name in OFFERED.items()
    ]
    editable = " ".join(f"-e './{kind}[test]'" for kind in OFFERED)
    stranger.shell(*write, f"pip install -q {editable}")
    return stranger


def test_they_are_listed(stranger: Stranger) -> None:
    offers = json.loads(stranger.shell("lmcache plugins --json"))
    listed = {offer["name"]: offer["status"] for offer in offers}
    for name in OFFERED.values():
        assert listed[name] == "loaded"


def test_their_own_tests_pass(stranger: Stranger) -> None:
    folders = " ".join(f"{kind}/tests" for kind in OFFERED)
    last = stranger.shell(f"pytest --import-mode=importlib {folders}").splitlines()[-1]
    assert " passed" in last
    assert "failed" not in last


@pytest.mark.parametrize("kind", OFFERED)
def test_they_pass_the_check(stranger: Stranger, kind: str) -> None:
    command = f"lmcache plugins check {OFFERED[kind]} --json"
    outcomes = {o["check"]: o for o in json.loads(stranger.shell(command))}
    assert "failed" not in {outcome["result"] for outcome in outcomes.values()}
    assert outcomes[WHAT_THEY_DO[kind]]["result"] == "passed"
