"""Deleting events beside whoever takes one back; all else is in ``pruning_conformance``."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from meterd.domain.errors import PrunedError
from meterd.domain.periods import HOUR_MS
from meterd.embedded import pruning
from tests.embedded.engine_bench import EngineBench, inline, running
from tests.embedded.sample_store import checked
from tests.ledger_bench import ALL, EVERY_EVENT, START_MS, event
from tests.pruning_conformance import HOUR, LATER, close_all, prune, revise

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

T = TypeVar("T")


async def two_hours(bench: EngineBench) -> list[bytes]:
    """The ids of an event in each of two hours, which may be deleted."""
    await bench.ledger.append([event(value=1)])
    bench.clock.now_ms += HOUR_MS
    await bench.ledger.append([event(value=2)])
    await close_all(bench)
    assert await prune(bench, before_ms=START_MS - HOUR_MS) == 0  # which forgets the keys
    found = await bench.ledger.events(EVERY_EVENT, limit=ALL)
    return [one.id for one in reversed(found)]


async def test_an_hour_that_is_being_counted_again_is_kept(tmp_path: Path) -> None:
    """And what came behind it, until that is done; what came before goes."""
    async with running(tmp_path) as bench:
        _, second = await two_hours(bench)
        async with trio.open_nursery() as nursery:
            bench.hop.may_pass = trio.Event()
            nursery.start_soon(bench.ledger.void, second, "as agreed")
            await wait_all_tasks_blocked()
            pruned: list[int] = []

            async def delete() -> None:
                pruned.append(await bench.ledger.prune_events(before_ms=LATER, ended_ms=LATER))
                pruned.append(await bench.ledger.prune_events(before_ms=LATER, ended_ms=LATER))

            nursery.start_soon(delete)
            await wait_all_tasks_blocked()
            bench.hop.may_pass.set()
        assert pruned == [1, 0]
        (left,) = await bench.ledger.events(EVERY_EVENT, limit=ALL)
        assert left.id == second
        assert left.void is not None


@pytest.mark.parametrize("place", [0, 1])
async def test_an_event_that_is_about_to_be_deleted_is_not_taken_back(
    tmp_path: Path, place: int
) -> None:
    """Between the decision and the transaction it is still there to be read."""
    async with running(tmp_path) as bench:
        ids = await two_hours(bench)
        async with trio.open_nursery() as nursery:
            bench.hop.may_pass = trio.Event()

            async def delete() -> None:
                await bench.ledger.prune_events(before_ms=LATER, ended_ms=LATER)

            nursery.start_soon(delete)
            await wait_all_tasks_blocked()
            assert len(await bench.ledger.events(EVERY_EVENT, limit=ALL)) == 2
            with pytest.raises(PrunedError) as refused:
                await bench.ledger.void(ids[place], "too late")
            assert refused.value.until_ms == HOUR + 2 * HOUR_MS
            bench.hop.may_pass.set()
        assert await bench.ledger.events(EVERY_EVENT, limit=ALL) == []


@pytest.mark.parametrize("is_revised", [False, True])
async def test_what_is_taken_back_while_others_are_looked_for_is_kept(
    tmp_path: Path, *, is_revised: bool
) -> None:
    """A slow reader has not seen the void, which would be left of nothing; nor what is to be
    revised.
    """
    may_pass = trio.Event()
    may_pass.set()

    async def slow(work: Callable[[], T]) -> T:
        result, passes = await inline(work), may_pass
        await passes.wait()
        return result

    async with trio.open_nursery() as nursery:
        bench = EngineBench(tmp_path / "data", nursery, read_hop=slow)
        await bench.start()
        _, second = await two_hours(bench)
        async with trio.open_nursery() as deleting:
            held_back = may_pass = trio.Event()

            async def delete() -> None:
                assert await bench.ledger.prune_events(before_ms=LATER, ended_ms=LATER) == 0

            deleting.start_soon(delete)
            await wait_all_tasks_blocked()
            may_pass = trio.Event()
            may_pass.set()
            assert await bench.ledger.void(second, "as agreed") is not None
            if is_revised:
                await revise(bench)
            held_back.set()
        await revise(bench)
        assert await prune(bench) == 2
        await bench.stop()
    assert checked(tmp_path / "data")["pruned events"] == 2


async def test_what_is_taken_back_between_two_portions_is_revised_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though what is to be revised is looked for once for many portions."""
    monkeypatch.setattr(pruning, "EVENTS_AT_ONCE", 1)
    async with running(tmp_path) as bench:
        _, second = await two_hours(bench)
        assert await bench.ledger.prune_events(before_ms=LATER, ended_ms=LATER) == 1
        assert await bench.ledger.void(second, "as agreed") is not None
        assert await prune(bench) == 0
        await revise(bench)
        assert await prune(bench) == 1


async def test_the_year_that_waits_to_be_revised_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind the hour of what was taken back, a portion later: it keeps what came before that."""
    monkeypatch.setattr(pruning, "LATE_AT_ONCE", 1)
    async with running(tmp_path) as bench:
        _, second = await two_hours(bench)
        await bench.ledger.void(second, "as agreed")
        assert await prune(bench) == 0
        await revise(bench)
        assert await prune(bench) == 2


async def test_a_void_of_another_hour_holds_nothing_up(tmp_path: Path) -> None:
    """A later one's."""
    async with running(tmp_path) as bench:
        await two_hours(bench)
        bench.ledger._held_ms.append(HOUR + 2 * HOUR_MS)
        assert await prune(bench) == 2
