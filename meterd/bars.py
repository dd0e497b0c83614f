"""How far a command is: a bar on stderr where that is a terminal, else nothing."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Bar(NamedTuple):
    """``show`` how far it is, of the total, and a text beside it; ``say`` a line that stays."""

    show: Callable[[int, str], None]
    say: Callable[[str], None]


@contextmanager
def bar(name: str, total: int | None) -> Iterator[Bar]:
    """Without a total it is shown that it goes on, and for how long."""
    console = Console(stderr=True, markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        yield Bar(lambda *_: None, lambda line: click.echo(line, err=True))
        return
    task_name = TextColumn("{task.description}", markup=False)
    beside = TextColumn("{task.fields[beside]}", markup=False)
    with Progress(
        *(SpinnerColumn(), task_name, TimeElapsedColumn(), beside)
        if total is None
        else (task_name, BarColumn(), TaskProgressColumn(), TimeRemainingColumn(), beside),
        console=console,
        transient=True,
    ) as bars:
        task = bars.add_task(name, total=total, beside="")
        yield Bar(lambda done, text: bars.update(task, completed=done, beside=text), console.print)
