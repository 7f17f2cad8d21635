"""The controller lists the plugins of its environment as the command does."""

from __future__ import annotations

import json

from click.testing import CliRunner

from lmcache_core.api import PLUGIN_API
from lmcache_core.cli.main import main
from tests.controller.controller_process import ControllerProcess


def test_the_route_shows_what_the_command_shows(controller: ControllerProcess) -> None:
    shown = json.loads(CliRunner().invoke(main, ["plugins", "--json"]).stdout)
    answer = controller.client.get("/plugins").json()
    assert answer == {"plugin_api": str(PLUGIN_API), "plugins": shown}
    assert "LocalCPUBackend" in {offer["name"] for offer in shown}
