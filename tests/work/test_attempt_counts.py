"""What workers count for whoever watches meterd: attempts by what came of them, and the parked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from meterd.domain.outcomes import ErrorKind, Outcome
from tests.edge.api_bench import all_settled
from tests.work.outbox_bench import BILLING, CRM, OutboxBench

if TYPE_CHECKING:
    from trio.testing import MockClock

    from meterd.domain.endpoints import Endpoint

NO_MORE = Outcome("HTTP 404: Not Found", ErrorKind.STATUS, 404)


async def refusing() -> Outcome:
    return NO_MORE


def once(endpoint: Endpoint) -> Endpoint:
    """Parks what fails once."""
    return msgspec.structs.replace(endpoint, schedule_ms=())


async def test_each_endpoint_by_outcome(mock_clock: MockClock) -> None:
    """One receiver's are not another's."""
    bench = OutboxBench(BILLING, CRM)
    bench.receivers.answers["crm"] = refusing
    async with bench.running():
        await bench.close_hour("a", "b", "c")
        await all_settled()
        counts = bench.actor.counts
        # A fake's success has no status.
        assert counts.attempts == {("billing", "unknown"): 3, ("crm", "4xx"): 3}
        assert counts.parked == {}


async def test_parked_deliveries(mock_clock: MockClock) -> None:
    """Each of them, by its endpoint."""
    bench = OutboxBench(once(BILLING), CRM)
    bench.receivers.answers["billing"] = refusing
    async with bench.running():
        await bench.close_hour("a", "b", "c")
        await all_settled()
        assert bench.actor.counts.parked == {"billing": 3}
        assert bench.actor.counts.attempts["billing", "4xx"] == 3


async def test_another_worker_counts_on(mock_clock: MockClock) -> None:
    """A counter that falls back means a new process: a reload with other slots is none."""
    bench = OutboxBench(once(BILLING))
    bench.receivers.answers["billing"] = refusing
    async with bench.running():
        await bench.close_hour("a", "b")
        await all_settled()
        bench.reload(msgspec.structs.replace(once(BILLING), slots=1))
        mock_clock.jump(3600)
        await bench.close_hour("a", "b", "c")
        await all_settled()
        assert bench.actor.counts.attempts == {("billing", "4xx"): 5}
        assert bench.actor.counts.parked == {"billing": 5}
