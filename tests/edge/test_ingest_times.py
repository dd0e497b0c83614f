"""Events that say when they happened: which are taken, and what is said of the others."""

from __future__ import annotations

import msgspec
import pytest

from meterd.domain.admission import Admission, Late
from meterd.domain.periods import DAY_MS
from tests.edge.test_ingest import (
    TWO_TYPES,
    UNFIT,
    VALID,
    batch,
    customers,
    model,
    over,
    said,
    single,
)
from tests.ledger_bench import rules


@pytest.mark.parametrize(
    ("timestamp", "error"),
    [
        ("2026-02-03T09:57:59.999Z", "timestamp must be at most 35d ago (accept_past)"),
        ("2026-03-10T10:03:00.001Z", "timestamp must be at most 5m ahead (accept_future)"),
    ],
)
async def test_a_time_outside_of_the_window_is_refused(timestamp: str, error: str) -> None:
    """422 with the bound; one event and an item of a batch, and the bounds themselves are taken."""
    ledger = model()
    ingest = over(ledger)
    assert said(await ingest.event("api.calls", single(timestamp=timestamp))) == (
        422,
        {"error": "Validation failed", "details": [error]},
    )
    dated = {**VALID, "timestamp": timestamp}
    given = await ingest.batch(batch(VALID, UNFIT, dated), lenient=True)
    assert said(given) == (
        207,
        {
            "message": "Events partially captured",
            "successCount": 1,
            "failedCount": 2,
            "failures": [
                {"index": 1, "errors": ["customerId is required"]},
                {"index": 2, "errors": [error]},
            ],
        },
    )
    assert (await ingest.batch(batch(VALID, dated), lenient=False)).status == 422
    assert len(await customers(ledger)) == 1
    assert ingest.counts.refused == 1 + 2 + 1
    for taken in ("2026-02-03T09:58:00.000Z", "2026-03-10T11:03:00+01:00"):
        assert (await ingest.event("api.calls", single(timestamp=taken))).status == 201


async def test_late_events_are_refused_where_that_is_configured() -> None:
    """Of closed hours; the message says which option it is."""
    ledger = model()
    config = msgspec.structs.replace(TWO_TYPES, admission=Admission(DAY_MS, 300_000, Late.REJECT))
    ingest = over(ledger, config)
    dated = single(timestamp="2026-03-10T08:30:00.000Z")
    assert (await ingest.event("api.calls", dated)).status == 201
    period = await ledger.next_to_close()
    assert period is not None
    await ledger.close(period, rules())
    error = 'timestamp must not be in an hour that is closed (late = "reject")'
    refused = {"error": "Validation failed", "details": [error]}
    assert said(await ingest.event("api.calls", dated)) == (422, refused)
