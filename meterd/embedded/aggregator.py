"""One customer's actor: owns its Account, so that nobody else ever decides on that customer's
totals.

An actor because events, a period's end and a snapshot may come for a customer at the same time and
each must see what the others decided. Sent to by the registry only; its mailbox is bounded by
``MAILBOX_MAX`` appends, behind which a caller is told that meterd is overloaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, assert_never

import msgspec

from meterd.domain.account import Account, PlacedEvent, parts_of, takers
from meterd.domain.aggregations import Aggregation, ClosingRules
from meterd.domain.event_ids import Stamp
from meterd.domain.periods import Period, PeriodType, period_at
from meterd.embedded import journal
from meterd.embedded.committer import Decided
from meterd.embedded.mailbox import Gate, Mailbox, Reply

if TYPE_CHECKING:
    from meterd.embedded.committer import Committer
    from meterd.embedded.store import Store

# Far more than arrive between two turns of the scheduler, which is how long a message waits.
MAILBOX_MAX: Final = 10_000


class Append(msgspec.Struct, frozen=True, gc=False):
    """Count these events, received at the stamp's moment."""

    stamp: Stamp
    events: list[PlacedEvent]
    reply: Reply


class Close(msgspec.Struct, frozen=True):
    """Close this period, which has ended."""

    period: Period
    rules: ClosingRules
    now_ms: int
    made: list[Aggregation]
    reply: Reply


class TakeSnapshot(msgspec.Struct, frozen=True):
    """Write open aggregations of these periods; ``open`` are hours and days not closed."""

    periods: tuple[Period, ...]
    open: tuple[Period, ...]
    rules: ClosingRules
    now_ms: int
    made: list[bool]
    reply: Reply


Message = Append | Close | TakeSnapshot


class Aggregator:
    """See above; ``is_used`` is the registry's mark for who may retire."""

    def __init__(
        self, customer_id: str, part: int, store: Store, committer: Committer, gate: Gate
    ) -> None:
        self.mailbox: Mailbox[Message] = Mailbox(MAILBOX_MAX)
        self.is_used = False
        self._account = Account(customer_id, part)
        self._part = part
        self._store = store
        self._committer = committer
        self._gate = gate
        self._replies: list[Reply] = []
        self._enlisted = False
        self._in_flight = False

    async def run(self) -> None:
        """Decides on each message as it comes, until the mailbox is closed."""
        while (message := await self.mailbox.receive()) is not None:
            self._decide(message)
            self._gate.decided()

    def may_retire(self) -> bool:
        """Whether all that this actor knows is on disk, and nobody waits for it."""
        return not (len(self.mailbox) or self._enlisted or self._in_flight)

    def take(self) -> Decided:
        """See ``Source``."""
        self._enlisted = False
        self._in_flight = True
        replies, self._replies = self._replies, []
        return Decided(self._account.take_change(), replies)

    def committed(self, decided: Decided) -> None:
        """See ``Source``."""
        self._in_flight = False
        if decided.change is not None:
            self._account.committed(decided.change)
        for reply in decided.replies:
            reply.durable()

    def _decide(self, message: Message) -> None:
        match message:
            case Append(stamp, events):
                self.is_used = True
                self._take_in_hand(period_at(PeriodType.HOURLY, stamp.received_ms))
                self._account.append(stamp, events)
            case Close(period, rules, now_ms, made):
                self._take_in_hand(period, *takers(period))
                stored = self._stored_aggregation(period)
                closed = self._account.close(period, rules, now_ms, stored)
                if closed is not None:
                    made.append(closed)
            case TakeSnapshot(periods, open_periods, rules, now_ms, made):
                for period in periods:
                    parts = parts_of(period, open_periods)
                    self._take_in_hand(period, *parts)
                    stored = self._stored_aggregation(period)
                    snapshot = self._account.snapshot(period, parts, rules, now_ms, stored)
                    if snapshot is not None:
                        made.append(snapshot.is_first)
            case _:
                assert_never(message)
        self._replies.append(message.reply)
        if not self._enlisted:
            self._enlisted = True
            self._committer.enlist(self)

    def _take_in_hand(self, *periods: Period) -> None:
        lacking = [period for period in periods if self._account.lacks(period)]
        if not lacking:
            return
        with self._store.read() as txn:
            for period in lacking:
                found = journal.read_totals(txn, self._part, period, self._account.customer_id)
                self._account.restore(period, found)

    def _stored_aggregation(self, period: Period) -> Aggregation | None:
        with self._store.read() as txn:
            return journal.read_aggregation(txn, self._part, period, self._account.customer_id)
