"""Idempotency keys between their event and the index: who finds them, when they are posted, what a
crash leaves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from meterd.domain.errors import OverloadedError
from meterd.domain.idempotency import Recorded
from meterd.embedded import journal, used_keys
from meterd.embedded.used_keys import PASS_SECONDS
from tests.embedded.engine_bench import EngineBench, post_rest, running
from tests.idempotency_conformance import keyed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from trio.testing import MockClock

COUNT = 1500


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[EngineBench]:
    async with running(tmp_path) as started:
        await wait_all_tasks_blocked()  # the first pass is over, and had nothing to do
        yield started


def in_index(bench: EngineBench) -> int:
    with bench.store.read() as txn:
        return txn.count("idempotency_keys")


async def use_many(bench: EngineBench, name: str = "k") -> None:
    events = [keyed(f"{name}{number}", 1, f"c{number % 40}") for number in range(COUNT)]
    outcomes = await bench.ledger.append(events)
    assert outcomes == [Recorded.RECORDED] * COUNT
    assert await bench.ledger.append(events) == [Recorded.DUPLICATE] * COUNT


async def test_keys_are_posted_in_passes(bench: EngineBench, autojump_clock: MockClock) -> None:
    """Spread over their time, each once, and found before and after."""
    await use_many(bench)
    assert in_index(bench) == 0
    await trio.sleep(1.5 * PASS_SECONDS)
    assert 0.3 < in_index(bench) / COUNT < 0.8
    await use_many(bench, "l")
    await trio.sleep(0.6 * PASS_SECONDS)
    assert COUNT <= in_index(bench) < 2 * COUNT
    await trio.sleep(2 * PASS_SECONDS)
    assert in_index(bench) == 2 * COUNT
    await trio.sleep(PASS_SECONDS)
    transactions = bench.hop.transactions
    await trio.sleep(10 * PASS_SECONDS)
    assert bench.hop.transactions == transactions, "nothing came, and nothing was written"


async def test_many_keys_are_posted_in_haste(
    bench: EngineBench, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory is bounded by how many may wait, not by how fast they come."""
    monkeypatch.setattr(used_keys, "WAITING_MANY", 1000)
    began_at = trio.current_time()
    await use_many(bench)
    with trio.fail_after(0.5):
        while in_index(bench) < COUNT - 1000:  # noqa: ASYNC110 - any transaction may be the one
            await trio.sleep(0.01)
    assert trio.current_time() - began_at < 1


async def test_too_many_keys_are_refused_and_events_without_are_not(
    bench: EngineBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OverloadedError, nothing stored, nothing left in flight; posted, they are taken again."""
    await use_many(bench)
    monkeypatch.setattr(used_keys, "WAITING_MAX", COUNT - 1)
    for _ in range(3):
        with pytest.raises(OverloadedError, match="idempotency keys"):
            await bench.ledger.append([keyed("more")])
    assert await bench.ledger.append([keyed("")]) == [Recorded.RECORDED]
    await bench.ledger._used_keys.post_all()
    assert await bench.ledger.append([keyed("more")]) == [Recorded.RECORDED]


@pytest.mark.parametrize("transactions", range(9))
async def test_a_crash_amid_posting_forgets_no_key(bench: EngineBench, transactions: int) -> None:
    """However far the pass had come: the start takes the rest from the log."""
    await use_many(bench)
    await bench.cut_off(transactions, lambda: post_everything(bench))
    await bench.restart()
    assert in_index(bench) == COUNT
    events = [keyed(f"k{number}", 1, f"c{number % 40}") for number in range(COUNT)]
    assert await bench.ledger.append(events) == [Recorded.DUPLICATE] * COUNT


async def post_everything(bench: EngineBench) -> None:
    """As a stop does; and on."""
    await bench.ledger._used_keys.post_all()
    await bench.ledger._posting.post_all()
    await bench.ledger.append([keyed("last")])
    await trio.sleep_forever()


async def test_the_mark_is_not_ahead_of_the_keys(
    bench: EngineBench, autojump_clock: MockClock
) -> None:
    """Totals may be posted sooner; a start then reads from the oldest key that was not."""
    await use_many(bench)
    await bench.ledger._posting.post_all()
    with bench.store.read() as txn:
        assert journal.posted_through(txn) < bench.ledger._posting._posted
    assert post_rest(bench.store) > 0
    assert in_index(bench) == COUNT
    await trio.sleep(3 * PASS_SECONDS)
    assert post_rest(bench.store) == 0


@pytest.mark.parametrize("followed", [False, True])
async def test_a_crash_forgets_no_key_by_a_hair(bench: EngineBench, *, followed: bool) -> None:
    """Ids carry the part and marks do not: the key of the very event that a mark names, or of the
    first that it does not, is taken from the log whichever part it is of.
    """
    events = [keyed("k", 1, f"c{number}") for number in range(40)]
    for one in events:
        await bench.ledger.append([one])
        if not followed:
            await post_and_crash(bench)
            assert await bench.ledger.append([one]) == [Recorded.DUPLICATE]
    if followed:
        await post_and_crash(bench)
    assert await bench.ledger.append(events) == [Recorded.DUPLICATE] * len(events)


async def post_and_crash(bench: EngineBench) -> None:
    """The mark follows the totals, the keys are left behind."""
    await bench.ledger._posting.post_all()
    await bench.cut_off(0, lambda: bench.ledger.append([keyed("never")]))
    await bench.restart()


async def test_a_pass_that_is_cut_short_leaves_the_rest_to_the_next(bench: EngineBench) -> None:
    """A caller who goes takes no key with it."""
    await use_many(bench)
    with trio.CancelScope() as going:
        going.cancel()
        await bench.ledger._used_keys.post_all()
    assert len(bench.ledger._used_keys) == COUNT
    await bench.ledger._used_keys.post_all()
    assert (len(bench.ledger._used_keys), in_index(bench)) == (0, COUNT)
