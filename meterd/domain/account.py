"""Decides, for one customer, what an event or a period's end changes.

What is counted in which period is the ``tally``; what is published of it, and when, is decided
here: when a period closes, and once more, as a revision, for each closed period that events came to
late (``revise``).

An account is pure: it decides on totals that it is given (``restore``) and says what changed
(``Change``). Who calls it reads, writes, and keeps the order of calls.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import msgspec

from meterd.domain.aggregations import (
    Aggregation,
    ClosingRules,
    aggregate,
    completed_body,
    figures_digest,
    revise,
    revised_body,
)
from meterd.domain.changes import Change
from meterd.domain.deliveries import first_attempt
from meterd.domain.digests import STALE, START, digest_of_parts
from meterd.domain.hierarchy import takers
from meterd.domain.periods import Period, PeriodType
from meterd.domain.tally import Tally
from meterd.domain.totals import NOTHING, PeriodTotals, merge_types

if TYPE_CHECKING:
    from collections.abc import Sequence


class OnDisk(Protocol):
    """What is stored of an account's customer beside the totals in hand; read when it is asked."""

    def aggregation(self, period: Period) -> Aggregation | None:
        """That of the period."""

    def chain(self, period: Period) -> bytes | None:
        """The digest of a closed period; None where nothing is in it."""

    def published(self, kind: PeriodType) -> bytes:
        """The digest of what was published last of that type; empty where nothing was."""


class Snapshot(msgspec.Struct, frozen=True):
    """An open period's aggregation, and whether there was none of that period before."""

    aggregation: Aggregation
    is_first: bool


class Account(Tally, eq=False, gc=False):
    """See above.

    A period is in hand until a change that closes it, or no longer needs it, is on disk
    (``committed``): until then what is stored would be older than what was decided.
    """

    _aggregations: dict[Period, Aggregation] = msgspec.field(default_factory=dict)
    _published: dict[PeriodType, bytes] = msgspec.field(default_factory=dict)

    def close(
        self,
        period: Period,
        rules: ClosingRules,
        now_ms: int,
        on_disk: OnDisk,
        due_ms: int | None = None,
    ) -> Aggregation | None:
        """Closes a period whose parts are all closed, once; a second call changes nothing.

        The longer periods named by ``takers`` must be in hand too, and theirs where one of them is
        closed, as it may be where the period had no events until others of them were.

        The aggregation, if one is published, and its deliveries enter the same change as the totals
        handed up. Deliveries are due at ``due_ms``, else now.
        """
        self._put_counted()
        totals = self._totals[period]
        if totals.closed or totals is NOTHING:
            return None
        for taker in takers(period):
            self._hand_in(taker, totals.by_type, now_ms)
        chain = self._chain(period, totals, on_disk)
        earlier = self._aggregation(period, on_disk)
        closed = aggregate(
            self.customer_id, period, totals, rules, closed=True, now_ms=now_ms, earlier=earlier
        )
        if closed is not None:
            closed = self._publish(closed, chain, on_disk)
        elif earlier is not None:
            self._withdraw(period)
        published = b"" if closed is None else figures_digest(closed)
        self._put(
            period, msgspec.structs.replace(totals, closed=True, published=published, chain=chain)
        )
        if closed is not None and closed.endpoints:
            body = completed_body(closed)
            self._changing().deliveries += tuple(
                first_attempt(closed, endpoint, body, now_ms, due_ms)
                for endpoint in closed.endpoints
            )
        return closed

    def revise(
        self,
        period: Period,
        rules: ClosingRules,
        now_ms: int,
        on_disk: OnDisk,
        due_ms: int | None = None,
    ) -> Aggregation | None:
        """Publishes anew what late events have changed, as the next revision; see ``close``."""
        totals = self._totals[period]
        if not totals.late_since_ms:
            return None
        change = self._changing()
        if change.late.pop(period, None) is None:
            change.revised[period] = totals.late_since_ms
        earlier = self._aggregation(period, on_disk)
        chain = self._chain(period, totals, on_disk)
        made = revise(
            self.customer_id, period, totals, rules, contents=chain, now_ms=now_ms, earlier=earlier
        )
        published = totals.published
        if made is not None:
            made = self._publish(made, chain, on_disk)
            published = figures_digest(made)
            body = completed_body(made)
            if earlier is not None and earlier.closed:
                change.superseded += (earlier,)
                body = revised_body(made, earlier)
            change.deliveries += tuple(
                first_attempt(made, endpoint, body, now_ms, due_ms) for endpoint in made.endpoints
            )
        self._put(
            period,
            msgspec.structs.replace(totals, published=published, late_since_ms=0, chain=chain),
        )
        return made

    def snapshot(
        self,
        period: Period,
        parts: Sequence[Period],
        rules: ClosingRules,
        now_ms: int,
        on_disk: OnDisk,
    ) -> Snapshot | None:
        """The open period's aggregation as of now, or None where there is nothing to show.

        ``parts`` are the hours and days in it that may still be open; they must be in hand. A
        snapshot changes no totals and delivers nothing.
        """
        self._put_counted()
        totals = self._totals[period]
        if totals.closed:
            return None
        by_type = totals.by_type
        for part in parts:
            if not self._totals[part].closed:
                by_type = merge_types(by_type, self._totals[part].by_type)
        earlier = self._aggregation(period, on_disk)
        running = PeriodTotals(closed=False, by_type=by_type)
        if not by_type and earlier is not None:
            self._withdraw(period)  # all of its events are void
            earlier = None
        made = aggregate(
            self.customer_id, period, running, rules, closed=False, now_ms=now_ms, earlier=earlier
        )
        if made is None:
            return None
        self._aggregations[period] = self._changing().aggregations[period] = made
        return Snapshot(made, is_first=earlier is None)

    def committed(self, change: Change) -> None:
        """That change is on disk: of what nobody decided on since, only open hours stay in hand."""
        since = self._change or Change(self.customer_id)
        decided = since.totals.keys() | since.aggregations.keys()
        for period, totals in list(self._totals.items()):
            is_open_hour = period.type is PeriodType.HOURLY and not totals.closed
            if period not in decided and not is_open_hour:
                del self._totals[period]
        for period in change.aggregations.keys() - since.aggregations.keys():
            del self._aggregations[period]
        for kind in change.published.keys() - since.published.keys():
            del self._published[kind]

    def _aggregation(self, period: Period, on_disk: OnDisk) -> Aggregation | None:
        """The period's, as it was decided last."""
        return self._aggregations.get(period) or on_disk.aggregation(period)

    def _chain(self, period: Period, totals: PeriodTotals, on_disk: OnDisk) -> bytes:
        """The digest of what the period is made of, which is closed or closes now."""
        if period.type is PeriodType.HOURLY or (totals.closed and totals.chain != STALE):
            return totals.chain

        def chain_of(part: Period) -> bytes | None:
            found = self._totals.get(part)
            if found is None or found is NOTHING:
                return on_disk.chain(part)
            return found.chain if found.closed else None

        return digest_of_parts(period, chain_of)

    def _publish(self, made: Aggregation, contents: bytes, on_disk: OnDisk) -> Aggregation:
        """The aggregation behind all that were published of its type."""
        kind, change = made.period_type, self._changing()
        before = self._published.get(kind) or on_disk.published(kind) or START
        closed = msgspec.structs.replace(made, contents=contents, previous=before)
        self._aggregations[made.period] = change.aggregations[made.period] = closed
        self._published[kind] = change.published[kind] = closed.digest
        return closed

    def _withdraw(self, period: Period) -> None:
        """There is nothing to publish of it any more."""
        change = self._changing()
        change.aggregations.pop(period, None)
        self._aggregations.pop(period, None)
        change.withdrawn += (period,)
