"""``lmcache plugins check``: whether an installed plugin keeps its promises."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

from lmcache_core.cli.plugins.kit import HAS_KIT, Subject, require_kit, run_kits
from lmcache_core.cli.plugins.options import read_options, sections_for
from lmcache_core.cli.plugins.outcome import Outcome
from lmcache_core.cli.plugins.packaging import check_packaging
from lmcache_core.cli.table import table
from lmcache_core.plugins import Offer, PluginRegistry, PluginStatus, find_offers

TIMEOUT_SECONDS = 600.0


@click.command()
@click.argument("dist")
@click.option(
    "--config",
    "pairs",
    multiple=True,
    metavar="KEY=VALUE",
    help="A key of the plugin's own section; may be given several times. {folder} in a value "
    "stands for a new folder for each check.",
)
@click.option(
    "--config-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="YAML file with such keys; --config goes over it.",
)
@click.option(
    "--only",
    metavar="EXPRESSION",
    help="Run only the kit's checks that it means, as pytest's -k: for example `get or stat`.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=TIMEOUT_SECONDS,
    show_default=True,
    help="Seconds for all checks together.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.pass_context
def check(
    ctx: click.Context,
    dist: str,
    *,
    pairs: tuple[str, ...],
    config_file: Path | None,
    only: str | None,
    timeout: float,
    as_json: bool,
) -> None:
    """Run the conformance kit against DIST: a distribution, or one thing that it offers.

    It checks how the plugin is packaged, then all that it offers and that there
    is a kit for, made by its own factory with the configuration that is given.
    What bypasses the plugin, for example a look into its store, only its
    author's tests can do: those checks are skipped with the name of what they
    lack. Ends with exit status 1 if a check fails.

    A store of --config has to be empty, and is left empty.
    """
    registry = PluginRegistry.discover()
    offers = find_offers(registry, dist)
    subjects, without = _subjects(registry, offers, read_options(pairs, config_file))
    if subjects:
        require_kit()
    plugins = {(offer.plugin, offer.distribution) for offer in offers}
    outcomes = [
        outcome
        for record in registry.records
        if (record.name, record.distribution) in plugins
        for outcome in check_packaging(record)
    ]
    outcomes += without
    if subjects:
        outcomes += run_kits(subjects, timeout, only)
    _show(outcomes, as_json=as_json)
    if any(outcome.result == "failed" for outcome in outcomes):
        ctx.exit(1)


def _subjects(
    registry: PluginRegistry, offers: Sequence[Offer], options: Mapping[str, Any]
) -> tuple[list[Subject], list[Outcome]]:
    """What a kit can be run against, and what there is no kit for."""
    loaded = {
        (spec.kind, spec.name): spec
        for record in registry.records
        if record.status is PluginStatus.LOADED
        for spec in record.specs
    }
    specs = [
        loaded[offer.kind, offer.name]
        for offer in offers
        if offer.status == PluginStatus.LOADED.value and offer.kind
    ]
    kept = [spec for spec in specs if isinstance(spec, HAS_KIT)]
    sections = sections_for(kept, options)
    return [Subject(*pair) for pair in zip(kept, sections, strict=True)], [
        Outcome(
            of=spec.name,
            check="conformance",
            result="skipped",
            reason=f"there is no kit for the kind {spec.kind!r}",
        )
        for spec in specs
        if spec not in kept
    ]


def _show(outcomes: Sequence[Outcome], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(outcomes), indent=2))
        return
    rows = [
        (outcome.of, outcome.check, outcome.result, " ".join(outcome.reason.split())[:200])
        for outcome in outcomes
    ]
    click.echo(table(("OF", "CHECK", "RESULT", "WHY"), rows))
    counts = Counter(outcome.result for outcome in outcomes)
    click.echo(
        f"\n{counts['passed']} passed, {counts['skipped']} skipped, {counts['failed']} failed"
    )
