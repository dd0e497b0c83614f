"""What an engine tells of itself, against what was done to it."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

import trio
from trio.testing import wait_all_tasks_blocked

from meterd.domain.deliveries import settle_attempt
from meterd.domain.outcomes import Outcome
from meterd.domain.periods import Period, PeriodType, period_at
from meterd.embedded.posting import POST_SECONDS
from meterd.embedded.store import LMDB_VERSION
from tests.embedded.engine_bench import EngineBench, running
from tests.ledger_bench import START_MS, at, event, rules

if TYPE_CHECKING:
    from pathlib import Path

    from trio.testing import MockClock

HOUR: Period = period_at(PeriodType.HOURLY, START_MS)


async def test_a_new_engine(tmp_path: Path) -> None:
    """Nothing waits, nothing was written since the start, and there is room."""
    async with running(tmp_path) as bench:
        signs = await bench.ledger.vital_signs()
        backlog = signs.backlog
        assert (backlog.in_flight, backlog.unposted, backlog.awake) == (0, 0, 0)
        assert (signs.pending, signs.parked, signs.endpoints) == (0, 0, [])
        assert signs.next_to_close is None
        assert signs.lmdb_version == LMDB_VERSION
        assert signs.space.size == (bench.folder / "store" / "data.mdb").stat().st_size


async def test_what_waits_for_the_disk_and_for_totals(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    """Events are in flight until they are on disk, and unposted until their totals are there."""
    async with running(tmp_path) as bench, trio.open_nursery() as nursery:
        bench.hop.may_pass = trio.Event()
        nursery.start_soon(bench.ledger.append, [event("a"), event("b"), event("a")])
        await wait_all_tasks_blocked()
        backlog = (await bench.ledger.vital_signs()).backlog
        assert (backlog.in_flight, backlog.unposted, backlog.awake) == (3, 3, 2)
        bench.hop.may_pass.set()
        await wait_all_tasks_blocked()
        backlog = (await bench.ledger.vital_signs()).backlog
        assert (backlog.in_flight, backlog.unposted, backlog.awake) == (0, 3, 2)
        for _ in range(3):
            mock_clock.jump(POST_SECONDS)
            await wait_all_tasks_blocked(0.01)
        signs = await bench.ledger.vital_signs()
        assert signs.backlog.unposted == 0
        assert signs.next_to_close == HOUR


async def test_transactions_are_counted_with_their_events(tmp_path: Path) -> None:
    """Each once, what was appended together in one; those without events are none of them."""
    async with running(tmp_path) as bench:
        before = (await bench.ledger.vital_signs()).commits.events.count
        await bench.ledger.append([event(), event("other")])
        await bench.ledger.append([event()])
        commits = (await bench.ledger.vital_signs()).commits
        assert commits.events.total == 3
        assert commits.events.count - before == 2 == commits.seconds.count - before


async def test_how_long_a_transaction_takes(tmp_path: Path, mock_clock: MockClock) -> None:
    """From when it is decided until it is on disk, on trio's clock."""
    async with running(tmp_path) as bench, trio.open_nursery() as nursery:
        before = bench.ledger._committer.counts.seconds.total
        bench.hop.may_pass = trio.Event()
        nursery.start_soon(bench.ledger.append, [event()])
        await wait_all_tasks_blocked()
        mock_clock.jump(0.75)
        bench.hop.may_pass.set()
        await wait_all_tasks_blocked()
        assert (await bench.ledger.vital_signs()).commits.seconds.total - before == 0.75


async def _close_hour(bench: EngineBench, *customers: str) -> None:
    await bench.ledger.append([event(customer) for customer in customers])
    bench.clock.now_ms = at("2026-01-14T12:00")
    assert await bench.ledger.next_to_close() == HOUR
    await bench.ledger.close(HOUR, rules(PeriodType.HOURLY))


async def test_what_is_pending_and_parked(tmp_path: Path) -> None:
    """Of all endpoints, and of each."""
    async with running(tmp_path) as bench:
        await _close_hour(bench, "a", "b", "c")
        signs = await bench.ledger.vital_signs()
        assert (signs.pending, signs.parked) == (3, 0)
        [first] = (await bench.ledger.claim("billing", limit=1)).deliveries
        given_up = settle_attempt(first, Outcome("no"), bench.clock.now_ms, Fraction(0), ())
        await bench.ledger.settle([given_up])
        signs = await bench.ledger.vital_signs()
        assert (signs.pending, signs.parked) == (2, 1)
        [billing] = signs.endpoints
        assert (billing.endpoint_id, billing.pending, billing.parked) == ("billing", 2, 1)
        # The day that runs has its totals from the hour.
        assert signs.next_to_close == period_at(PeriodType.DAILY, START_MS)


async def test_free_pages_are_those_of_what_is_gone(tmp_path: Path) -> None:
    """What was deleted leaves pages that are used again: the file does not shrink."""
    async with running(tmp_path) as bench:
        await bench.ledger.append(
            [event(metadata=b'{"a":"%s"}' % (b"x" * 16_000)) for _ in "abcdefgh"]
        )
        before = (await bench.ledger.vital_signs()).space

        bench.store.write(
            lambda txn: txn.delete_all("events", list(txn.keys_forward("events", b"", b"")))
        )
        after = (await bench.ledger.vital_signs()).space
        assert after.free >= before.free + 8 * 16_000
        assert after.size >= before.size
        assert after.map == before.map > after.size
        assert after.room > 0
