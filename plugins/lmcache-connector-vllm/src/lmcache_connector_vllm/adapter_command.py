"""``lmcache adapter``: what an adapter is called where one is named by content."""

from __future__ import annotations

import json

import click

from lmcache_connector_vllm.adapters import content_name


@click.command()
@click.argument("path")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: the path and the name.")
def adapter(*, path: str, as_json: bool) -> None:
    """Print the name by content of the LoRA adapter in PATH, as --adapter takes it.

    PATH is what vLLM is given: the adapter's folder, or its name on the hub where that has been
    downloaded here. All of it is read. A copy has the same name, wherever it lies.
    """
    name = content_name(path)
    click.echo(json.dumps({"path": path, "adapter": name}, indent=2) if as_json else name)
