"""The one table of a run."""

from __future__ import annotations

from itertools import groupby
from statistics import median
from typing import TYPE_CHECKING, Final

from rich.table import Table

from tests.benchmarks.contestants import CONTESTANTS, FAST_LANE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.benchmarks.plan import Outcome
    from tests.benchmarks.processes import Memory
    from tests.benchmarks.results import Delivering, Loads, Reading, Results, Round, Series

# From here on a faster server would not have been seen to be faster.
CLIENT_BUSY_MAX: Final = 0.9
_KEEPS = {one.name: one.keeps for one in CONTESTANTS}


def table(results: Results) -> Table:
    """Every figure of the results, with what it is compared with."""
    made = Table(
        "what",
        "median",
        "spread (min - max)",
        f"ratio to {FAST_LANE}",
        "CPU for each event",
        "latency p50, p99",
        title=f"meterd on {results.machine}",
        caption="Ratios are of the same round: their median (min - max). "
        + _dates(results)
        + _trial(results),
    )
    made.columns[0].no_wrap = True
    for column in made.columns[1:]:
        column.justify = "right"
    if results.loads is not None:
        _add_loads(made, results.loads)
    _add_states(made, results)
    _add_overload(made, results)
    _add_sending(made, results.sending)
    _add_delivering(made, results.delivering)
    _add_reading(made, results.reading)
    return made


def _dates(results: Results) -> str:
    return "Measured: " + ", ".join(f"{part} {when}" for part, when in results.measured_at.items())


def _trial(results: Results) -> str:
    is_trial = any("quick" in when for when in results.measured_at.values())
    return "\n[red]What was measured with --quick means nothing.[/red]" if is_trial else ""


def _add_loads(made: Table, loads: Loads) -> None:
    base = {one.load: one.rounds for one in loads.series if one.contestant == FAST_LANE}
    for name, group in groupby(loads.series, key=lambda one: one.load):
        made.add_section()
        made.add_row(f"[bold]{name}[/bold]")
        for one in group:
            made.add_row(*_row(one, base.get(one.beside, [])))
    if loads.skipped:
        made.add_section()
    for contestant, reason in loads.skipped.items():
        made.add_row(f"skipped: {contestant}", reason)


def _row(series: Series, base: Sequence[Round]) -> list[str]:
    rates = [one.events_per_s for one in series.rounds]
    kept = _KEEPS.get(series.contestant)
    return [
        f"  {series.contestant}" + (f" ({kept})" if kept else ""),
        f"{median(rates):,.0f}/s",
        f"{min(rates):,.0f} - {max(rates):,.0f}",
        _ratio(series, base),
        _cpu(series.rounds),
        _latency(series.rounds) + _bound_by_client(series.rounds) + _failures(series.rounds),
    ]


def _ratio(series: Series, base: Sequence[Round]) -> str:
    if series.contestant == FAST_LANE and series.beside == series.load:
        return "1"
    ratios = ratios_to(series.rounds, base)
    if not ratios:
        return "-"
    return f"{median(ratios):.2f} ({min(ratios):.2f} - {max(ratios):.2f})"


def ratios_to(rounds: Sequence[Round], base: Sequence[Round]) -> list[float]:
    """Of each round to the base's turn in the same round."""
    return [
        one.events_per_s / other.events_per_s
        for one, other in zip(rounds, base, strict=False)
        if other.events_per_s
    ]


def _cpu(rounds: Sequence[Round]) -> str:
    known = [one.cpu_us for one in rounds if one.cpu_us is not None]
    return f"{median(known):,.1f} µs" if known else "-"


def _latency(rounds: Sequence[Round]) -> str:
    p50 = [one.p50_ms for one in rounds if one.p50_ms is not None]
    p99 = [one.p99_ms for one in rounds if one.p99_ms is not None]
    return f"{median(p50):,.1f}, {median(p99):,.1f} ms" if p50 and p99 else ""


def _bound_by_client(rounds: Sequence[Round]) -> str:
    busy = median(one.client_busy for one in rounds)
    return f" [yellow]client {busy:.0%} busy[/yellow]" if busy > CLIENT_BUSY_MAX else ""


def _failures(rounds: Sequence[Round]) -> str:
    found = [f"{count} x {what}" for one in rounds for what, count in one.failures.items()]
    return f" [red]{', '.join(found)}[/red]" if found else ""


def _add_states(made: Table, results: Results) -> None:
    if results.memory:
        made.add_section()
        made.add_row("[bold]resident memory, without pages of the store in brackets[/bold]")
    for point in results.memory:
        name = f"  {point.customers:,} active customers"
        made.add_row(name, _memory(point.active), f"within {point.loaded_in_s:.1f} s")
        if point.retired is not None:
            made.add_row("    when they have retired", _memory(point.retired))
    if results.restart:
        made.add_section()
        made.add_row("[bold]start until ready[/bold]")
    for restart in results.restart:
        made.add_row(f"  {restart.customers:,} known customers", f"{restart.ready_s:.2f} s")
        made.add_row("    resident memory then", _memory(restart.ready))
        made.add_row("    with 1 % of them active", _memory(restart.one_percent_active))
        made.add_row(
            f"    killed behind {restart.events_before_kill:,} events",
            f"{restart.ready_after_kill_s:.2f} s",
        )
    closing = results.closing
    if closing is not None:
        made.add_section()
        made.add_row(
            f"[bold]an hour of {closing.customers:,} customers closes[/bold]",
            f"{closing.closed_s:.1f} s",
            f"at {closing.paced_per_s:,.0f} events/s, half of the maximum",
        )
        made.add_row("  ingest meanwhile", *_paced(closing.meanwhile))
        made.add_row("  ingest in calm", *_paced(closing.calm))
        made.add_row("  resident memory after it", _memory(closing.after))
    if results.stored:
        made.add_section()
        made.add_row("[bold]single events, 64 connections, beside an empty store in turn[/bold]")
    for stored in results.stored:
        rates = [found.events_per_s for found in stored.single]
        pairs = zip(stored.single, stored.empty, strict=True)
        ratios = [filled.events_per_s / empty.events_per_s for filled, empty in pairs]
        made.add_row(
            f"  {stored.events:,} events stored: {stored.store_mb:,.0f} MB",
            f"{median(rates):,.0f}/s",
            f"{min(rates):,.0f} - {max(rates):,.0f}",
            f"{median(ratios):.2f} ({min(ratios):.2f} - {max(ratios):.2f}) of an empty one",
            _cpu(stored.single),
            _latency(stored.single) + _failures([*stored.single, *stored.empty]),
        )
        listing = stored.listing
        filled = f"filled at {stored.filled_per_s:,.0f}/s" if stored.events else ""
        made.add_row(
            "    GET /events?customerId=",
            f"{listing.events_per_s:,.0f}/s",
            filled,
            "",
            "",
            f"{listing.p50_ms:.1f}, {listing.p99_ms:.1f} ms",
        )


def _add_overload(made: Table, results: Results) -> None:
    for one in results.overload:
        made.add_section()
        found = one.flooded
        lasted_s = found.ended_s - found.began_s
        accepted_per_s = found.accepted_per_s(found.began_s, found.ended_s)
        what = "single events" if one.events == 1 else f"batches of {one.events}"
        made.add_row(
            f"[bold]ten times as many {what} as it can take[/bold]",
            f"{found.due / lasted_s:,.0f}/s",
            f"for {lasted_s:.0f} s; it takes {one.capacity_per_s:,.0f}/s",
        )
        refused = found.statuses.get("503", 0)
        made.add_row(
            "  accepted meanwhile",
            f"{accepted_per_s:,.0f}/s",
            f"{refused / lasted_s:,.0f}/s refused, {found.dropped / lasted_s:,.0f}/s not sent",
            f"{accepted_per_s / one.capacity_per_s:.2f} of what it can take",
            "",
            f"{found.p50_ms:,.0f}, {found.p99_ms:,.0f} ms",
        )
        made.add_row("  resident memory, at most", _memory(one.peak))
        after = "not" if one.normal_after_s is None else f"{one.normal_after_s:.1f} s"
        made.add_row(
            "  as fast as before after", after, f"{one.calm_per_s:,.0f}/s by 4 connections"
        )
        made.add_row("  acknowledged, stored", f"{one.acknowledged:,}", f"{one.stored:,}")


def _add_sending(made: Table, sending: Sequence[Series]) -> None:
    """Ratios are to the sender itself, which stands first."""
    for name, group in groupby(sending, key=lambda one: one.load):
        made.add_section()
        made.add_row(f"[bold]{name}[/bold]")
        ways = list(group)
        for one in ways:
            made.add_row(*_row(one, ways[0].rounds))


def _add_delivering(made: Table, delivering: Sequence[Sequence[Delivering]]) -> None:
    """Medians of the rounds; ratios are to one endpoint alone, round by round."""
    if not delivering:
        return
    made.add_section()
    made.add_row("[bold]webhooks of an hour, aggregations delivered[/bold]")
    for rounds in delivering:
        ratios = [one.per_s / alone.per_s for one, alone in zip(rounds, delivering[0], strict=True)]
        per_s, cpu_us, p50_ms, p99_ms, own_p50_ms, own_p99_ms, append_ms = (
            median(getattr(one, name) for one in rounds) for name in rounds[0].__struct_fields__[1:]
        )
        made.add_row(
            f"  {rounds[0].case}",
            f"{per_s:,.0f}/s",
            f"{cpu_us:,.0f} us of CPU",
            f"{median(ratios):.2f}",
            f"event {append_ms:.1f} ms",
            f"{p50_ms:,.0f}, {p99_ms:,.0f} ms (on disk: {own_p50_ms:,.0f}, {own_p99_ms:,.0f})",
        )


def _add_reading(made: Table, reading: Sequence[Reading]) -> None:
    if reading:
        made.add_section()
        made.add_row("[bold]what is stored, read[/bold]")
    for one in reading:
        took_s, cpu_s = median(one.took_s), median(one.cpu_s)
        made.add_row(
            f"  {one.name}: {one.events:,} events",
            f"{took_s:.3f} s",
            f"{min(one.took_s):.3f} - {max(one.took_s):.3f} s",
            f"{one.events / took_s:,.0f} events/s",
            f"{cpu_s / one.events * 1e6:,.2f} µs",
        )


def _memory(found: Memory) -> str:
    return f"{found.resident_mb:,.0f} MB ({found.anonymous_mb:,.0f})"


def _paced(found: Outcome) -> list[str]:
    failed = f" [red]{found.failures}[/red]" if found.failures else ""
    return [
        f"{found.events_per_s:,.0f}/s",
        f"longest {found.max_ms:,.0f} ms{failed}",
        "",
        "",
        f"{found.p50_ms:,.1f}, {found.p99_ms:,.1f} ms",
    ]
