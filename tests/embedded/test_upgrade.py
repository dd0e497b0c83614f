"""A folder that an earlier version left behind is read as it was, and goes on from there."""

from __future__ import annotations

import json
import lzma
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from meterd.domain.deliveries import DeliveryStatus, settle_attempt
from meterd.domain.idempotency import Recorded
from meterd.domain.outcomes import Outcome
from meterd.domain.periods import PeriodType
from meterd.domain.proofs import check
from meterd.embedded import journal, keys, records
from meterd.embedded.differences import Checking
from meterd.embedded.outbox_check import OutboxCheck
from meterd.embedded.proving import Proving, find
from meterd.embedded.records import Pruned
from meterd.embedded.store import FORMAT, UPGRADED, Store, decode_meta
from meterd.embedded.verification import verify
from meterd.ledger import DeliveryQuery
from tests.embedded.engine_bench import EngineBench, running
from tests.embedded.sample_store import spoil
from tests.ledger_bench import at, close_ended, event, published, rules, stored

if TYPE_CHECKING:
    from meterd.domain.deliveries import Delivery
    from meterd.domain.stored_events import StoredEvent
    from meterd.embedded.transaction import Transaction
    from meterd.ledger import DeliveredAggregation

STORED = Path(__file__).parent / "stored"


def lay(folder: Path, store_format: int) -> dict[str, Any]:
    """Puts that format's store there; what its version read from it.

    It was cut off with two events that were acknowledged and not yet posted, and has closed
    periods, a snapshot, and deliveries that are delivered, tried and due.
    """
    of_format = STORED / f"format{store_format}"
    place = folder / "data" / "store"
    place.mkdir(parents=True)
    (place / "data.mdb").write_bytes(lzma.decompress((of_format / "data.mdb.xz").read_bytes()))
    expected: dict[str, Any] = json.loads((of_format / "expected.json").read_text())
    return expected


def event_row(one: StoredEvent) -> list[Any]:
    event = one.event
    metadata = event.metadata.decode()
    return [
        one.id.hex(),
        event.customer_id,
        event.event_type,
        str(event.value),
        metadata,
        one.received_ms,
    ]


def aggregation_row(found: DeliveredAggregation) -> list[Any]:
    aggregation = found.aggregation
    figures = {
        name: [str(figure.operation), str(figure.value), figure.count]
        for name, figure in aggregation.figures.items()
    }
    deliveries = [[one.id, str(one.status), one.attempts] for one in found.deliveries]
    return [aggregation.id, aggregation.closed, figures, deliveries]


async def check_as_it_was(bench: EngineBench, expected: dict[str, Any]) -> None:
    assert [event_row(one) for one in await stored(bench)] == expected["events"]
    assert [aggregation_row(one) for one in await published(bench)] == expected["aggregations"]
    following = await bench.ledger.next_to_close()
    assert following is not None
    assert [str(following.type), following.start_ms] == expected["next_to_close"]


@pytest.mark.parametrize("store_format", UPGRADED)
async def test_nothing_is_lost_by_an_upgrade(tmp_path: Path, store_format: int) -> None:
    """Events, aggregations, deliveries and what closes next, at the first start and the second;
    then events count once, and what was begun by the old version is closed by the new one.
    """
    expected = lay(tmp_path, store_format)
    async with running(tmp_path) as bench:
        bench.clock.now_ms = at("2026-02-01T00:10")
        await check_as_it_was(bench, expected)
        await bench.restart()
        await check_as_it_was(bench, expected)
        keyed = msgspec.structs.replace(event("acme", "sum", 1), idempotency_key="k")
        assert await bench.ledger.append([keyed, keyed]) == [Recorded.RECORDED, Recorded.DUPLICATE]
        await close_ended(bench, rules(PeriodType.HOURLY), clock_ms=at("2026-02-01T01:00"))
        closed = {one.aggregation.id: one.aggregation for one in await published(bench)}
        hour = closed["acme_hourly_2026020100"]
        # 1.5 at midnight, the great number behind the last posting, and what came just now.
        assert str(hour.figures["sum"].value) == "9007199254740995.5"
        assert hour.figures["sum"].count == 3


async def test_digests_of_format_8_are_proved(tmp_path: Path) -> None:
    """It had a line for each block of a batch, of which one was posted and one was not."""
    lay(tmp_path, 8)
    async with running(tmp_path) as bench:
        bench.clock.now_ms = at("2026-02-01T00:12")
        batch = [event("batched", "sum", number) for number in range(100)]
        await bench.ledger.append(batch)
        await close_ended(bench, rules(PeriodType.HOURLY), clock_ms=at("2026-02-01T01:00"))
        with bench.store.read() as txn:
            proved = find(txn, bench.store.parts, "batched_hourly_2026020100")
            lines = list(Proving(txn, bench.store.parts, "batched").lines(proved))
    events = [line for line in lines if line.startswith(b'["events"')]
    # 100 and 1, each block of 150 with a customer in between, and what came to this version.
    assert len(events) == 2 + 1 + 3 + 1
    assert check(lambda: lines).events == 100 + 1 + 75 + 100
    assert list(verify(tmp_path / "data")) == []


@pytest.mark.parametrize("store_format", UPGRADED)
async def test_what_waits_is_delivered_in_order(tmp_path: Path, store_format: int) -> None:
    """Each once. Format 5 is one of a meterd that had an operator's retries out of order: queued
    beside what was in the air, in the air beside it, and behind a batch of later ones.
    """
    lay(tmp_path, store_format)
    async with running(tmp_path) as bench:
        bench.clock.now_ms = at("2027-01-01T00:00")
        with bench.store.read() as txn:
            assert list(OutboxCheck(txn, Checking()).run()) == []
        every = await bench.ledger.deliveries(DeliveryQuery(), limit=1000)
        pending = {one.id: one for one in every if one.status is DeliveryStatus.PENDING}
        sent: list[Delivery] = []
        while begun := (await bench.ledger.claim("billing", limit=50)).deliveries:
            for one in begun:
                sent += [pending.pop(each.id) for each in every if each.sequence in one.sequences]
                await bench.ledger.settle([settle_attempt(one, Outcome(), 0, Fraction(0))])
        assert pending == {}
        for customer_id in {one.customer_id for one in sent}:
            periods = [one.period for one in sent if one.customer_id == customer_id]
            assert periods == sorted(periods)


@pytest.mark.parametrize("store_format", UPGRADED)
def test_an_upgraded_store_says_so(tmp_path: Path, store_format: int) -> None:
    """So that an older meterd, which would not understand it, leaves it alone."""
    lay(tmp_path, store_format)
    for _ in range(2):
        store = Store(tmp_path / "data")
        assert store.meta.format == FORMAT
        store.close()


def test_what_format_9_has_pruned_is_named_nowhere(tmp_path: Path) -> None:
    """And a check knows: its mark said how far the log was pruned, and nothing of indexes."""
    lay(tmp_path, 9)
    data, gone = tmp_path / "data", (b"\1" * 16, 3_600_000, 7)

    def put_back(txn: Transaction) -> None:
        assert journal.read_pruned(txn) == Pruned()
        txn.put("meta", keys.PRUNED, records.encode(gone))
        meta = decode_meta(txn.get("meta", b"meta") or b"")
        txn.put("meta", b"meta", msgspec.msgpack.encode(msgspec.structs.replace(meta, format=9)))

    spoil(data, put_back)
    with closing(Store(data)) as store, store.read() as txn:
        assert journal.read_pruned(txn) == Pruned(*gone, swept=gone[0], swept_events=gone[2])


def test_every_earlier_format_is_kept_here() -> None:
    """Whoever raises FORMAT puts a folder of the version before under ``stored``."""
    assert sorted(path.name for path in STORED.iterdir()) == [f"format{n}" for n in UPGRADED]
