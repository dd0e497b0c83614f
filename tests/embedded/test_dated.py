"""Events of an hour that were received in another are found by the index, in the log's order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from meterd.domain.periods import HOUR_MS, PeriodType, period_at
from meterd.embedded import dated
from meterd.embedded.dated import dated_events
from tests.embedded.engine_bench import running
from tests.ledger_bench import START_MS, event

if TYPE_CHECKING:
    from pathlib import Path

    from meterd.domain.events import UsageEvent

HOUR = period_at(PeriodType.HOURLY, START_MS)


def of_hour(customer_id: str, value: int, event_type: str) -> UsageEvent:
    one = event(customer_id, event_type, value)
    return msgspec.structs.replace(one, timestamp_ms=HOUR.start_ms + value)


@pytest.mark.parametrize("at_once", [1, 3, 200_000])
async def test_each_customer_s_come_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    """However much of the index is held at once, and whatever the types; what came within the
    hour, or is of another, is not among them.
    """
    monkeypatch.setattr(dated, "_WANTED_MAX", at_once)
    types = ["sum", "max", "api", "sum", "max"]
    async with running(tmp_path) as bench:
        for moment_ms, first in ((-60_000, 0), (0, 100), (HOUR_MS, 200), (2 * HOUR_MS, 300)):
            bench.clock.now_ms = HOUR.start_ms + moment_ms
            for number, event_type in enumerate(types):
                sent = [of_hour(name, first + number, event_type) for name in ("acme", "b")]
                await bench.ledger.append([event(), *sent, event("b")])
        await bench.restart()
        for are_early, wanted in ((True, [0]), (False, [200, 300])):
            with bench.store.read() as txn:
                found = list(dated_events(txn, HOUR, are_early=are_early))
            for name in ("acme", "b"):
                values = [
                    (int(one.value), offset)
                    for _, events in found
                    for offset, one in events
                    if one.customer_id == name
                ]
                place = 1 if name == "acme" else 2
                assert values == [(first + n, place) for first in wanted for n in range(5)]
