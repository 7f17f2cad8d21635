"""Nothing that is installed can make code out of data: no pickle, no eval, no YAML with types."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

import pytest

MODULES = {"pickle", "_pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
"""Whose reader runs what it reads."""

NAMES = {"eval", "exec", "compile", "__import__"}

METHODS = {
    *("send_pyobj", "recv_pyobj", "unsafe_load", "full_load", "load_all"),
    *("all_gather_object", "broadcast_object_list", "gather_object", "scatter_object_list"),
    *("send_object_list", "recv_object_list"),
}
"""Of ZeroMQ, PyYAML and torch.distributed, which pickle or build any type."""


def packages() -> list[Path]:
    """The folders of the core and of every plugin of ours that is installed."""
    ours = {
        point.module.partition(".")[0]
        for point in entry_points(group="lmcache_core")
        if point.dist and point.dist.name.startswith("lmcache-")
    }
    specs = [find_spec(name) for name in sorted({"lmcache_core", *ours})]
    return [Path(spec.origin).parent for spec in specs if spec and spec.origin]


def code_in_data(source: str) -> Iterator[str]:
    """What a source does that could run data."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found = {alias.name.partition(".")[0] for alias in node.names} & MODULES
        elif isinstance(node, ast.ImportFrom):
            found = {(node.module or "").partition(".")[0]} & MODULES
        elif isinstance(node, ast.Call):
            found = set(_called(node))
        else:
            continue
        yield from (f"line {node.lineno}: {name}" for name in sorted(found))


def _called(call: ast.Call) -> Iterator[str]:
    if isinstance(call.func, ast.Name) and call.func.id in NAMES:
        yield call.func.id
    for keyword in call.keywords:
        if keyword.arg in ("shell", "allow_pickle") and not _is_false(keyword.value):
            yield keyword.arg
    if not isinstance(call.func, ast.Attribute):
        return
    if call.func.attr in METHODS:
        yield call.func.attr
    owner = call.func.value.id if isinstance(call.func.value, ast.Name) else ""
    if (owner, call.func.attr) == ("torch", "load"):
        yield "torch.load"
    if (owner, call.func.attr) == ("yaml", "load"):
        loader = [ast.unparse(argument) for argument in call.args[1:]]
        if loader != ["_StrictLoader"]:  # a SafeLoader that is stricter
            yield "yaml.load"


def _is_false(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and value.value is False


def test_every_package_is_looked_at() -> None:
    names = {package.name for package in packages()}
    assert {"lmcache_core", "lmcache_transport_zmq", "lmcache_connector_vllm"} <= names
    assert len(names) >= 10


@pytest.mark.parametrize("package", packages(), ids=lambda package: package.name)
def test_no_data_is_run(package: Path) -> None:
    found = {
        f"{file.relative_to(package)}, {what}"
        for file in sorted(package.rglob("*.py"))
        for what in code_in_data(file.read_text(encoding="utf-8"))
    }
    assert not found


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import os, shelve",
        "eval(text)",
        "socket.recv_pyobj()",
        "yaml.load(text, yaml.Loader)",
        "yaml.load(text, Loader=_StrictLoader)",
        "yaml.unsafe_load(text)",
        "torch.load(path)",
        "dist.all_gather_object(out, mine)",
        "numpy.load(path, allow_pickle=True)",
        "subprocess.run(text, shell=True)",
    ],
)
def test_what_runs_data_would_be_seen(source: str) -> None:
    assert list(code_in_data(source))


@pytest.mark.parametrize(
    "source", ["import json", "re.compile(text)", "ast.literal_eval(text)", "yaml.safe_load(text)"]
)
def test_what_does_not_is_let_be(source: str) -> None:
    assert not list(code_in_data(source))
