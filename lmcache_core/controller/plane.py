"""The control plane: everything the routes speak to, made and closed in one place."""

from __future__ import annotations

import asyncio
import contextlib
import time

from lmcache_core.api.deadline import Deadline
from lmcache_core.api.transport import ControllerListener
from lmcache_core.config.controller import ControllerConfig
from lmcache_core.controller.commands import Commands
from lmcache_core.controller.directory import Directory
from lmcache_core.controller.jobs import Jobs
from lmcache_core.controller.journal import Journal
from lmcache_core.controller.keeper import PinKeeper
from lmcache_core.controller.ledger import Ledger
from lmcache_core.controller.ledger_file import LedgerFile
from lmcache_core.controller.lookup import Lookup
from lmcache_core.controller.placement import Placement
from lmcache_core.controller.planner import Planner
from lmcache_core.controller.reception import Reception
from lmcache_core.controller.reconciler import Reconciler
from lmcache_core.controller.tokenizer import Tokenizer
from lmcache_core.controller.warmer import Warmer
from lmcache_core.log import get_logger
from lmcache_core.plugins import PluginRegistry

log = get_logger(__name__)


class ControlPlane:
    """One controller without its web server.

    Args:
        config: Its configuration.
        registry: The installed plugins.
        listener: Where engines dial; closed with the plane.
        journal: Where pins and jobs are kept; closed with the plane.

    Attributes:
        directory: The engines.
        placement: Who holds what.
        ledger: The pins.
        commands: How engines are asked.
        lookup: Answers who holds a token sequence.
        keeper: How pins are made, changed and released.
        planner: What a pin would cost.
        tokenizer: Turns text into tokens.
        jobs: Operations under their event id.
        warmer: Has the prompts of pins computed.
        journal: Where pins and jobs are kept.
        started_at: Unix time.
    """

    def __init__(
        self,
        config: ControllerConfig,
        registry: PluginRegistry,
        listener: ControllerListener,
        journal: Journal,
    ) -> None:
        self.config = config
        self.registry = registry
        self.listener = listener
        self.journal = journal
        self.directory = Directory()
        self.placement = Placement()
        self.ledger = Ledger(journal)
        self.commands = Commands(listener.send)
        self.keeper = PinKeeper(self.directory, self.ledger, self.commands)
        self.planner = Planner(self.commands)
        self.lookup = Lookup(self.directory, self.placement, self.commands)
        self.jobs = Jobs(journal)
        self.warmer = Warmer(self.directory, self.ledger, self.keeper, self.jobs)
        self.tokenizer = Tokenizer()
        self.started_at = time.time()
        self._reconciler = Reconciler(self.ledger, self.keeper, listener.send)
        self.reception = Reception(
            listener,
            directory=self.directory,
            placement=self.placement,
            ledger=self.ledger,
            commands=self.commands,
            reconciler=self._reconciler,
        )
        self._tasks = [
            asyncio.create_task(self.reception.run(), name="reception"),
            asyncio.create_task(self.reception.sweep(), name="sweep"),
        ]

    @classmethod
    async def open(cls, config: ControllerConfig, registry: PluginRegistry) -> ControlPlane:
        """Open the ledger and listen for engines.

        Raises:
            ConfigError: The address is taken or wrong, or the ledger cannot be used.
            UnknownNameError: No transport is installed for it.
        """
        path = config.ledger_path
        journal = Journal(None if path is None else LedgerFile.open(path))
        try:
            spec = registry.transport(config.monitor_address)
            listener = await spec.load()(spec.config()).listen(config.monitor_address)
            log.info("controller.listening", address=listener.address, transport=spec.name)
            try:
                return cls(config, registry, listener, journal)
            except BaseException:
                await listener.close()
                raise
        except BaseException:
            await journal.close()
            raise

    @property
    def is_ready(self) -> bool:
        """Whether engines are being listened to and the ledger can be written."""
        return self.journal.failure is None and not any(task.done() for task in self._tasks)

    def deadline(self, timeout_s: float | None) -> Deadline:
        """The deadline of a request."""
        return Deadline(self.config.timeout_seconds if timeout_s is None else timeout_s)

    async def close(self) -> None:
        """Let everybody who waits go, stop listening; idempotent."""
        await self.warmer.close()
        self.commands.close()
        self.tokenizer.close()
        for task in self._tasks:
            task.cancel()
        await self._reconciler.close()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await self.listener.close()
        await self.journal.close()
