"""What was published is read in the order in which it was, whatever period it is of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from meterd.domain.periods import HOUR_MS, PeriodType
from meterd.embedded import keys, trail
from meterd.embedded.store import PARTS
from tests.embedded.engine_bench import running
from tests.ledger_bench import START_MS, close_ended, event, rules

if TYPE_CHECKING:
    from pathlib import Path


async def test_a_revision_stands_behind_what_was_published_before_it(tmp_path: Path) -> None:
    """Of this customer and type only."""
    by = rules(PeriodType.HOURLY, PeriodType.DAILY)
    async with running(tmp_path) as bench:
        for hour in range(3):
            bench.clock.now_ms = START_MS + hour * HOUR_MS
            await bench.ledger.append([event("acme"), event("b")])
        await close_ended(bench, by, clock_ms=START_MS + 3 * HOUR_MS)
        await bench.ledger.append([msgspec.structs.replace(event(), timestamp_ms=START_MS)])
        await bench.ledger.next_to_close()
        await bench.ledger.revise(by, until_ms=bench.clock.now_ms)
        await bench.ledger.append([event("acme")])
        await close_ended(bench, by, clock_ms=START_MS + 5 * HOUR_MS)
        part = keys.part_of("acme", PARTS)
        with bench.store.read() as txn:
            found = list(trail.in_order(txn, part, "acme", PeriodType.HOURLY))
            every = list(trail.read_publications(txn, part, "acme", PeriodType.HOURLY))
            assert list(trail.in_order(txn, part, "acme", PeriodType.YEARLY)) == []
    hours = [((one.start_ms - found[0].start_ms) // HOUR_MS, one.revision) for one in found]
    assert hours == [(0, 1), (1, 1), (2, 1), (0, 2), (3, 1)]
    assert [one.previous for one in found[1:]] == [one.digest for one in found[:-1]]
    assert sorted(one.digest for one in every) == sorted(one.digest for one in found)
