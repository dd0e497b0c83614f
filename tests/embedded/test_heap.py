"""Actors are set aside as they become more, and handed back when they are few."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest
import trio

from meterd.embedded.heap import STEP, Heap
from tests.embedded.engine_bench import EngineBench
from tests.ledger_bench import event

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from trio.testing import MockClock


@pytest.fixture(autouse=True)
def nothing_set_aside() -> Iterator[None]:
    gc.unfreeze()
    yield
    gc.unfreeze()


def set_aside() -> bool:
    """Whether anything was, since this was last asked."""
    found = gc.get_freeze_count() > 0
    gc.unfreeze()
    return found


def test_each_step_of_growth_sets_aside() -> None:
    """Not before, and not again at the same height."""
    heap = Heap()
    happened = []
    for actors in (1, STEP - 1, STEP, STEP + 1, 2 * STEP - 1, 2 * STEP, STEP, 2 * STEP):
        heap.grown(actors)
        happened.append(set_aside())
    assert happened == [False, False, True, False, False, True, False, False]


def test_what_grows_again_behind_a_fall_is_set_aside_again() -> None:
    """By whole steps above where it fell to."""
    heap = Heap()
    heap.grown(5 * STEP)
    heap.shrunk(2 * STEP)
    assert set_aside()
    heap.grown(3 * STEP - 1)
    assert not set_aside()
    heap.grown(3 * STEP)
    assert set_aside()


def test_few_are_handed_back() -> None:
    """Then the collector finds what else was set aside with them."""
    heap = Heap()
    heap.grown(STEP)
    heap.shrunk(STEP)
    assert gc.get_freeze_count() > 0
    heap.shrunk(STEP - 1)
    assert gc.get_freeze_count() == 0
    heap.grown(STEP)
    assert gc.get_freeze_count() > 0


async def test_an_actor_that_has_retired_leaves_no_cycle(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """What is set aside is never searched for cycles, so there must be none."""
    async with trio.open_nursery() as nursery:
        bench = EngineBench(tmp_path / "data", nursery)
        await bench.start()
        gc.collect()
        gc.disable()
        try:
            for value in range(3):
                await bench.ledger.append([event(f"c{n}", value=value) for n in range(100)])
            await trio.sleep(70)
            assert len(bench.ledger._registry) == 0
            gc.set_debug(gc.DEBUG_SAVEALL)
            gc.collect()
            kinds = {type(found).__module__ for found in gc.garbage}
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
        assert not any(kind.startswith("meterd") for kind in kinds), kinds
        await bench.stop()
