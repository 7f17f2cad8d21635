"""Commands to an engine, as its controller gives them."""

from __future__ import annotations

import threading

from lmcache_core.api.messages import PinCommand
from lmcache_core.engine.control.commands import CommandRunner
from tests.engine.test_pins import ask


class Commander:
    """What the control agent does with a pin command."""

    def __init__(self, rig):
        self.runner = CommandRunner(rig.engine, "rig", 1)
        self.woken = threading.Event()
        rig.engine.settled = self.woken.set

    def pin(self, tokens, pin_id="p", seconds=10, **fields):
        request = ask(tokens, pin_id, **fields)
        command = PinCommand(request_id=pin_id, deadline_seconds=seconds, pin=request)
        while self.runner.must_wait(command):
            if not self.woken.wait(seconds):
                break
            self.woken.clear()
        return self.runner.run(command)
