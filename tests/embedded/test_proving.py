"""What is written of an aggregation proves it, and nothing is written of what cannot be proved."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

import msgspec
import pytest

from meterd.domain.admission import Admission
from meterd.domain.errors import StoreError
from meterd.domain.periods import DAY_MS, PeriodType
from meterd.embedded import records
from meterd.embedded.snapshot import open_snapshot
from tests.embedded.engine_bench import running
from tests.embedded.proved import prove, prove_all, prove_in
from tests.embedded.sample_store import copied_sample, first_of, spoil
from tests.ledger_bench import ALL, EVERY_EVENT, at, close_ended, event, rules

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from meterd.embedded.transaction import Transaction

EVERY_PERIOD = rules(*PeriodType)


async def test_a_year_with_late_events_and_voids_is_proved(tmp_path: Path) -> None:
    """And every period in it; each with what came since the first time, and what was taken back."""
    async with running(tmp_path) as bench:
        for moment in ("2026-01-14T10:10", "2026-01-14T11:59", "2026-03-01T00:00"):
            bench.clock.now_ms = at(moment)
            batch = [event("acme", "sum", number) for number in range(70)]
            await bench.ledger.append([event("b"), *batch, event("acme", "max", 5)])
        await close_ended(bench, EVERY_PERIOD, clock_ms=at("2027-01-01T00:10"))
        with bench.store.read() as txn:
            before = prove_all(txn)
        late = msgspec.structs.replace(event("acme", "sum", 9), timestamp_ms=at("2026-02-10T05:00"))
        more = msgspec.structs.replace(late, timestamp_ms=at("2026-01-14T10:59"))
        a_year = Admission(past_ms=365 * DAY_MS, future_ms=0)
        await bench.ledger.append([late, event("acme"), more], admission=a_year)
        stored = await bench.ledger.events(EVERY_EVENT, limit=ALL)
        of_january = [one for one in stored if one.event.customer_id == "acme"][-20:]
        for number, one in enumerate([*of_january[:3], of_january[1]]):
            await bench.ledger.void(one.id, f"case {number}")
        await bench.ledger.next_to_close()
        with bench.store.read() as txn, pytest.raises(StoreError, match="revise_after"):
            prove(txn, "acme_yearly_2026")
        await bench.ledger.revise(EVERY_PERIOD, until_ms=bench.clock.now_ms)
        with bench.store.read() as txn:
            after = prove_all(txn)
    assert len(after) == len(before) + 4  # what came late has a month of its own
    year = after["acme_yearly_2026"]
    assert (year.revision, year.published, year.events, year.void) == (2, 2, 212, 3)
    assert year.digest != before["acme_yearly_2026"].digest
    hour = after["acme_hourly_2026011410"]
    assert (hour.revision, hour.events, hour.void) == (2, 69, 3)
    assert after["b_yearly_2026"] == before["b_yearly_2026"]


def prove_one(folder: Path, name: str) -> None:
    with open_snapshot(folder) as snapshot:
        prove(snapshot.transaction(), name)


def test_all_of_the_sample_is_proved(tmp_path: Path) -> None:
    """Several customers in one block, keys, events behind the mark, revisions."""
    proved = prove_in(copied_sample(tmp_path))
    assert len(proved) > 200
    assert {one.revision for one in proved.values()} == {1, 2}


@pytest.mark.parametrize(
    "name",
    [
        *("", "acme", "acme_hourly", "_hourly_2026011411", "acme_hourly_2026"),
        *("acme_never_2026011411", "acme_hourly_2026011399", "nobody_hourly_2026011411"),
        "a" * 600 + "_hourly_2026011411",
    ],
)
def test_what_is_not_there_is_said_so(tmp_path: Path, name: str) -> None:
    with pytest.raises(StoreError, match=f"no aggregation {name}"):
        prove_one(copied_sample(tmp_path), name)


def test_what_is_open_is_not_proved(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="acme_monthly_202601 is not closed"):
        prove_one(copied_sample(tmp_path), "acme_monthly_202601")


def other_metadata(txn: Transaction) -> None:
    key = first_of(txn, "events")
    blocks = records.decode_record(txn.get("events", key) or b"")
    events = [msgspec.structs.replace(one, metadata=b"{}") for one in blocks[0].events]
    blocks[0].events = events
    txn.put("events", key, records.encode(blocks))


def other_value(txn: Transaction) -> None:
    key = first_of(txn, "events")
    blocks = records.decode_record(txn.get("events", key) or b"")
    blocks[0].events = [msgspec.structs.replace(one, value=Decimal(7)) for one in blocks[0].events]
    txn.put("events", key, records.encode(blocks))


@pytest.mark.parametrize("work", [other_metadata, other_value])
def test_what_was_changed_is_not_written(
    tmp_path: Path, work: Callable[[Transaction], None]
) -> None:
    data = copied_sample(tmp_path)
    spoil(data, work)
    with pytest.raises(StoreError, match="not to their digest"):
        prove_in(data)


def test_what_was_published_without_digests_is_not_proved(tmp_path: Path) -> None:
    """By a meterd of before."""
    data = copied_sample(tmp_path)

    def without(txn: Transaction) -> str:
        for key, payload in txn.forward("aggregations", b"", b""):
            one = records.decode_aggregation(payload)
            if one.closed:
                old = msgspec.structs.replace(one, contents=b"", previous=b"")
                txn.put("aggregations", key, records.encode(old))
                return one.id
        raise AssertionError("there is none")

    name = spoil(data, without)
    with pytest.raises(StoreError, match="made no digests"):
        prove_one(data, name)
