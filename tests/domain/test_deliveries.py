"""A delivery's life by tables: when each attempt follows, when it is parked, by what id it goes."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from itertools import combinations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meterd.domain.aggregations import Aggregation, Figure, completed_body
from meterd.domain.deliveries import (
    Delivery,
    DeliveryStatus,
    attempt_interrupted,
    begin_attempt,
    delivery_id,
    first_attempt,
    interrupted,
    numbered,
    once_more,
    pause_asked,
    settle_attempt,
    withdrawn,
)
from meterd.domain.endpoints import SCHEDULE_MS
from meterd.domain.operations import Operation
from meterd.domain.outcomes import Outcome
from meterd.domain.periods import PeriodType

# 2026-01-15T00:05:00Z
NOW = 1_768_435_500_000
FAILED = Outcome("HTTP 500: Internal Server Error")

AGGREGATION = Aggregation(
    customer_id="acme",
    period_type=PeriodType.DAILY,
    start_ms=1_768_348_800_000,
    revision=1,
    closed=True,
    created_ms=NOW,
    computed_ms=NOW,
    figures={"api": Figure(Operation.COUNT, Decimal(3), 3)},
    endpoints=("billing",),
)
DUE = first_attempt(AGGREGATION, "billing", b"{}", NOW)


def failed(times: int, jitter: Fraction = Fraction(0)) -> tuple[Delivery, int]:
    """The delivery after so many failures, each begun when it was due, and when the last came."""
    delivery, now_ms = DUE, NOW
    for _ in range(times):
        now_ms = delivery.next_attempt_ms
        delivery = settle_attempt(begin_attempt(delivery, now_ms), FAILED, now_ms, jitter)
    return delivery, now_ms


def test_a_closed_aggregation_is_due_at_once() -> None:
    """Nothing tried yet, pending, with the body as it was frozen."""
    first = Delivery(
        id=delivery_id("billing", "acme_daily_20260114", 1),
        endpoint_id="billing",
        sequence=0,
        customer_id="acme",
        period_type=PeriodType.DAILY,
        start_ms=1_768_348_800_000,
        revision=1,
        body=b"{}",
        created_ms=NOW,
        next_attempt_ms=NOW,
        status=DeliveryStatus.PENDING,
        attempts=0,
        failures=0,
        begun_ms=None,
        delivered_ms=None,
        dry_run=False,
        last_error=None,
        last_attempt_ms=None,
    )
    assert first == DUE


# failed attempt: milliseconds until the next at jitter -1, 0, 1
SCHEDULE = [
    (1, 4_000, 5_000, 6_000),
    (2, 240_000, 300_000, 360_000),
    (3, 1_440_000, 1_800_000, 2_160_000),
    (4, 5_760_000, 7_200_000, 8_640_000),
    (5, 14_400_000, 18_000_000, 21_600_000),
    (6, 28_800_000, 36_000_000, 43_200_000),
    (7, 40_320_000, 50_400_000, 60_480_000),
    (8, 57_600_000, 72_000_000, 86_400_000),
    (9, 69_120_000, 86_400_000, 103_680_000),
]


@pytest.mark.parametrize(("attempt", "early", "plain", "late"), SCHEDULE)
def test_the_next_attempt_follows_to_the_millisecond(
    attempt: int, early: int, plain: int, late: int
) -> None:
    """5 s, 5 min, 30 min, 2, 5, 10, 14, 20 and 24 h after a failure, a fifth sooner or later."""
    before, _ = failed(attempt - 1)
    begun = begin_attempt(before, before.next_attempt_ms)
    ended_ms = before.next_attempt_ms + 30_000
    for jitter, wait in ((-1, early), (0, plain), (1, late)):
        settled = settle_attempt(begun, FAILED, ended_ms, Fraction(jitter))
        assert settled.next_attempt_ms == ended_ms + wait
        assert settled.status is DeliveryStatus.PENDING
        assert (settled.attempts, settled.failures) == (attempt, attempt)
        assert settled.begun_ms is None
        assert settled.last_error == FAILED.error


@given(st.integers(1, 9), st.fractions(-1, 1))
def test_jitter_spreads_evenly_and_never_beyond_a_fifth(attempt: int, jitter: Fraction) -> None:
    """The wait is the plain one times 0.8 to 1.2, rounded to a whole millisecond."""
    begun = msgspec.structs.replace(begin_attempt(DUE, NOW), failures=attempt - 1)
    wait = settle_attempt(begun, FAILED, NOW, jitter).next_attempt_ms - NOW
    plain = SCHEDULE[attempt - 1][2]
    assert isinstance(wait, int)
    assert abs(wait - plain * (1 + jitter / 5)) <= Fraction(1, 2)


def test_ten_tries_reach_over_a_weekend() -> None:
    """From the first to the last attempt 75 hours, 35 minutes and 5 seconds pass."""
    _, last_ms = failed(10)
    assert last_ms - NOW == ((75 * 60 + 35) * 60 + 5) * 1000
    assert sum(SCHEDULE_MS) == last_ms - NOW


def test_the_tenth_failure_parks() -> None:
    """Nine failures are waited out; after the tenth only a person tries again."""
    ninth, _ = failed(9)
    tenth, last_ms = failed(10)
    assert ninth.status is DeliveryStatus.PENDING
    assert (tenth.status, tenth.attempts) == (DeliveryStatus.PARKED, 10)
    assert (tenth.last_error, tenth.last_attempt_ms) == (FAILED.error, last_ms)


def test_an_attempt_is_begun_before_it_is_made() -> None:
    """While it is in the air it counts as tried, and another may not begin."""
    begun = begin_attempt(DUE, NOW + 7)
    assert begun == msgspec.structs.replace(
        DUE, attempts=1, last_attempt_ms=NOW + 7, begun_ms=NOW + 7
    )
    with pytest.raises(AssertionError, match="in the air already"):
        begin_attempt(begun, NOW + 8)


def test_what_nobody_saw_the_end_of_is_sent_again_at_once() -> None:
    """Under the same id, with the same bytes; it says that its outcome is unknown, and nothing of
    its schedule is spent: the receiver may be well.
    """
    begun = begin_attempt(failed(2)[0], NOW + 400_000)
    again = interrupted(begun, NOW + 500_000)
    assert (again.id, again.body) == (DUE.id, DUE.body)
    assert (again.attempts, again.failures, again.begun_ms) == (3, 2, None)
    assert (again.next_attempt_ms, again.status) == (NOW + 500_000, DeliveryStatus.PENDING)
    assert again.last_error == "outcome unknown: meterd ended during the attempt"
    told = attempt_interrupted(begun)
    assert (told.number, told.begun_ms, told.ended_ms) == (3, NOW + 400_000, None)
    assert told.outcome.error == again.last_error


def test_an_attempt_that_is_not_made_after_all_never_was() -> None:
    """The endpoint was paused before it had a slot."""
    before, _ = failed(2)
    back = withdrawn(begin_attempt(before, NOW + 400_000))
    assert back == msgspec.structs.replace(before, last_attempt_ms=NOW + 400_000)


def test_who_asks_to_wait_is_waited_for() -> None:
    """By the endpoint, so the delivery stays due; nothing of the schedule is spent, ever."""
    delivery, now_ms = failed(9)
    for attempt in range(10, 30):
        now_ms = delivery.next_attempt_ms
        busy = Outcome("HTTP 429: Too Many Requests", status=429, headers=(("retry-after", "90"),))
        delivery = settle_attempt(begin_attempt(delivery, now_ms), busy, now_ms, Fraction(1))
        assert (delivery.attempts, delivery.failures) == (attempt, 9)
        assert (delivery.next_attempt_ms, pause_asked(busy, now_ms)) == (now_ms, 90_000)
        assert delivery.status is DeliveryStatus.PENDING
    delivery = settle_attempt(begin_attempt(delivery, now_ms), FAILED, now_ms, Fraction(0))
    assert delivery.status is DeliveryStatus.PARKED


@pytest.mark.parametrize("waits_ms", [(), (1000,), (1000, 70_000, 2000)])
def test_an_endpoint_may_have_its_own_schedule(waits_ms: tuple[int, ...]) -> None:
    """One attempt, and one more behind each wait; then it is parked."""
    delivery, waited = DUE, []
    while delivery.status is DeliveryStatus.PENDING:
        now_ms = delivery.next_attempt_ms
        delivery = settle_attempt(
            begin_attempt(delivery, now_ms), FAILED, now_ms, Fraction(0), waits_ms
        )
        waited.append(delivery.next_attempt_ms - now_ms)
    assert tuple(waited[:-1]) == waits_ms
    assert delivery.attempts == len(waits_ms) + 1


def test_what_is_sent_again_begins_anew() -> None:
    """Parked or delivered: due at once, its whole schedule before it, all attempts counted on."""
    parked, last_ms = failed(10)
    again = once_more(parked, last_ms + 5)
    assert (again.status, again.attempts, again.failures) == (DeliveryStatus.PENDING, 10, 0)
    assert again.next_attempt_ms == last_ms + 5
    delivered = settle_attempt(begin_attempt(DUE, NOW), Outcome(dry_run=True), NOW, Fraction(0))
    again = once_more(delivered, NOW + 1)
    assert (again.status, again.delivered_ms, again.dry_run) == (
        DeliveryStatus.PENDING,
        None,
        False,
    )
    begun = begin_attempt(DUE, NOW)
    assert once_more(begun, NOW + 1) is begun


def test_the_sequence_stands_last_in_the_body() -> None:
    """And the body is still what JavaScript makes of it."""
    made = first_attempt(AGGREGATION, "billing", completed_body(AGGREGATION), NOW)
    delivery = numbered(made, 12)
    assert delivery.sequence == 12
    assert delivery.body == made.body[:-1] + b',"sequence":12}'
    assert msgspec.json.decode(delivery.body)["sequence"] == 12


def test_a_success_delivers() -> None:
    """At any attempt, the last one too; the error of an earlier one stays to be read."""
    first = settle_attempt(begin_attempt(DUE, NOW), Outcome(), NOW + 80, Fraction(0))
    assert first == msgspec.structs.replace(
        begin_attempt(DUE, NOW),
        begun_ms=None,
        status=DeliveryStatus.DELIVERED,
        delivered_ms=NOW + 80,
    )
    ninth, last_ms = failed(9)
    tenth = settle_attempt(begin_attempt(ninth, last_ms), Outcome(), last_ms + 1, Fraction(0))
    assert (tenth.status, tenth.attempts) == (DeliveryStatus.DELIVERED, 10)
    assert (tenth.delivered_ms, tenth.last_error) == (last_ms + 1, FAILED.error)


def test_a_dry_run_counts_as_delivered_and_says_so() -> None:
    """Contract, section 6: ``delivered``, one attempt more, ``dryRun``."""
    dry = settle_attempt(begin_attempt(DUE, NOW), Outcome(dry_run=True), NOW, Fraction(0))
    assert (dry.status, dry.attempts, dry.delivered_ms, dry.dry_run) == (
        DeliveryStatus.DELIVERED,
        1,
        NOW,
        True,
    )


def test_an_id_stays_the_same_for_ever() -> None:
    """A receiver knows a repeat by it, across restarts, machines and releases."""
    # echo -n 7:billing19:acme_daily_202601141:1 | b2sum --length 128
    named = delivery_id("billing", "acme_daily_20260114", 1)
    assert named == "msg_1147555df3a500a086d76d470c2c04ec"


TRICKY = [
    ("billing", "acme_daily_20260114", 1),
    ("billing", "acme_daily_20260114", 2),
    ("billing", "acme_daily_20260114", 11),
    ("billing", "acme_daily_202601141", 1),
    ("billing", "acme_hourly_20260114", 1),
    ("billing-2", "acme_daily_20260114", 1),
    ("billing-", "2acme_daily_20260114", 1),
    ("billin", "gacme_daily_20260114", 1),
    ("", "billingacme_daily_20260114", 1),
    ("billingacme_daily_20260114", "", 1),
    ("billing", "19:acme_daily_20260114", 1),
    ("7:billing", "acme_daily_20260114", 1),
    ("billing", "acme_daily_20260114\n", 1),
    ("billing", "é_daily_20260114", 1),
    ("billing", "e\N{COMBINING ACUTE ACCENT}_daily_20260114", 1),
    ("billing", "😀_daily_20260114", 1),
    ("a1:b", "c", 1),
    ("a", "1:b1:c", 1),
    ("a", "b", 1),
    ("ab", "", 1),
    ("", "ab", 1),
]


def test_tuples_that_look_alike_have_their_own_ids() -> None:
    """Customers choose their ids, and none can take the delivery of another away."""
    ids = {named: delivery_id(*named) for named in TRICKY}
    for one, other in combinations(TRICKY, 2):
        assert ids[one] != ids[other], f"{one} and {other}"


names = st.tuples(st.text(max_size=5), st.text(max_size=5), st.integers(1, 20))


@given(names, names)
def test_an_id_is_made_of_all_three_and_of_nothing_else(
    one: tuple[str, str, int], other: tuple[str, str, int]
) -> None:
    """The same three give the same id, any other three another; it suits as a ``webhook-id``."""
    assert (delivery_id(*one) == delivery_id(*other)) == (one == other)
    assert delivery_id(*one).isascii()
    assert len(delivery_id(*one)) == len("msg_") + 32
