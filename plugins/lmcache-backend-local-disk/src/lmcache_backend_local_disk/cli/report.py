"""What the commands print: a table for people, or JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import click
from rich.console import Console
from rich.table import Table

Row = Mapping[str, str | int | list[dict[str, str]] | None]

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def show(rows: Sequence[Row], *, as_json: bool) -> None:
    """Print one block for each folder.

    Args:
        rows: Facts by name; those whose name ends with ``_bytes`` are sizes,
            and a list is one of damaged files.
        as_json: Whether a program reads it.
    """
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    console = Console()
    for row in rows:
        table = Table(show_header=False, title=str(row["folder"]), title_justify="left", box=None)
        table.add_column(style="bold")
        table.add_column(overflow="fold")
        for name, value in row.items():
            if name != "folder" and not isinstance(value, list):
                table.add_row(name.removesuffix("_bytes").replace("_", " "), _text(name, value))
        console.print(table)
        for name, value in row.items():
            if isinstance(value, list) and value:
                console.print(_files(name, value))


def _files(name: str, files: list[dict[str, str]]) -> Table:
    table = Table(title=name, title_justify="left")
    table.add_column("file", overflow="fold")
    table.add_column("reason", overflow="fold")
    for file in files:
        table.add_row(file["file"], file["reason"])
    return table


def _text(name: str, value: object) -> str:
    if name.endswith("_bytes") and isinstance(value, int):
        return size(value)
    return "none" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def size(nbytes: int) -> str:
    """Bytes as people read them."""
    value = float(nbytes)
    for unit in _UNITS[:-1]:
        if value < 1024:
            return f"{nbytes} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} {_UNITS[-1]}"
