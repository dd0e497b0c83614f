"""The embedded engine tells of thresholds: the conformance suite, and what a power cut leaves."""

from __future__ import annotations

from functools import partial
from math import ceil
from typing import TYPE_CHECKING

import pytest

from meterd.embedded import threshold_desk
from meterd.embedded.verification import verify
from tests.embedded.engine_bench import EngineBench, running
from tests.ledger_bench import event
from tests.threshold_deliveries_conformance import ThresholdDeliveriesConformance
from tests.threshold_looks_conformance import ThresholdLooksConformance
from tests.thresholds_conformance import (
    ThresholdsConformance,
    Watcher,
    alert,
    thresholds_sent,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[EngineBench]:
    async with running(tmp_path) as bench:
        yield bench
    assert list(verify(bench.folder)) == []


class TestEmbeddedThresholds(ThresholdsConformance):
    pass


class TestEmbeddedThresholdLooks(ThresholdLooksConformance):
    pass


class TestEmbeddedThresholdDeliveries(ThresholdDeliveriesConformance):
    pass


@pytest.mark.parametrize("is_heard", [False, True])
async def test_a_power_cut_amid_telling_tells_once(bench: EngineBench, *, is_heard: bool) -> None:
    """Between posting and telling, and behind a commit that nobody heard of."""
    endpoints = ("billing", "crm")
    watcher = Watcher(bench, alert(1), endpoints=endpoints)
    await bench.ledger.append([event()])
    await bench.ledger.customer_usage("acme", watcher.kinds[0])
    bench.hop.commits_unheard = is_heard
    await bench.cut_off(0, watcher.at_all)
    await bench.restart()
    made = len(endpoints) if is_heard else 0
    assert len(await thresholds_sent(bench)) == made
    told = await Watcher(bench, alert(1), endpoints=endpoints).at_all()
    assert told == ([] if is_heard else ["acme 20260114 sum 1"])
    assert len(await thresholds_sent(bench)) == len(endpoints)


async def test_what_was_posted_by_a_start_is_found(bench: EngineBench) -> None:
    """Events that were acknowledged, and that a crash left uncounted."""
    await bench.ledger.append([event()])
    await bench.cut_off(0, partial(bench.ledger.append, [event()]))
    await bench.restart()
    assert await Watcher(bench, alert(1, 2)).at_all() == ["acme 20260114 sum 1"]


async def test_transactions_are_small(bench: EngineBench) -> None:
    """However much is reached at once, events wait for so many deliveries at most."""
    thresholds = tuple(range(1, 21))
    watcher = Watcher(bench, alert(*thresholds), endpoints=tuple("abcdefgh"))
    customers = [f"c{number}" for number in range(4)]
    await bench.ledger.append([event(one, value=20) for one in customers])
    for one in customers:
        await bench.ledger.customer_usage(one, watcher.kinds[0])
    before = bench.hop.transactions
    assert len(await watcher.at_all(limit=4)) == 80
    assert threshold_desk.AT_ONCE < 20 * 8
    of_each = ceil(20 / (threshold_desk.AT_ONCE // 8))
    assert bench.hop.transactions - before <= 4 * of_each
