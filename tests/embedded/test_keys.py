"""Keys sort as they are to be read, and say what was put into them."""

from __future__ import annotations

from decimal import Decimal
from typing import Final

import pytest

from meterd.domain.alerts import threshold
from meterd.domain.config import EVENT_TYPE_NAME_MAX
from meterd.domain.event_fields import CUSTOMER_ID_MAX_BYTES, IDEMPOTENCY_KEY_MAX
from meterd.domain.event_ids import ID_BYTES, Stamp
from meterd.domain.javascript import exact_text
from meterd.domain.periods import HOUR_MS, PeriodType, period_at
from meterd.embedded import keys
from tests.ledger_bench import START_MS, at

LMDB_KEY_MAX = 511
ENDPOINT_ID_MAX = 64
REVISION = 1 << 31
# As a threshold: without an exponent it is longest just above 1e-7.
LONGEST_NUMBER: Final = threshold(Decimal("0.000001" + "9" * 63))


@pytest.mark.parametrize(
    ("customer_id", "part"), [("acme", 14), ("b", 9), ("Ærø", 12), ("cus_1", 6), ("", 0)]
)
def test_a_customer_stays_in_its_part(customer_id: str, part: int) -> None:
    """crc32 modulo 16, written down: another version must find what this one wrote."""
    assert keys.part_of(customer_id, 16) == part


def test_names_that_begin_alike_are_apart() -> None:
    """One customer's keys never stand in another's range, nor one type's in another's."""
    stamp = Stamp(START_MS, 0, 0).id()
    for longer in ("acme2", "acme ", "acmé"):
        assert not keys.blocks_prefix(0, longer, "api").startswith(keys.customer_prefix(0, "acme"))
        assert not keys.blocks_prefix(0, "acme", longer).startswith(
            keys.blocks_prefix(0, "acme", "acme")
        )
        assert not keys.record_by_type(longer, stamp).startswith(keys.record_by_type("acme"))
        assert not keys.outbox_key(longer, 0, 1).startswith(keys.endpoint_prefix("acme"))
        assert not keys.outbox_customer_prefix("crm", longer).startswith(
            keys.outbox_customer_prefix("crm", "acme")
        )


def test_all_keys_of_a_type_stand_before_the_bound_behind_it() -> None:
    """``AFTER_END`` leads from any block of one event type to the next type."""
    prefix = keys.customer_prefix(0, "acme")
    latest = keys.blocks_prefix(0, "acme", "api") + b"\xff" * ID_BYTES
    assert latest < prefix + b"api" + keys.AFTER_END < keys.blocks_prefix(0, "acme", "api.calls")


def test_records_of_a_type_stand_in_the_order_of_receipt() -> None:
    """All of one type together, by the ids of the records."""
    ids = [Stamp(received_ms, 0, 0).id() for received_ms in (0, 255, 256, START_MS)]
    found = [keys.record_by_type(name, one) for name in ("api", "api.calls") for one in ids]
    assert found == sorted(found)
    assert [key.removeprefix(keys.record_by_type("api")) for key in found[:4]] == ids


def test_newest_first_reverses_the_hours() -> None:
    """A later hour is a smaller key; and the hour is read back from it."""
    hours = [
        0,
        HOUR_MS,
        START_MS // HOUR_MS * HOUR_MS,
        at("2026-02-01T00:00"),
        at("2199-01-01T00:00"),
    ]
    complements = [keys.newest_first(hour) for hour in hours]
    assert complements == sorted(complements, reverse=True)
    assert [keys.start_of(complement) for complement in complements] == hours


@pytest.mark.parametrize("kind", PeriodType)
def test_totals_stand_in_the_order_of_time_then_customer(kind: PeriodType) -> None:
    """And a key says which period of which customer it is of."""
    periods = [period_at(kind, instant) for instant in (START_MS, at("2027-03-01T00:00"))]
    found = [keys.totals_key(3, period, name) for period in periods for name in ("a", "b", "Ærø")]
    assert found == sorted(found)
    assert [keys.totals_period(key) for key in found] == [one for one in periods for _ in range(3)]
    assert [keys.totals_customer(key) for key in found[:3]] == ["a", "b", "Ærø"]


def test_the_outbox_stands_in_the_order_of_coming_due() -> None:
    """Within one endpoint; and a key says when and what."""
    due = [keys.outbox_key("crm", at_ms, 256) for at_ms in (0, 255, 256, START_MS, 1 << 41)]
    assert due == sorted(due)
    assert (keys.due_ms_in(due[3]), keys.sequence_in(due[3])) == (START_MS, 256)
    again = keys.outbox_key("crm", 5, 256, is_repeat=True)
    assert (keys.due_ms_in(again), keys.sequence_in(again)) == (5, 256)
    assert due[-1] < again < keys.outbox_key("crm", 6, 1, is_repeat=True)


def test_a_customers_deliveries_stand_in_the_order_of_closing() -> None:
    """The hour before the day that ends with it, a period's first revision before its second."""
    day = period_at(PeriodType.DAILY, START_MS)
    last_hour = period_at(PeriodType.HOURLY, day.last_ms)
    next_hour = period_at(PeriodType.HOURLY, day.end_ms)
    places = [
        keys.outbox_place(period, revision)
        for period, revision in (
            (last_hour, 1),
            (last_hour, 2),
            (day, 1),
            (day, 256),
            (next_hour, 1),
        )
    ]
    assert places == sorted(places)


@pytest.mark.parametrize(
    "name", ["", "msg_", "msg_" + "g" * 32, "msg_" + "A" * 32, "msg_" + "0" * 33]
)
def test_what_is_no_delivery_id_has_no_key(name: str) -> None:
    """A reader may ask for anything."""
    assert keys.delivery_name(name) is None
    assert keys.delivery_name("msg_" + "0f" * 16) == b"\x0f" * 16


def test_the_longest_names_fit_into_a_key() -> None:
    """LMDB's limit is 511 bytes; what the domain lets in must never meet it."""
    customer, event_type = "c" * CUSTOMER_ID_MAX_BYTES, "e" * EVENT_TYPE_NAME_MAX
    stamp = bytes(ID_BYTES)
    period = period_at(PeriodType.YEARLY, START_MS)
    longest = [
        keys.blocks_prefix(0, customer, event_type) + stamp,
        keys.dated_blocks_prefix(period, 0, customer, event_type) + stamp,
        keys.record_by_type(event_type, stamp),
        keys.idempotency_key(0, customer, "k" * keys._KEY_BYTES_MAX),
        keys.idempotency_key(0, customer, "\U0010ffff" * IDEMPOTENCY_KEY_MAX),
        keys.totals_key(0, period, customer),
        keys.late_key(START_MS, 0, period, customer),
        keys.reached_key(0, customer, period, event_type, exact_text(LONGEST_NUMBER)),
        keys.aggregation_key(0, period.type, period.start_ms, customer),
        keys.superseded_key(
            keys.aggregation_key(0, period.type, period.start_ms, customer), REVISION
        ),
        keys.customer_periods_prefix(0, customer, period.type) + keys.newest_first(START_MS),
        keys.outbox_key("o" * ENDPOINT_ID_MAX, START_MS, 1),
        keys.outbox_customer_prefix("o" * ENDPOINT_ID_MAX, customer) + keys.outbox_place(period, 1),
        keys.outbox_thresholds_prefix("o" * ENDPOINT_ID_MAX, customer) + bytes(8),
        bytes(8) + keys.attempt_key("o" * ENDPOINT_ID_MAX, 1, 1),
    ]
    assert max(map(len, longest)) <= LMDB_KEY_MAX


def test_an_aggregation_is_found_from_its_totals() -> None:
    """Whatever the period."""
    for kind in PeriodType:
        period = period_at(kind, START_MS)
        key = keys.aggregation_key(5, kind, period.start_ms, "Ærø")
        assert keys.aggregation_key_of(keys.totals_key(5, period, "Ærø")) == key
