"""What every engine must keep of deliveries of thresholds: as of all, but in lines of their own."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from meterd.domain.deliveries import DeliveryStatus
from meterd.domain.outcomes import Outcome
from meterd.domain.periods import HOUR_MS, PeriodType, period_at
from meterd.ledger import DeliveryQuery, Replay
from tests.ledger_bench import ALL, append_at, at, close_ended, rules
from tests.redelivery_conformance import FAILED, replay_all, settle
from tests.thresholds_conformance import Watcher, alert, bodies, thresholds_sent

if TYPE_CHECKING:
    from tests.thresholds_conformance import ThresholdBench


class ThresholdDeliveriesConformance:
    """They are deliveries like all, in a line of their own."""

    async def test_neither_waits_for_the_other(self, bench: ThresholdBench) -> None:
        """A customer's aggregation that fails holds back no threshold, nor the other way round."""
        watcher = Watcher(bench, alert(1, 2, period=PeriodType.YEARLY))
        await append_at(bench, "2026-01-14T10:00")
        await close_ended(
            bench, rules(PeriodType.HOURLY, PeriodType.DAILY), clock_ms=at("2026-01-14T11:10")
        )
        await settle(bench, "billing", FAILED, waits_ms=(HOUR_MS,))
        await watcher.at_changed()
        await append_at(bench, "2026-01-14T11:12")
        await watcher.at_changed()
        claimed = await bench.ledger.claim("billing", limit=ALL)
        assert [one.threshold and str(one.threshold.value) for one in claimed.deliveries] == ["1"]
        history = await bench.ledger.delivery((await thresholds_sent(bench))[1].id)
        assert history is not None
        assert history.behind == claimed.deliveries[0].id
        bench.clock.now_ms += HOUR_MS
        claimed = await bench.ledger.claim("billing", limit=ALL)
        assert [one.threshold for one in claimed.deliveries] == [None]

    async def test_they_go_alone(self, bench: ThresholdBench) -> None:
        """Also to an endpoint that takes batches, whose batches they do not hold up."""
        watcher = Watcher(bench, alert(1))
        for customer in ("acme", "b"):
            await append_at(bench, "2026-01-14T10:00", customer)
        await watcher.at_changed("acme", "b")
        claimed = await bench.ledger.claim("billing", limit=1, batch=10)
        assert [one.customer_id for one in claimed.deliveries] == ["acme"]
        await close_ended(bench, rules(PeriodType.HOURLY), clock_ms=at("2026-01-14T11:10"))
        claimed = await bench.ledger.claim("billing", limit=ALL, batch=10)
        found = [(one.is_batch, one.customer_id, len(one.sequences)) for one in claimed.deliveries]
        assert sorted(found) == [(False, "b", 1), (True, "", 2)]

    async def test_they_are_listed(self, bench: ThresholdBench) -> None:
        """With the customer's, by period, and by what became of them."""
        watcher = Watcher(bench, alert(1), alert(1, period=PeriodType.HOURLY))
        await append_at(bench, "2026-01-14T10:00")
        await append_at(bench, "2026-01-14T10:00", "b")
        await watcher.at_changed("acme", "b")
        await close_ended(bench, rules(PeriodType.HOURLY), clock_ms=at("2026-01-14T11:10"))
        kinds = ["usage.threshold.reached"] * 2 + ["aggregation.completed"]
        for query in ({}, {"status": DeliveryStatus.PENDING}, {"endpoint_id": "billing"}):
            found = await bodies(bench, customer_id="acme", **query)
            assert [one["type"] for one in found] == kinds, query
        daily = await bodies(bench, customer_id="acme", period_type=PeriodType.DAILY)
        assert [one["type"] for one in daily] == kinds[:1]
        await settle(bench, "billing", Outcome())
        parked = await bench.ledger.deliveries(
            DeliveryQuery(status=DeliveryStatus.DELIVERED), limit=ALL
        )
        assert [one.sequence for one in parked] == [1]

    async def test_they_are_sent_again_and_replayed(self, bench: ThresholdBench) -> None:
        """With the periods that they are of, once these are closed; to who was never told, too."""
        watcher = Watcher(bench, alert(1, 2))
        await append_at(bench, "2026-01-14T10:00", value=2)
        await watcher.at_changed()
        await settle(bench, "billing", Outcome())
        (first, _) = await thresholds_sent(bench)
        again = await bench.ledger.retry(first.id)
        assert again is not None
        assert again.status is DeliveryStatus.PENDING
        await close_ended(bench, rules(PeriodType.DAILY), clock_ms=at("2026-01-15T00:10"))
        (aggregation,) = [
            one
            for one in await bench.ledger.deliveries(DeliveryQuery(), limit=ALL)
            if one.threshold is None
        ]
        end_ms = period_at(PeriodType.DAILY, aggregation.start_ms).end_ms
        for endpoint, again_and_created in (("billing", (3, 0)), ("new", (0, 3)), ("new", (3, 0))):
            replay = Replay(endpoint, end_ms, end_ms)
            counted = await replay_all(bench, replay, dry_run=True)
            assert (counted.again, counted.created) == again_and_created
            assert await replay_all(bench, replay) == counted
        sent = [json.loads(one.body)["type"] for one in await thresholds_sent(bench)]
        assert sent == ["usage.threshold.reached"] * 4
