"""What is asked for at the desk: told when it is on disk, read beside what is being written."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
from trio.testing import wait_all_tasks_blocked

from meterd.domain.periods import PeriodType
from meterd.ledger import DeliveryQuery, Replay, Replayed
from tests.embedded.engine_bench import EngineBench, running
from tests.ledger_bench import at, close_ended, event, rules

if TYPE_CHECKING:
    from pathlib import Path

EVERYTHING = Replay("crm", 0, at("2027-01-01T00:00"))


async def one_closed(bench: EngineBench) -> str:
    """The id of the delivery of an hour."""
    await bench.ledger.append([event()])
    await close_ended(bench, rules(PeriodType.HOURLY), clock_ms=at("2026-01-14T12:00"))
    (made,) = await bench.ledger.deliveries(DeliveryQuery(), limit=9)
    return made.id


async def test_workers_are_woken_by_what_is_on_disk(tmp_path: Path) -> None:
    """A retry or a replay that is still being written is nothing to claim yet."""
    async with running(tmp_path) as bench:
        name = await one_closed(bench)
        for ask in (
            lambda: bench.ledger.retry(name),
            lambda: bench.ledger.replay(EVERYTHING, limit=9),
        ):
            made = bench.ledger.deliveries_made()
            bench.hop.may_pass = trio.Event()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask)
                await wait_all_tasks_blocked()
                assert bench.ledger.deliveries_made() == made
                bench.hop.may_pass.set()
            assert bench.ledger.deliveries_made() == made + 1


async def test_reading_waits_for_no_transaction(tmp_path: Path) -> None:
    """Nor does a dry run."""
    async with running(tmp_path) as bench:
        name = await one_closed(bench)
        bench.hop.may_pass = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.ledger.retry, name)
            await wait_all_tasks_blocked()
            with trio.fail_after(5):
                assert await bench.ledger.delivery(name) is not None
                assert len(await bench.ledger.endpoints()) == 1
                counted = await bench.ledger.replay(EVERYTHING, limit=9, dry_run=True)
            assert counted == Replayed(0, 1)
            bench.hop.may_pass.set()
