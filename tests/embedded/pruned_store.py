"""A data folder whose first events may be pruned, and ways to prune them."""

from __future__ import annotations

from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from meterd.domain.periods import HOUR_MS, PeriodType
from meterd.embedded import pruning, sweeping
from meterd.embedded.store import Store
from tests.embedded.engine_bench import running
from tests.embedded.sample_store import event_of
from tests.ledger_bench import ALL, EVERY_EVENT, START_MS, at, close_ended, event, rules

if TYPE_CHECKING:
    from pathlib import Path

    from meterd.domain.events import UsageEvent
    from meterd.embedded.pruning import Prunable
    from meterd.embedded.transaction import Transaction

ALL_PERIODS: Final = rules(*PeriodType)
LATER: Final = at("2027-06-01T00:00")
HOURS: Final = 20


def make_prunable(folder: Path, start_ms: int = START_MS) -> Path:
    """A store whose first events may all go: in batches and alone, late and early, void;
    their keys are forgotten. 73 of half a year later are behind them.
    """
    trio.run(_fill, folder, start_ms)
    return folder / "data"


async def _fill(folder: Path, start_ms: int) -> None:
    later_ms = start_ms + LATER - START_MS
    async with running(folder) as bench:
        bench.clock.now_ms = start_ms
        for hour in range(HOURS):
            await bench.ledger.append(events(hour * 100, 70))
            await bench.ledger.append(events(hour * 100 + 80, 2, bench.clock.now_ms - 3 * HOUR_MS))
            await bench.ledger.append(events(hour * 100 + 90, 1, bench.clock.now_ms + 290_000))
            bench.clock.now_ms += HOUR_MS - 100_000
            await close_ended(bench, ALL_PERIODS)
            bench.clock.now_ms += 100_000
        for one in (await bench.ledger.events(EVERY_EVENT, limit=ALL))[::77]:
            await bench.ledger.void(one.id, "as agreed")
        await bench.ledger.append([event("only", value=1)])
        await close_ended(bench, ALL_PERIODS, clock_ms=later_ms)
        await bench.ledger.revise(ALL_PERIODS, until_ms=later_ms)
        while await bench.ledger.forget_keys(before_ms=later_ms):
            pass
        await bench.ledger.append(events(50_000, 70))
        await bench.ledger.append(events(51_000, 3))


def events(first: int, count: int, happened_ms: int | None = None) -> list[UsageEvent]:
    found = map(event_of, range(first, first + count))
    return [msgspec.structs.replace(one, timestamp_ms=happened_ms) for one in found]


def found_in(store: Store, before_ms: int = LATER) -> Prunable:
    with store.read() as txn:
        return prunable(txn, before_ms)


def prunable(txn: Transaction, before_ms: int = LATER) -> Prunable:
    first_ms, more = pruning.first_to_revise(txn, b"")
    assert more is None
    until_ms = min(before_ms, pruning.closed_until_ms(txn, LATER), first_ms)
    return pruning.prunable(txn, int(until_ms))


def prune_all(data: Path, before_ms: int = LATER) -> list[int]:
    """How many events each transaction deleted."""
    portions = []
    with closing(Store(data)) as store:
        while (found := found_in(store, before_ms)).events:
            store.write(partial(pruning.prune, found=found))
            portions.append(found.events)
    return portions


def sweep(txn: Transaction) -> None:
    """A whole round."""
    going = sweeping.next_round(txn)
    assert going is not None
    while not going.is_over:
        found = sweeping.sweepable(txn, going)
        sweeping.sweep(txn, found)
        going = found.next
