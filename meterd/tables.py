"""What commands print for people, and for programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
import msgspec
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# Where there is no terminal, lines are as long as they need to be.
_ENDLESS = 10_000


def table(columns: Mapping[str, str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Columns by the names in the rows; one that is empty in every row is left out. Without rows it
    is ``none``.
    """
    found = list(rows)
    shown = [name for name in columns if any(name in row for row in found)]
    made = Table(box=None, pad_edge=False)
    for name in shown:
        made.add_column(columns[name].upper(), overflow="fold")
    for row in found:
        made.add_row(*(printable(row.get(name, "")) for name in shown))
    if found:
        _print(made)
    else:
        click.echo("none")


def facts(found: Mapping[str, Any]) -> None:
    """A name and its value a line; a list of texts is a line for each."""
    made = Table(box=None, pad_edge=False, show_header=False)
    made.add_column(overflow="fold")
    made.add_column(overflow="fold")
    for name, value in found.items():
        is_texts = isinstance(value, list) and all(isinstance(one, str) for one in value)
        for place, one in enumerate(value if is_texts else [value]):
            made.add_row("" if place else name, printable(one))
    _print(made)


def print_json(value: Any) -> None:
    """An object a line."""
    click.echo(msgspec.json.encode(value).decode())


def _console() -> Console:
    console = Console(markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = _ENDLESS
    return console


def _print(made: Table) -> None:
    """Without the spaces that fill a last column: one long line would make all others as long."""
    console = _console()
    with console.capture() as captured:
        console.print(made)
    for line in captured.get().splitlines():
        click.echo(line.rstrip(" "))


def printable(value: Any) -> str:
    """Texts of strangers steer no terminal."""
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return "".join(one if one.isprintable() else f"\\x{ord(one):02x}" for one in text)
