"""Steps of an account's life as lines of text, and the change they make as others.

A step is a moment and what happens then. A change is told line by line: whether it may introduce
the customer, the blocks its events are in, totals as ``type=sum/count``, aggregations as
``type=result/count`` with when they were created and computed, deliveries. Days are told without
their month.
"""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import TYPE_CHECKING

import msgspec

from meterd.domain.event_ids import ID_BYTES, stamp_of
from meterd.domain.operations import Operation
from meterd.domain.periods import PeriodType, period_at
from tests.domain.desk import Desk, ms

if TYPE_CHECKING:
    from meterd.domain.changes import Change

FIVE = "2026-01-14T15:10 counts api=5"
DAY = period_at(PeriodType.DAILY, ms("2026-01-14T00:00"))
HOUR = period_at(PeriodType.HOURLY, ms("2026-01-14T15:00"))


def clock(instant_ms: int) -> str:
    return f"{dt.datetime.fromtimestamp(instant_ms // 1000, dt.UTC):%d %H:%M}"


def happen(desk: Desk, step: str) -> None:
    """One step: counts, closes the latest ended period of a type, snapshots the running one."""
    moment, verb, *words = step.split()
    now_ms = ms(moment)
    match verb, words:
        case "counts", events:
            pairs = [event.split("=") for event in events]
            desk.append(now_ms, [(name, Decimal(value)) for name, value in pairs])
        case "close", kinds:
            for kind in map(PeriodType, kinds):
                desk.close(period_at(kind, period_at(kind, now_ms).start_ms - 1), now_ms)
        case "snapshot", kinds:
            for kind in map(PeriodType, kinds):
                desk.snapshot(period_at(kind, now_ms), now_ms)
        case "configure", pairs:
            operations = dict(pair.split("=") for pair in pairs)
            desk.rules = msgspec.structs.replace(
                desk.rules,
                operations={name: Operation(value) for name, value in operations.items()},
            )
        case "publish", kinds:
            desk.rules = msgspec.structs.replace(
                desk.rules, published=frozenset(map(PeriodType, kinds))
            )
        case "endpoints", ids:
            desk.rules = msgspec.structs.replace(desk.rules, endpoints=tuple(ids))
        case "commit", []:
            desk.commit()
        case _:
            raise AssertionError(step)


def told(change: Change | None) -> list[str]:
    if change is None:
        return []
    lines = [] if change.first_received_ms is None else ["introduces"]
    for event_type, ids in change.blocks.items():
        blocks = [bytes(ids[at : at + ID_BYTES]) for at in range(0, len(ids), ID_BYTES)]
        lines += [f"block {clock(stamp_of(block).received_ms)} {event_type}" for block in blocks]
    for period, totals in sorted(change.totals.items()):
        sums = " ".join(
            f"{name}={found.sum}/{found.count}" for name, found in totals.by_type.items()
        )
        lines.append(f"{period.type} {period.key} {state(totals.closed)} {sums}")
    for period, made in sorted(change.aggregations.items()):
        results = " ".join(
            f"{name}={found.value}/{found.count}" for name, found in made.figures.items()
        )
        times = f"created {clock(made.created_ms)} computed {clock(made.computed_ms)}"
        assert made.period == period
        lines.append(f"{made.id} {state(made.closed)} {results} {times}")
    for sent in change.deliveries:
        key = period_at(sent.period_type, sent.start_ms).key
        lines.append(f"to {sent.endpoint_id}: {key} at {clock(sent.next_attempt_ms)}")
    return lines


def state(closed: bool) -> str:
    return "closed" if closed else "open"


def lines_of(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def after(*steps: str) -> Desk:
    desk = Desk()
    for step in steps:
        happen(desk, step)
    return desk


def change_of(desk: Desk) -> Change:
    change = desk.account.take_change()
    assert change is not None
    return change
