"""The configurations of the page on tiers are what ``lmcache config check`` takes them for."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from lmcache_core.cli.main import main
from lmcache_core.engine.storage.holdings import COUNTERS

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "tiers.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def checked(text: str, folder: Path) -> dict[str, Any]:
    file = folder / "lmcache.yaml"
    file.write_text(text)
    result = CliRunner().invoke(main, ["config", "check", str(file), "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)["config"]


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_every_configuration_is_one(number: int, tmp_path: Path) -> None:
    assert len(checked(EXAMPLES[number], tmp_path)["tiers"]) >= 2


def test_the_flat_keys_make_the_tiers_that_they_are_said_to_make(tmp_path: Path) -> None:
    listed, flat = (checked(example, tmp_path)["tiers"] for example in EXAMPLES[:2])
    assert listed == flat


def test_the_rules_are_those_that_the_text_tells(tmp_path: Path) -> None:
    sparing, overflowing = (checked(example, tmp_path)["tiers"] for example in EXAMPLES[2:])
    assert sparing[1]["rules"] == {
        "write": "back",
        "promote": False,
        "min_tokens": 1,
        "min_reuse": 2,
    }
    assert overflowing[1]["rules"]["write"] == "through"
    assert overflowing[1]["rules"]["promote"] is True
    assert overflowing[2]["rules"]["min_tokens"] == 256
    assert overflowing[2]["serdes"] == [{"name": "zstd", "options": {}}]


def test_the_counters_are_there() -> None:
    table = PAGE.split("| counter | what has happened |")[1].split("\n\n")[0]
    rows = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert {"demoted_frames", "demotions_dropped", "refused_frames"} <= named <= set(COUNTERS)
