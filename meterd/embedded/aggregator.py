"""One customer's actor: owns its Account, so that nobody else ever decides on that customer's
totals.

An actor because events, a period's end and a snapshot may come for a customer at the same time and
each must see what the others decided. Sent to by the registry only; its mail is bounded by the
engine's limit on events in flight. It has no task of its own: the committer gives it its turn.

Events are counted at once, in memory; their totals are written when the account is posted
(``posting.POST_SECONDS``). The log has the events by then, and a start counts again what was not
posted (``recovery``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, assert_never

import msgspec

from meterd.domain.account import Account
from meterd.domain.admission import Late
from meterd.domain.aggregations import Aggregation, ClosingRules
from meterd.domain.hierarchy import belongs_to, givers, parts_of, takers
from meterd.domain.periods import Period, PeriodType
from meterd.domain.receipts import Receipt
from meterd.domain.stored_events import StoredEvent
from meterd.domain.totals import PeriodTotals, Totals
from meterd.domain.voids import Void, VoidOutcome
from meterd.embedded import journal, voids
from meterd.embedded.committer import Committer
from meterd.embedded.mailbox import Reply
from meterd.embedded.store import Store
from meterd.embedded.stored import Stored

if TYPE_CHECKING:
    from meterd.domain.changes import Change
    from meterd.embedded.mailbox import Round
    from meterd.embedded.transaction import Transaction


class Append(msgspec.Struct, frozen=True, gc=False):
    """Count the receipt's events at these offsets, the customer's. Before ``closed_until_ms``
    periods were closed, or being closed, when they were sent.
    """

    receipt: Receipt
    offsets: Sequence[int]
    closed_until_ms: Mapping[PeriodType, int]


class Post(msgspec.Struct, frozen=True):
    """Have what was counted written to the totals."""

    reply: Reply


class Close(msgspec.Struct, frozen=True):
    """Close this period, which has ended. What it makes is due at ``due_ms``, else when made."""

    period: Period
    rules: ClosingRules
    now_ms: int
    made: list[Aggregation]
    reply: Reply
    due_ms: int | None = None


class TakeSnapshot(msgspec.Struct, frozen=True):
    """Write open aggregations of these periods; ``open`` are hours and days not closed."""

    periods: tuple[Period, ...]
    open: tuple[Period, ...]
    rules: ClosingRules
    now_ms: int
    made: list[bool]
    reply: Reply


class Revise(msgspec.Struct, frozen=True):
    """Publish these periods anew if late events came for them. See ``Close``."""

    periods: tuple[Period, ...]
    rules: ClosingRules
    now_ms: int
    made: list[Aggregation]
    reply: Reply
    due_ms: int


class BeginRecount(msgspec.Struct, frozen=True):
    """Have what was counted written, and note what comes of that hour and type from then on.

    ``through`` takes the id up to which the events of the hour are on disk then.
    """

    hour: Period
    event_type: str
    through: list[bytes]
    reply: Reply


class EndRecount(msgspec.Struct, frozen=True):
    """Note it no more: nobody asks."""


class VoidEvent(msgspec.Struct, frozen=True):
    """Take that event back, whose hour was counted again without it: so much is left of its type.

    ``decided`` takes the outcome, and why the event is void, if it is.
    """

    stored: StoredEvent
    void: Void
    late: Late
    recounted: Totals | None
    decided: list[tuple[VoidOutcome, Void | None]]
    reply: Reply


Message = Append | Post | Close | Revise | TakeSnapshot | BeginRecount | EndRecount | VoidEvent


class Aggregator(msgspec.Struct, eq=False, gc=False):
    """See above; ``is_used`` is the registry's mark for who may retire.

    Nothing for the garbage collector to walk over, as its account, but while there is mail.
    """

    part: int
    _account: Account
    _store: Store
    _committer: Committer
    is_used: bool = False
    _mail: list[Message] | None = None
    _to_decide: list[Message] | None = None
    _is_posted: bool = True  # but for what is in the mail
    _is_in_flight: bool = False

    @property
    def at_rest(self) -> bool:
        """Whether all that this actor knows is posted and on disk, and nothing has come since."""
        is_busy = self._mail or self._to_decide or self._is_in_flight
        return self._is_posted and not (is_busy or self._account.is_recounting)

    def send(self, message: Message) -> None:
        """Puts the message into the mailbox; it is decided on in the next round."""
        if self._mail is None:
            self._mail = [message]
            self._committer.expect(self)
        else:
            self._mail.append(message)

    def begin(self) -> None:
        """See ``Decider``."""
        self._to_decide, self._mail = self._mail, None

    def decide(self, round_: Round) -> None:
        """See ``Decider``."""
        mail, self._to_decide = self._to_decide, None
        assert mail is not None, "a round was decided that did not begin"
        replies = [reply for message in mail if (reply := self._decide(message)) is not None]
        if replies:
            self._hand_over(round_, replies)

    def committed(self, change: Change) -> None:
        """See ``Decider``."""
        self._is_in_flight = False
        self._account.committed(change)

    def give_up(self) -> None:
        """See ``Decider``. Who sent events waits for the log, and is told of it there."""
        for message in self._mail or ():
            if not isinstance(message, Append | EndRecount):
                message.reply.give_up()

    def _hand_over(self, round_: Round, replies: list[Reply]) -> None:
        """Who sent anything but events waits until all that was decided is on disk."""
        round_.replies += replies
        change = self._account.take_change()
        self._is_posted = True
        if change is not None:
            self._is_in_flight = True
            round_.handed_over.append((self, change))

    def _decide(self, message: Message) -> Reply | None:
        """Decides, and returns who waits for the totals; who sent events waits for the log."""
        match message:
            case Append(receipt, offsets, closed_until_ms):
                self.is_used = True
                self._is_posted = False
                if receipt.is_dated:
                    for hour in receipt.by_hour(offsets):
                        self._take_in_hand(hour)
                        if self._account.is_closed(hour, closed_until_ms):
                            self._take_in_hand(*belongs_to(hour))
                elif self._account.lacks(receipt.hour):
                    self._take_in_hand(receipt.hour)
                self._account.append(receipt, offsets, closed_until_ms)
                return None
            case Post():
                pass
            case Close(period, rules, now_ms, made, due_ms=due_ms):
                with self._store.read() as txn:
                    self._restore(txn, period, *takers(period))
                    for taker in takers(period):
                        if self._account.is_closed(taker):
                            self._restore(txn, *takers(taker))
                    closed = self._account.close(period, rules, now_ms, self._stored(txn), due_ms)
                if closed is not None:
                    made.append(closed)
            case Revise(periods, rules, now_ms, made, due_ms=due_ms):
                for period in periods:
                    self._take_in_hand(period)
                    with self._store.read() as txn:
                        revised = self._account.revise(
                            period, rules, now_ms, self._stored(txn), due_ms
                        )
                    if revised is not None:
                        made.append(revised)
            case TakeSnapshot(periods, open_periods, rules, now_ms, made):
                for period in periods:
                    parts = parts_of(period, open_periods)
                    self._take_in_hand(period, *parts)
                    with self._store.read() as txn:
                        snapshot = self._account.snapshot(
                            period, parts, rules, now_ms, self._stored(txn)
                        )
                    if snapshot is not None:
                        made.append(snapshot.is_first)
            case BeginRecount(hour, event_type, through):
                self._take_in_hand(hour)
                through.append(self._account.begin_recount(hour, event_type))
            case EndRecount():
                self._account.end_recount()
                return None
            case VoidEvent(decided=decided):
                decided.append(self._void(message))
                self._account.end_recount()
            case _:
                assert_never(message)
        return message.reply

    def _void(self, message: VoidEvent) -> tuple[VoidOutcome, Void | None]:
        hour = message.stored.hour
        longer = belongs_to(hour)
        self._take_in_hand(hour, *longer)
        with self._store.read() as txn:
            # Whoever asked for it before may not have waited for the answer.
            before = voids.read_void(txn, message.stored.id)
            if before is not None:
                return VoidOutcome.VOID_BEFORE, before
            is_late = self._account.is_closed(hour)
            if is_late and message.late is Late.REJECT:
                return VoidOutcome.TOO_LATE, None
            parts = self._parts(txn, longer) if is_late else {}
        void = self._account.void(message.stored.id, message.void, message.recounted, parts)
        return VoidOutcome.VOIDED, void

    def _parts(self, txn: Transaction, longer: Sequence[Period]) -> dict[Period, PeriodTotals]:
        """What these periods are made of, but for what is in hand."""
        account = self._account
        lacking = [
            part
            for period in longer
            if period.type is PeriodType.DAILY or account.is_closed(longer[0])
            for part in givers(period)
            if account.lacks(part)
        ]
        found = (
            (part, journal.read_totals(txn, self.part, part, account.customer_id))
            for part in dict.fromkeys(lacking)
        )
        return {part: totals for part, totals in found if totals is not None}

    def _take_in_hand(self, *periods: Period) -> None:
        """See ``_restore``."""
        if any(self._account.lacks(period) for period in periods):
            with self._store.read() as txn:
                self._restore(txn, *periods)

    def _restore(self, txn: Transaction, *periods: Period) -> None:
        """Restores what is lacking of these."""
        account = self._account
        for period in periods:
            if account.lacks(period):
                found = journal.read_totals(txn, self.part, period, account.customer_id)
                account.restore(period, found)

    def _stored(self, txn: Transaction) -> Stored:
        """What is on disk of the customer's."""
        return Stored(txn, self.part, self._account.customer_id)
