"""``lmcache doctor``: each line is right, or says what to do."""

from __future__ import annotations

import json

import click

from lmcache_core.cli.doctor import configured, installation, machine


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of lines.")
def doctor(*, as_json: bool) -> None:
    """Tell what is installed here and what is missing.

    Looks at the versions, the plugins, the machine, and at what an engine and
    a controller with this configuration would use. A store that engines share
    is opened, as an engine would. Ends with exit status 1 if something is
    wrong; a note is no fault.
    """
    findings = [*installation.findings(), *machine.findings(), *configured.findings()]
    if as_json:
        click.echo(json.dumps([finding._asdict() for finding in findings], indent=2))
    else:
        for finding in findings:
            click.echo(f"{finding.state:<5}  {finding.what}: {finding.text}")
    if any(finding.state == "wrong" for finding in findings):
        raise click.exceptions.Exit(1)
