"""The long tier: `make torture`, hours of it; in sittings by
`make torture TORTURE="--only kills --scale 0.01 --minutes 60"`.
"""

from __future__ import annotations

import sys
import time
from itertools import count

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from tests.system.torture.catalogue import empty_folder, harnesses, new_seed
from tests.system.torture.harness import Harness, Run, Tally

_NAMES = [harness.name for harness in harnesses()]
# Some harnesses count on from their seed, for each scenario or part: with the next number for the
# next run, most of it would be what the run before has done.
_APART = 1_000_000


@click.command(epilog="TORTURE_SEED in the environment does a run again.")
@click.option("--only", multiple=True, type=click.Choice(_NAMES), help="May be repeated.")
@click.option("--scale", default=1.0, show_default=True, help="Of the long tier's counts.")
@click.option("--minutes", default=0.0, help="For so long, from seeds a million apart.")
def main(only: tuple[str, ...], scale: float, minutes: float) -> None:
    """Do to meterd what must not harm it, very often. Exit code 1 where it did harm."""
    seed = new_seed()
    console = Console()
    console.print(f"seed {seed}")
    broken = 0
    table = Table("harness", "counts", "seconds", title=f"torture, seed {seed}", show_lines=True)
    for harness in harnesses():
        if only and harness.name not in only:
            continue
        began = time.monotonic()
        if hindrance := harness.hindrance():
            console.print(f"{harness.name}: not run: {hindrance}")
            table.add_row(harness.name, f"not run: {hindrance}", "")
            continue
        tally, seconds = Tally(), 0.0
        for each in count(seed, _APART):
            tally.add(_run(harness, max(1, round(harness.long * scale)), each, console))
            seconds = time.monotonic() - began
            told = f"{seconds:.0f} s, seed {seed}" + (f" to {each}" if each > seed else "")
            console.print(f"{harness.name}: {tally.line(harness.unit)} ({told})")
            if tally.broken or seconds >= 60 * minutes:
                break
        if tally.broken:
            console.print(f"  first: {tally.first}", style="bold red")
        broken += tally.broken
        table.add_row(harness.name, tally.line(harness.unit), f"{seconds:.0f}")
    console.print(table)
    sys.exit(1 if broken else 0)


def _run(harness: Harness, number: int, seed: int, console: Console) -> Tally:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console) as bar, empty_folder() as folder:
        task = bar.add_task(harness.name, total=number)
        return harness.run(
            Run(number, seed, folder, done=lambda done: bar.update(task, completed=done))
        )


if __name__ == "__main__":
    main()
