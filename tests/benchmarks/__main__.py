"""Measures meterd, and what it is compared with: ``make bench``.

All figures are from real processes over loopback with a store on disk, the server on one core and
the client on another where there are two. Machines differ and are noisy: compare figures of one run
only, which is why there are ratios.

    plan, traffic, answers, pacing, load   the load client, a process of its own
    processes, postgres, contestants       who is measured, and how each is started
    servers/                               those that are not meterd, and meterd with a clock to set
    ceilings, loads                        what is measured in rounds
    flood                                  a load that does not wait for answers
    states/                                memory, restart, closing, stored events, overload, posts,
                                           what is read
    results, report, plots                 what was found: JSON, the table, docs/plots/
"""

from __future__ import annotations

import sys
import tempfile
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
import msgspec
from rich.console import Console

from tests.benchmarks import loads, results
from tests.benchmarks.attacks import siege
from tests.benchmarks.attacks.weapons import ATTACKS
from tests.benchmarks.contestants import CACHE, CONTESTANTS, make_passable, open_cache
from tests.benchmarks.report import table
from tests.benchmarks.states import (
    closing,
    delivering,
    memory,
    overload,
    reading,
    restart,
    sending,
    stored,
)
from tests.daemon_process import ROOT
from tests.system.torture.catalogue import empty_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

PLOTS: Final = ROOT / "docs" / "plots"
RESULTS: Final = CACHE / "results.json"
TRIAL: Final = CACHE / "trial"
TABLE_WIDTH: Final = 170
QUICK_SECONDS: Final = 0.5
QUICK_CUSTOMERS: Final = (1_000, 3_000)
QUICK_EVENTS: Final = (0, 20_000)


class Run(msgspec.Struct, frozen=True):
    """What was asked for."""

    seconds: float
    rounds: int
    only: tuple[str, ...]
    quick: bool
    full: bool
    results: Path
    plots: Path


@click.group(invoke_without_command=True)
@click.option(
    "--seconds", default=2.0, type=click.FloatRange(0.1), help="How long each load lasts."
)
@click.option(
    "--rounds", default=3, type=click.IntRange(1), help="How often each load is repeated."
)
@click.option(
    "--only",
    multiple=True,
    type=click.Choice([one.name for one in CONTESTANTS]),
    help="Only this contestant, and meterd; may be repeated.",
)
@click.option("--quick", is_flag=True, help="A trial, too short to mean anything.")
@click.option(
    "--full", is_flag=True, help="Twenty minutes or more: 50 million events, a million customers."
)
@click.option("--results", type=click.Path(path_type=Path), help="Default: .bench/results.json")
@click.option("--plots", type=click.Path(path_type=Path), help="Default: docs/plots")
@click.pass_context
def main(
    context: click.Context,
    seconds: float,
    rounds: int,
    only: tuple[str, ...],
    quick: bool,
    full: bool,
    results: Path | None,
    plots: Path | None,
) -> None:
    """Measure everything, or only the part that is named, and print the table."""
    if quick:
        seconds, rounds = QUICK_SECONDS, 1
    # A trial leaves alone what was measured in earnest.
    usual_results, usual_plots = (TRIAL / "results.json", TRIAL) if quick else (RESULTS, PLOTS)
    context.obj = Run(
        seconds, rounds, only, quick, full, results or usual_results, plots or usual_plots
    )
    if context.invoked_subcommand is None:
        parts = (run_loads, run_memory, run_restart, run_closing, run_stored, run_overload)
        for part in (*parts, run_sending, run_delivering, run_reading):
            context.invoke(part)


@main.command("loads")
@click.pass_obj
def run_loads(run: Run) -> None:
    """All contestants and ceilings, in turn."""
    with _measuring(run, "loads") as (folder, found):
        found.loads = loads.measure(
            folder, seconds=run.seconds, rounds=run.rounds, only=run.only, tell=_tell
        )


@main.command("memory")
@click.pass_obj
def run_memory(run: Run) -> None:
    """Memory against active customers."""
    customers = QUICK_CUSTOMERS if run.quick else memory.CUSTOMERS
    with _measuring(run, "memory") as (folder, found):
        found.memory = memory.measure(folder, customers=customers, until_retired=not run.quick)


@main.command("restart")
@click.pass_obj
def run_restart(run: Run) -> None:
    """The start over many known customers."""
    customers = restart.CUSTOMERS_OF_FULL if run.full else restart.CUSTOMERS
    with _measuring(run, "restart") as (folder, found):
        found.restart = restart.measure(
            folder,
            customers=QUICK_CUSTOMERS if run.quick else customers,
            load_s=run.seconds if run.quick else restart.LOAD_S,
        )


@main.command("closing")
@click.pass_obj
def run_closing(run: Run) -> None:
    """An hour that closes during ingest."""
    customers = closing.CUSTOMERS_OF_FULL if run.full else closing.CUSTOMERS
    with _measuring(run, "closing") as (folder, found):
        found.closing = closing.measure(
            folder,
            customers=QUICK_CUSTOMERS[-1] if run.quick else customers,
            maximum_s=1.0 if run.quick else closing.MAXIMUM_S,
            calm_s=1.0 if run.quick else closing.CALM_S,
        )


@main.command("stored")
@click.option("--events", type=int, help="Not beyond so many events.")
@click.pass_obj
def run_stored(run: Run, events: int | None = None) -> None:
    """Cost against stored events."""
    steps = stored.EVENTS_OF_FULL if run.full or events else stored.EVENTS
    steps = QUICK_EVENTS if run.quick else steps
    with _measuring(run, "stored") as (folder, found):
        chosen = [step for step in steps if events is None or step <= events]
        found.stored = stored.measure(folder, events=chosen, seconds=run.seconds, tell=_tell)


@main.command("attacks")
@click.option(
    "--name", "names", multiple=True, type=click.Choice(list(ATTACKS)), help="May be repeated."
)
@click.option("--undisturbed", is_flag=True, help="Whatever else the machine does; needs root.")
@click.pass_obj
def run_attacks(run: Run, names: tuple[str, ...], undisturbed: bool) -> None:
    """An honest client while meterd is attacked: half an hour, so only when it is named."""
    # In memory where it can be: how long a disk takes is not the question, and hides the answer.
    with empty_folder() as folder:
        found = siege.measure(
            folder,
            names or tuple(ATTACKS),
            seconds=1.0 if run.quick else siege.SECONDS,
            rounds=run.rounds,
            undisturbed=undisturbed,
            tell=_tell,
        )
    Console(width=None if sys.stdout.isatty() else TABLE_WIDTH).print(siege.table(found))
    if complaining := siege.complaints(found):
        sys.exit("\n".join(complaining))


@main.command("overload")
@click.pass_obj
def run_overload(run: Run) -> None:
    """Ten times as much as it can take, for a minute."""
    with _measuring(run, "overload") as (folder, found):
        found.overload = overload.measure(folder, seconds=5.0 if run.quick else overload.SECONDS)


@main.command("sending")
@click.pass_obj
def run_sending(run: Run) -> None:
    """Posts by one sender to a receiver that only answers."""
    with _measuring(run, "sending") as (_, found):
        found.sending = sending.measure(seconds=run.seconds, rounds=run.rounds)


@main.command("delivering")
@click.pass_obj
def run_delivering(run: Run) -> None:
    """Webhooks of an hour's end, from the store to the receivers."""
    with _measuring(run, "delivering") as (folder, found):
        share = 0.1 if run.quick else 1.0
        found.delivering = delivering.measure(folder, rounds=run.rounds, share=share)


@main.command("reading")
@click.pass_obj
def run_reading(run: Run) -> None:
    """Usage over HTTP, and a whole store verified."""
    with _measuring(run, "reading") as (folder, found):
        found.reading = reading.measure(folder, rounds=run.rounds, share=0.1 if run.quick else 1.0)


@main.command("redraw")
def redraw() -> None:
    """Only print the table and write the plots of what was measured before."""


@main.result_callback()
@click.pass_obj
def show(run: Run, /, *_: object, **__: object) -> None:
    """Whatever was measured, the table is of all parts that are in the results."""
    found = results.read(run.results)
    # Into a file or a pipe as wide as it is; a terminal has its own width.
    Console(width=None if sys.stdout.isatty() else TABLE_WIDTH).print(table(found))
    if find_spec("matplotlib") is None:
        _tell("no plots: matplotlib is not installed (the extra named bench)")
    else:
        from tests.benchmarks.plots import draw

        for path in draw(found, run.plots):
            _tell(f"wrote {path}")
    failed = [f"{name}: {counts}" for name, counts in found.outcomes() if counts]
    if failed:
        sys.exit("requests failed:\n" + "\n".join(failed))
    broken = [f"overload, {one.kind}: {why}" for one in found.overload for why in one.complaints()]
    if broken and not run.quick:
        sys.exit("promised otherwise:\n" + "\n".join(broken))


@contextmanager
def _measuring(run: Run, part: str) -> Iterator[tuple[Path, results.Results]]:
    """A folder for the part, and the results to put its own into; they are kept at once."""
    _tell(f"measuring {part}")
    found = results.read(run.results)
    if found.machine != results.machine():
        found = results.Results(results.machine())  # another machine's figures say nothing here
    with tempfile.TemporaryDirectory(dir=open_cache(), prefix="data-") as folder:
        make_passable(Path(folder))
        yield Path(folder), found
    found.measured_at[part] = f"{datetime.now(UTC):%Y-%m-%d %H:%M}" + (", quick" * run.quick)
    results.write(run.results, found)


def _tell(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
