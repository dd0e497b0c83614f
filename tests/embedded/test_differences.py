"""A difference reads as a sentence, and names records as people know them."""

from __future__ import annotations

import pytest

from meterd.domain.deliveries import BATCH
from meterd.domain.event_ids import Stamp
from meterd.domain.periods import PeriodType, period_at
from meterd.embedded import keys
from meterd.embedded.differences import Difference, at_key
from tests.ledger_bench import START_MS

DAY = period_at(PeriodType.DAILY, START_MS)
ID = Stamp(START_MS, 1, 2).id()
NAME = f"{ID.hex()} of 2026-01-14T11:15:00.000Z"


def test_a_line_says_where_and_what() -> None:
    """Only what there is to say."""
    whole = Difference("totals", "sum", "3", "4", "acme", "daily 20260114", "api")
    assert whole.line() == (
        "totals: customer acme, daily 20260114, api: sum: stands 3, should be 4"
    )
    assert Difference("meta", "count", "is lost", "").line() == "meta: count is lost"
    assert Difference("meta", "floor", "1", "2").line() == "meta: floor: stands 1, should be 2"


@pytest.mark.parametrize(
    ("table", "key", "place"),
    [
        ("events", ID, f"record {NAME}"),
        ("records_by_type", keys.record_by_type("api", ID), f"api: record {NAME}"),
        (
            "blocks_by_customer",
            keys.blocks_prefix(3, "acme", "api") + ID,
            f"customer acme, api: record {NAME}",
        ),
        ("totals", keys.totals_key(3, DAY, "acme"), "customer acme, daily 20260114: record"),
        (
            "aggregations",
            keys.aggregation_key(3, DAY.type, DAY.start_ms, "acme"),
            "customer acme, daily 20260114: record",
        ),
        (
            "customer_periods",
            keys.customer_periods_prefix(3, "acme", DAY.type) + keys.newest_first(DAY.start_ms),
            "customer acme, daily 20260114: record",
        ),
        ("customers", keys.customer_key(3, "acme"), "customer acme: record"),
        (
            "idempotency_keys",
            keys.idempotency_key(3, "acme", "order-7"),
            "customer acme: record order-7",
        ),
        ("deliveries", keys.delivery_key("crm", 256), "record 256 to crm"),
        ("deliveries", keys.delivery_key("crm", BATCH + 3), "record batch 3 to crm"),
        ("in_air", keys.delivery_key("crm", 1), "record 1 to crm"),
        ("parked", keys.delivery_key("crm", 1), "record 1 to crm"),
        (
            "outbox",
            keys.outbox_key("crm", START_MS, 12),
            "record 12 to crm, due 2026-01-14T11:15:00.000Z",
        ),
        (
            "outbox_by_customer",
            keys.outbox_customer_prefix("crm", "acme") + keys.outbox_place(DAY, 1),
            "customer acme: record to crm, 00077ee00100000001",
        ),
        ("delivery_ids", b"\x0f" * 16, "record " + "0f" * 16),
        ("meta", b"floor", "record floor"),
    ],
)
def test_a_record_is_named_by_its_key(table: str, key: bytes, place: str) -> None:
    """Customer, period and type where it has them."""
    assert at_key(table, key, "record", "a", "b").line() == (
        f"{table}: {place}: stands a, should be b"
    )


@pytest.mark.parametrize("table", ["events", "records_by_type", "totals", "outbox", "customers"])
@pytest.mark.parametrize("key", [b"", b"\xff", b"\xff" * 40, b"\0\x09\xff\xff\xff\xff", b"a\0\xff"])
def test_any_key_has_a_name(table: str, key: bytes) -> None:
    """Damage leaves keys that are none."""
    assert at_key(table, key, "record", "a", "b").line().startswith(f"{table}: ")
