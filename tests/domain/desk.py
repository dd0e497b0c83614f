"""An account beside a plain dict for its disk, kept as the aggregator keeps it over the store."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from meterd.domain.account import Account
from meterd.domain.aggregations import ClosingRules
from meterd.domain.event_ids import Stamp
from meterd.domain.events import UsageEvent
from meterd.domain.hierarchy import NOTHING_CLOSED, parts_of, takers
from meterd.domain.operations import Operation
from meterd.domain.periods import Period, PeriodType, period_at
from meterd.domain.receipts import Receipt, receive

if TYPE_CHECKING:
    from decimal import Decimal

    from meterd.domain.account import Snapshot
    from meterd.domain.aggregations import Aggregation
    from meterd.domain.changes import Change
    from meterd.domain.deliveries import Delivery
    from meterd.domain.totals import PeriodTotals

RULES = ClosingRules(
    operations={"api": Operation.SUM, "disk": Operation.MAX},
    published=frozenset(PeriodType),
    endpoints=("billing",),
)


class Desk:
    """An account and its disk: what is lacking is read first, as the aggregator does."""

    def __init__(self) -> None:
        self.account = Account("acme")
        self.totals: dict[Period, PeriodTotals] = {}
        self.aggregations: dict[Period, Aggregation] = {}
        self.digests: dict[PeriodType, bytes] = {}
        self.deliveries: list[Delivery] = []
        self.rules = RULES
        self._log: list[Receipt] = []
        self._counter = 0

    def append(self, at_ms: int, events: list[tuple[str, Decimal]]) -> None:
        found = [UsageEvent("acme", event_type, value, b"{}") for event_type, value in events]
        receipt = receive(Stamp(at_ms, self._counter, 7), found)
        self._counter += len(events)
        self._log.append(receipt)
        self._count(receipt)

    def repeat(self) -> None:
        """Counts the whole log again, as a start does with what may not have been posted."""
        for receipt in self._log:
            self._count(receipt)

    def _count(self, receipt: Receipt) -> None:
        self._take_in_hand(receipt.hour)
        self.account.append(receipt, list(range(len(receipt.events))), NOTHING_CLOSED)

    def close(self, period: Period, now_ms: int) -> Aggregation | None:
        self._take_in_hand(period, *takers(period))
        return self.account.close(period, self.rules, now_ms, self)

    def snapshot(self, period: Period, now_ms: int) -> Snapshot | None:
        now = [period_at(kind, now_ms) for kind in (PeriodType.HOURLY, PeriodType.DAILY)]
        parts = parts_of(period, now)
        self._take_in_hand(period, *parts)
        return self.account.snapshot(period, parts, self.rules, now_ms, self)

    def aggregation(self, period: Period) -> Aggregation | None:
        """See ``OnDisk``."""
        return self.aggregations.get(period)

    def chain(self, period: Period) -> bytes | None:
        """See ``OnDisk``."""
        totals = self.totals.get(period)
        return totals.chain if totals is not None and totals.closed else None

    def published(self, kind: PeriodType) -> bytes:
        """See ``OnDisk``."""
        return self.digests.get(kind, b"")

    def write(self, change: Change) -> None:
        """The change reaches the disk, and the account is told."""
        self.totals |= change.totals
        self.aggregations |= change.aggregations
        self.digests |= change.published
        self.deliveries += change.deliveries
        self.account.committed(change)

    def commit(self) -> None:
        change = self.account.take_change()
        if change is not None:
            self.write(change)

    def restart(self) -> None:
        """What was not written is gone."""
        self.account = Account("acme")

    def _take_in_hand(self, *periods: Period) -> None:
        for period in periods:
            if self.account.lacks(period):
                self.account.restore(period, self.totals.get(period))


def ms(text: str) -> int:
    return int(dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC).timestamp()) * 1000
