"""KV-cache tiers for large language model servers.

The floors, from the top: ``cli``; ``controller`` and ``engine``, which do not
know each other; ``memory``; ``plugins``; ``api``; ``keys`` and ``config``;
``log`` and ``errors``. An import goes down only. Plugin authors need ``api``,
``errors``, ``config`` and :data:`hookimpl`.
"""

from __future__ import annotations

from importlib.metadata import version

import pluggy

__version__ = version("lmcache-core")

hookimpl = pluggy.HookimplMarker("lmcache_core")
"""Marks a function of a plugin's entry-point module as a hook implementation."""
