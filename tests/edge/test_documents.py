"""Events and aggregations as the API shows them, byte for byte (contract, section 4)."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from meterd.domain.aggregations import Aggregation, Figure, completed_body
from meterd.domain.deliveries import Delivery, DeliveryStatus
from meterd.domain.event_ids import Stamp
from meterd.domain.events import UsageEvent, item_key
from meterd.domain.operations import Operation
from meterd.domain.periods import PeriodType, period_at
from meterd.domain.stored_events import StoredEvent
from meterd.edge.documents import aggregation_document, event_document
from meterd.ledger import DeliveredAggregation
from tests.fake_clock import ms


def stored(
    value: str = "1", metadata: bytes = b"{}", received: str = "2026-01-14T11:15:30.007Z"
) -> StoredEvent:
    event = UsageEvent("kunde é", "api.calls", Decimal(value), metadata)
    received_ms = ms(received)
    return StoredEvent(Stamp(received_ms, 0, 0).id(), event, received_ms)


def test_an_event_to_the_byte() -> None:
    """Keys in the contract's order; metadata as it was sent, without the space between tokens."""
    metadata = b'{ "b" : 1.50,\n "a" : [ "x y", {} ] , "n": 1e2 }'
    assert event_document(stored("9007199254740993", metadata)).decode() == (
        '{"_id":"019bbc37-c457-7000-8000-000000000000","eventType":"api.calls",'
        '"customerId":"kunde é","value":9007199254740993,'
        '"metadata":{"b":1.50,"a":["x y",{}],"n":1e2},'
        '"receivedAt":"2026-01-14T11:15:30.007Z","minute":"202601141115","hour":"2026011411",'
        '"day":"20260114","week":"202603","month":"202601","year":"2026"}'
    )


def test_an_event_with_an_idempotency_key_shows_it() -> None:
    """Behind what the contract lists."""
    plain = stored()
    keyed = msgspec.structs.replace(
        plain, event=msgspec.structs.replace(plain.event, idempotency_key="k 1")
    )
    shown = event_document(keyed)
    assert shown == event_document(plain)[:-1] + b',"idempotencyKey":"k 1"}'


def test_an_item_of_a_batch_with_a_key_shows_that_and_its_place() -> None:
    """What the client sent, and not what meterd has made of it."""
    plain = stored()
    event = msgspec.structs.replace(plain.event, idempotency_key=item_key("k 1", 12))
    shown = event_document(msgspec.structs.replace(plain, event=event))
    assert shown == event_document(plain)[:-1] + b',"idempotencyKey":"k 1","idempotencyItem":12}'


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("0.10", "0.1"),
        ("-0", "0"),
        ("1E+3", "1000"),
        ("1e-7", "1e-7"),
        ("0.1000000000000000055", "0.1000000000000000055"),
        ("1e300", "1e+300"),
    ],
)
def test_a_value_is_the_number_that_was_sent(value: str, text: str) -> None:
    """All of its digits; the notation is JavaScript's."""
    assert f'"value":{text},' in event_document(stored(value)).decode()


@pytest.mark.parametrize(
    ("received", "calendar"),
    [
        ("2027-01-03T23:59:59.999Z", "202701032359 2027010323 20270103 202653 202701 2027"),
        ("2027-01-04T00:00:00Z", "202701040000 2027010400 20270104 202701 202701 2027"),
        ("2024-12-30T00:00:00Z", "202412300000 2024123000 20241230 202501 202412 2024"),
        ("2024-02-29T12:00:00Z", "202402291200 2024022912 20240229 202409 202402 2024"),
    ],
)
def test_the_calendar_of_an_event_is_utc(received: str, calendar: str) -> None:
    """Weeks are those of ISO 8601: their year is the one that their Thursday lies in."""
    shown = msgspec.json.decode(event_document(stored(received=received)))
    keys = ("minute", "hour", "day", "week", "month", "year")
    assert [shown[key] for key in keys] == calendar.split()


START_MS = ms("2026-01-14T00:00:00Z")
CREATED_MS = ms("2026-01-14T15:00:00Z")
CLOSED_MS = ms("2026-01-15T00:05:00Z")


def aggregation(*, closed: bool = True, figures: dict[str, Figure] | None = None) -> Aggregation:
    return Aggregation(
        "c",
        PeriodType.DAILY,
        period_at(PeriodType.DAILY, START_MS).start_ms,
        1,
        closed,
        CREATED_MS,
        CLOSED_MS,
        figures or {"api.calls": Figure(Operation.SUM, Decimal(542), 542)},
    )


def delivery(endpoint: str = "billing", **state: Any) -> Delivery:
    return Delivery(
        f"msg_{endpoint}", endpoint, 1, "c", PeriodType.DAILY, START_MS, 1, b"{}", CLOSED_MS,
        CLOSED_MS, **state,
    )  # fmt: skip


def shown(*deliveries: Delivery, **options: Any) -> dict[str, Any]:
    found = DeliveredAggregation(aggregation(**options), deliveries)
    document: dict[str, Any] = msgspec.json.decode(aggregation_document(found))
    return document


def test_an_aggregation_to_the_byte() -> None:
    """Keys in the contract's order, event types in the configuration's; then what meterd adds."""
    figures = {
        "z.last": Figure(Operation.SUM, Decimal("0.30"), 2),
        "a.first": Figure(Operation.MAX, Decimal("1e21"), 3),
    }
    found = DeliveredAggregation(aggregation(figures=figures), ())
    assert aggregation_document(found).decode() == (
        '{"_id":"c_daily_20260114","customerId":"c","period":"daily",'
        '"periodStart":"2026-01-14T00:00:00.000Z","periodEnd":"2026-01-14T23:59:59.999Z",'
        '"periodKey":"20260114","timestamp":"2026-01-15T00:05:00.000Z",'
        '"events":{"z.last":0.3,"a.first":1e+21},"eventCounts":{"z.last":2,"a.first":3},'
        '"webhookStatus":{"delivered":false,"attempts":0},'
        '"eventCount":5,"createdAt":"2026-01-14T15:00:00.000Z","status":"closed","revision":1,'
        '"exact":{"z.last":"0.3","a.first":"1e+21"}}'
    )


def test_what_is_closed_has_its_digest() -> None:
    """The same that its webhook has; none where a meterd of before has closed it."""
    closed = msgspec.structs.replace(aggregation(), contents=b"\x01" * 32, previous=bytes(32))
    document = msgspec.json.decode(aggregation_document(DeliveredAggregation(closed, ())))
    assert document["digest"] == closed.digest.hex()
    assert document["digest"] == json.loads(completed_body(closed))["data"]["digest"]
    assert "digest" not in shown()


def test_a_snapshot_is_open() -> None:
    """It has no webhook, so none is delivered."""
    document = shown(closed=False)
    assert document["status"] == "open"
    assert document["webhookStatus"] == {"delivered": False, "attempts": 0}


def test_a_total_beyond_the_doubles_is_the_greatest_double_and_exact_has_it_whole() -> None:
    """Readers of JSON numbers would make infinity of it."""
    total = Decimal(17) * Decimal(10) ** 308 + 1
    document = shown(figures={"t": Figure(Operation.SUM, total, 10)})
    assert document["events"] == {"t": 1.7976931348623157e308}
    assert Decimal(document["exact"]["t"]) == total
    assert Decimal(shown(figures={"t": Figure(Operation.SUM, -total, 1)})["exact"]["t"]) == -total


TRIED_MS = CLOSED_MS + 1000
DELIVERED = delivery(
    status=DeliveryStatus.DELIVERED,
    attempts=1,
    delivered_ms=TRIED_MS + 50,
    last_attempt_ms=TRIED_MS,
)
FAILED = delivery("crm", attempts=2, last_error="HTTP 500: Oh", last_attempt_ms=TRIED_MS + 7)


def test_a_status_to_the_byte() -> None:
    """Its keys have an order, too."""
    dry = msgspec.structs.replace(DELIVERED, dry_run=True, last_error="Request timeout", attempts=2)
    document = aggregation_document(DeliveredAggregation(aggregation(), (dry,))).decode()
    assert (
        '"webhookStatus":{"delivered":true,"attempts":2,"deliveredAt":"2026-01-15T00:05:01.050Z",'
        '"dryRun":true,"lastError":"Request timeout",'
        '"lastAttemptAt":"2026-01-15T00:05:01.000Z"},"eventCount"' in document
    )


STATUSES: dict[str, tuple[tuple[Delivery, ...], dict[str, Any]]] = {
    "not yet tried": ((delivery(),), {"delivered": False, "attempts": 0}),
    "in the air for the first time": (
        (delivery(attempts=1, last_attempt_ms=TRIED_MS),),
        {"delivered": False, "attempts": 1},
    ),
    "failed, to be tried again": (
        (FAILED,),
        {
            "delivered": False,
            "attempts": 2,
            "lastError": "HTTP 500: Oh",
            "lastAttemptAt": "2026-01-15T00:05:01.007Z",
        },
    ),
    "parked": (
        (msgspec.structs.replace(FAILED, status=DeliveryStatus.PARKED, attempts=10),),
        {
            "delivered": False,
            "attempts": 10,
            "lastError": "HTTP 500: Oh",
            "lastAttemptAt": "2026-01-15T00:05:01.007Z",
        },
    ),
    "delivered": (
        (DELIVERED,),
        {"delivered": True, "attempts": 1, "deliveredAt": "2026-01-15T00:05:01.050Z"},
    ),
    "one of two delivered": (
        (DELIVERED, FAILED),
        {
            "delivered": False,
            "attempts": 3,
            "lastError": "HTTP 500: Oh",
            "lastAttemptAt": "2026-01-15T00:05:01.007Z",
        },
    ),
    "both delivered, when the later one was": (
        (
            DELIVERED,
            delivery("crm", status=DeliveryStatus.DELIVERED, attempts=4, delivered_ms=TRIED_MS),
        ),
        {"delivered": True, "attempts": 5, "deliveredAt": "2026-01-15T00:05:01.050Z"},
    ),
    "of two failures the later one": (
        (
            FAILED,
            delivery("x", attempts=1, last_error="Request timeout", last_attempt_ms=TRIED_MS + 8),
        ),
        {
            "delivered": False,
            "attempts": 3,
            "lastError": "Request timeout",
            "lastAttemptAt": "2026-01-15T00:05:01.008Z",
        },
    ),
}


@pytest.mark.parametrize("state", STATUSES)
def test_one_status_for_all_endpoints(state: str) -> None:
    """Delivered when each has it; attempts are summed."""
    deliveries, status = STATUSES[state]
    assert shown(*deliveries)["webhookStatus"] == status
