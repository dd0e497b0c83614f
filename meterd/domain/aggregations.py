"""A period's totals as they are published: an open snapshot, or closed for good.

The id is made of customer, period type and period key, so closing again, or on another machine,
makes the same one. A closed aggregation never changes; what comes later is another revision of it,
whose figures are read as those of the one before were.
"""

from __future__ import annotations

import hashlib
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import msgspec

from meterd.domain import javascript
from meterd.domain.digests import digest_of
from meterd.domain.instants import format_instant
from meterd.domain.operations import Operation
from meterd.domain.periods import Period, PeriodType, period_at

if TYPE_CHECKING:
    from collections.abc import Mapping

    from meterd.domain.totals import PeriodTotals

FIRST_REVISION: Final = 1
_DIGEST_BYTES: Final = 8
_GREATEST_DOUBLE: Final = Decimal(2**1024 - 2**971)


class Figure(msgspec.Struct, frozen=True, array_like=True):
    """One event type's result: what the operation read, and from how many events."""

    operation: Operation
    value: Decimal
    count: int


class ClosingRules(msgspec.Struct, frozen=True):
    """What the configuration says about closing, as it stands at that moment."""

    operations: dict[str, Operation]
    published: frozenset[PeriodType]
    endpoints: tuple[str, ...]


class Aggregation(msgspec.Struct, frozen=True, array_like=True):
    """One customer, one period. ``endpoints`` are the ids of those that get it delivered.

    ``former`` are operations of event types that an earlier revision had and this one has not,
    since all of their events are void. Of a closed one ``contents`` is the digest of what it was
    made of, and ``previous`` that of what was published of its customer and period type before (see
    ``digests``); both are empty where a meterd made it that had none.
    """

    customer_id: str
    period_type: PeriodType
    start_ms: int
    revision: int
    closed: bool
    created_ms: int
    computed_ms: int
    figures: dict[str, Figure]
    endpoints: tuple[str, ...] = ()
    former: dict[str, Operation] = {}
    contents: bytes = b""
    previous: bytes = b""

    @property
    def digest(self) -> bytes:
        """Of all that is published with it, and of all before; empty where it has none."""
        return digest_of(publication_line(self)) if self.previous else b""

    @property
    def period(self) -> Period:
        return period_at(self.period_type, self.start_ms)

    @property
    def id(self) -> str:
        return aggregation_id(self.customer_id, self.period)

    @property
    def event_count(self) -> int:
        return sum(figure.count for figure in self.figures.values())


def aggregate(
    customer_id: str,
    period: Period,
    totals: PeriodTotals,
    rules: ClosingRules,
    *,
    closed: bool,
    now_ms: int,
    earlier: Aggregation | None,
) -> Aggregation | None:
    """The aggregation of those totals, event types in the order of the configuration.

    None where the period is not published, or none of its event types is configured any more. An
    ``earlier`` snapshot hands on when the aggregation first came to be.
    """
    if period.type not in rules.published:
        return None
    figures = _figures(totals, rules.operations)
    if not figures:
        return None
    return Aggregation(
        customer_id,
        period.type,
        period.start_ms,
        FIRST_REVISION,
        closed,
        earlier.created_ms if earlier else now_ms,
        now_ms,
        figures,
        rules.endpoints if closed else (),
    )


def revise(
    customer_id: str,
    period: Period,
    totals: PeriodTotals,
    rules: ClosingRules,
    *,
    contents: bytes,
    now_ms: int,
    earlier: Aggregation | None,
) -> Aggregation | None:
    """What is published of a closed period whose totals, and ``contents``, have changed; None where
    both are the same.

    Event types that were published before are read by the operation that they were closed with,
    others by the rules as they are now. Where nothing was published it is as if the period closed
    now.
    """
    if earlier is None or not earlier.closed:
        return aggregate(
            customer_id, period, totals, rules, closed=True, now_ms=now_ms, earlier=earlier
        )
    by_figure = {name: figure.operation for name, figure in earlier.figures.items()}
    operations = earlier.former | by_figure
    figures = _figures(totals, {**rules.operations, **operations})
    if figures == earlier.figures and contents == earlier.contents:
        return None
    return msgspec.structs.replace(
        earlier,
        revision=earlier.revision + 1,
        computed_ms=now_ms,
        figures=figures,
        endpoints=rules.endpoints,
        former={name: one for name, one in operations.items() if name not in figures},
    )


def _figures(totals: PeriodTotals, operations: Mapping[str, Operation]) -> dict[str, Figure]:
    return {
        event_type: Figure(operation, found.read(operation), found.count)
        for event_type, operation in operations.items()
        if (found := totals.by_type.get(event_type)) is not None
    }


def aggregation_id(customer_id: str, period: Period) -> str:
    return f"{customer_id}_{period.type}_{period.key}"


def publication_line(aggregation: Aggregation) -> bytes:
    """What is digested of a closed aggregation."""
    figures = {
        name: (figure.operation, str(figure.value), figure.count)
        for name, figure in aggregation.figures.items()
    }
    line = (
        "aggregation",
        aggregation.customer_id,
        aggregation.period_type,
        aggregation.period.key,
        aggregation.revision,
        aggregation.computed_ms,
        figures,
        aggregation.contents.hex() or None,
        aggregation.previous.hex(),
    )
    return msgspec.json.encode(line)


def figures_digest(aggregation: Aggregation) -> bytes:
    """What its figures are known again by: types in their order, operations, values, counts.

    Not who gets it delivered, nor when it was made: that may come to be otherwise.
    """
    figures = [
        (name, figure.operation, str(figure.value), figure.count)
        for name, figure in aggregation.figures.items()
    ]
    encoded = msgspec.json.encode(figures)
    return hashlib.blake2b(encoded, digest_size=_DIGEST_BYTES).digest()


def as_number(value: Decimal) -> Decimal:
    """The value as a JSON number can carry it: a sum may exceed the doubles, and is then the
    greatest.

    ``exact_figures`` has it whole.
    """
    return max(_GREATEST_DOUBLE.copy_negate(), min(value, _GREATEST_DOUBLE))


def exact_figures(aggregation: Aggregation) -> dict[str, str]:
    """Each result with all of its digits, as text: JSON numbers lose them in most readers."""
    return {
        event_type: javascript.exact_text(figure.value)
        for event_type, figure in aggregation.figures.items()
    }


def completed_body(aggregation: Aggregation) -> bytes:
    """The webhook's body, frozen when the period closes: the same bytes at every attempt.

    Contract, section 6: equal to its own re-serialisation by JavaScript.
    """
    return javascript.encode(_payload("aggregation.completed", aggregation))


def revised_body(aggregation: Aggregation, earlier: Aggregation) -> bytes:
    """The webhook's body of a revision: as ``completed_body``, with what the ``earlier`` said."""
    payload = _payload("aggregation.revised", aggregation)
    payload["data"]["previous"] = {
        "timestamp": format_instant(earlier.computed_ms),
        **_results(earlier),
        "revision": earlier.revision,
        "exact": exact_figures(earlier),
    }
    return javascript.encode(payload)


def _payload(kind: str, aggregation: Aggregation) -> dict[str, Any]:
    period = aggregation.period
    digest = {"digest": aggregation.digest.hex()} if aggregation.previous else {}
    return {
        "type": kind,
        "customerId": aggregation.customer_id,
        "period": str(aggregation.period_type),
        "data": {
            "periodStart": format_instant(period.start_ms),
            "periodEnd": format_instant(period.last_ms),
            "periodKey": period.key,
            "timestamp": format_instant(aggregation.computed_ms),
            **_results(aggregation),
            "id": aggregation.id,
            "revision": aggregation.revision,
            "exact": exact_figures(aggregation),
            **digest,
        },
        "created": aggregation.computed_ms // 1000,
    }


def _results(aggregation: Aggregation) -> dict[str, Any]:
    figures = aggregation.figures
    return {
        "events": {name: as_number(figure.value) for name, figure in figures.items()},
        "eventCounts": {name: figure.count for name, figure in figures.items()},
        "eventCount": aggregation.event_count,
    }
