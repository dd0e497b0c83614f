"""The plots of a run, as SVG."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

import matplotlib as mpl
from matplotlib.figure import Figure

from tests.benchmarks.loads import ALL, LOADS

if TYPE_CHECKING:
    from pathlib import Path

    from tests.benchmarks.results import Results, Round

mpl.rcParams["svg.hashsalt"] = "meterd"  # the same figures make the same file
mpl.rcParams["figure.figsize"] = (7.5, 4.5)
mpl.rcParams["axes.grid"] = True
mpl.rcParams["grid.alpha"] = 0.3


def draw(results: Results, folder: Path) -> list[Path]:
    """Writes a plot for each part that has been measured; the files."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, drawn in (
        ("throughput.svg", _throughput(results)),
        ("stored-events.svg", _stored(results)),
        ("memory.svg", _memory(results)),
    ):
        if drawn is not None:
            drawn.savefig(folder / name, metadata={"Date": None}, bbox_inches="tight")
            written.append(folder / name)
    return written


def _throughput(results: Results) -> Figure | None:
    """Single events against connections: medians, with a bar from the least to the greatest."""
    everybodys = {load.name for load in LOADS if load.takers == ALL}
    curves: dict[str, list[tuple[int, list[float]]]] = {}
    for one in results.loads.series if results.loads else []:
        # Those that everybody takes differ in their connections only.
        if one.plan is not None and one.plan.kind == "single" and one.load in everybodys:
            rates = [found.events_per_s for found in one.rounds]
            curves.setdefault(one.contestant, []).append((one.plan.connections, rates))
    if not curves:
        return None
    figure = Figure()
    axes = figure.subplots()
    for name, points in curves.items():
        middle = [median(rates) for _, rates in points]
        below = [m - min(rates) for m, (_, rates) in zip(middle, points, strict=True)]
        above = [max(rates) - m for m, (_, rates) in zip(middle, points, strict=True)]
        connections = [count for count, _ in points]
        axes.errorbar(connections, middle, yerr=(below, above), marker="o", capsize=3, label=name)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="connections",
        ylabel="single events a second, acknowledged",
    )
    ticks = sorted({count for points in curves.values() for count, _ in points})
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.legend(fontsize="small", bbox_to_anchor=(1.02, 1), loc="upper left")
    return figure


def _stored(results: Results) -> Figure | None:
    """Medians of the rounds, beside an empty store in the same rounds."""
    if not results.stored:
        return None
    figure = Figure()
    axes = figure.subplots()
    millions = [point.events / 1e6 for point in results.stored]
    filled = [_cpu_us(point.single) for point in results.stored]
    empty = [_cpu_us(point.empty) for point in results.stored]
    axes.plot(millions, filled, marker="o", label="so many events stored")
    axes.plot(millions, empty, marker="o", linestyle="--", label="an empty store, in turn")
    axes.set(xlabel="million events stored", ylabel="server CPU for a single event, µs")
    axes.set_ylim(0, 1.1 * axes.get_ylim()[1])
    axes.legend()
    return figure


def _cpu_us(rounds: list[Round]) -> float:
    return median(found.cpu_us for found in rounds if found.cpu_us is not None)


def _memory(results: Results) -> Figure | None:
    if not results.memory:
        return None
    figure = Figure()
    axes = figure.subplots()
    customers = [point.customers for point in results.memory]
    resident = [point.active.resident_mb for point in results.memory]
    anonymous = [point.active.anonymous_mb for point in results.memory]
    axes.plot(customers, resident, marker="o", label="resident")
    axes.plot(customers, anonymous, marker="o", label="without pages of the store")
    last = results.memory[-1]
    if last.retired is not None:
        axes.plot(
            [last.customers],
            [last.retired.resident_mb],
            "s",
            label="resident, when they have retired",
        )
    axes.set(xlabel="active customers", ylabel="MB")
    axes.set_ylim(0, 1.1 * axes.get_ylim()[1])
    axes.legend()
    return figure
