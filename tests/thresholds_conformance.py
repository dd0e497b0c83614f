"""What every engine must keep of ``watching.Watching``: each threshold that was reached is told
once, whoever looks when and how often.
"""

from __future__ import annotations

import json
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from meterd.domain.alerts import Alert
from meterd.domain.periods import PeriodType
from meterd.domain.thresholds import Watched
from meterd.ledger import DeliveryQuery, Ledger
from meterd.watching import Watching
from tests.ledger_bench import ALL, OPERATIONS, Bench, append_at, at, close_ended, event, rules

if TYPE_CHECKING:
    from collections.abc import Mapping

    from meterd.domain.deliveries import Delivery
    from meterd.domain.events import UsageEvent
    from meterd.domain.thresholds import Reached

DAY = (PeriodType.HOURLY, PeriodType.DAILY)
ENDPOINTS = ("billing",)


class WatchedLedger(Ledger, Watching, Protocol):
    """Both contracts."""


class ThresholdBench(Bench, Protocol):
    """See ``ledger_bench.Bench``."""

    @property
    def ledger(self) -> WatchedLedger: ...


def alert(
    *thresholds: str | int,
    event_type: str = "sum",
    period: PeriodType = PeriodType.DAILY,
    customer: str | None = None,
) -> Alert:
    named = f"{event_type}-{period}-{customer}"
    return Alert(named, event_type, period, tuple(map(Decimal, thresholds)), customer)


def watching(*alerts: Alert) -> Watched:
    return Watched(alerts, OPERATIONS)


def names(told: list[Reached]) -> list[str]:
    """``acme 20260114 sum 10``."""
    return [f"{one.customer_id} {one.period.key} {one.event_type} {one.threshold}" for one in told]


class Watcher:
    """Looks as the actor does, when a test wants it."""

    def __init__(self, bench: Any, *alerts: Alert, endpoints: tuple[str, ...] = ENDPOINTS) -> None:
        self._bench = bench
        self._watched = watching(*alerts)
        self.kinds = self._watched.kinds
        self._endpoints = endpoints
        self._since_ms: Mapping[PeriodType, int] = bench.ledger.watch(self._watched)

    async def at_all(self, limit: int = 2) -> list[str]:
        """Everybody with totals; what is told."""
        ledger, told, after = self._bench.ledger, list[str](), None
        while looks := await ledger.users(self._watched, self._since_ms, limit=limit, after=after):
            assert len(looks) <= limit
            after = looks[-1].customer_id
            told += names(await ledger.tell(self._watched, looks, self._endpoints))
        return told

    async def at_changed(self, *customers: str) -> list[str]:
        """Whose totals were posted, which those of these customers are by now."""
        ledger, told = self._bench.ledger, list[str]()
        for customer in customers or ("acme",):
            await ledger.customer_usage(customer, PeriodType.DAILY)

        async def look() -> None:
            while True:
                looks = await ledger.changed(limit=3)
                told.extend(names(await ledger.tell(self._watched, looks, self._endpoints)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(look)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        return told


async def bodies(bench: Any, **query: Any) -> list[dict[str, Any]]:
    found = await bench.ledger.deliveries(DeliveryQuery(**query), limit=ALL)
    return [json.loads(one.body) for one in reversed(found)]


async def thresholds_sent(bench: Any) -> list[Delivery]:
    """Those that are made, of thresholds, the first first."""
    found = await bench.ledger.deliveries(DeliveryQuery(), limit=ALL)
    return [one for one in reversed(found) if one.threshold is not None]


def dated(instant: str, value: int) -> UsageEvent:
    return msgspec.structs.replace(event(value=value), timestamp_ms=at(instant))


class ThresholdsConformance:
    @pytest.mark.parametrize(
        ("event_type", "values", "thresholds", "told"),
        [
            ("sum", ["9.99"], [10], []),
            ("sum", ["10"], [10], ["10"]),
            ("sum", ["0.1", "0.2"], ["0.3", "0.30000000000000001"], ["0.3"]),
            ("sum", ["12", "-4"], [10, 8], ["8"]),
            ("sum", ["250"], [100, 200, 300], ["100", "200"]),
            ("sum", ["9007199254740993"], ["9007199254740993"], ["9007199254740993"]),
            ("count", ["0", "0", "0"], [3, 4], ["3"]),
            ("max", ["7", "3"], [5, 7, 8], ["5", "7"]),
            ("max", ["-7"], ["0.1"], []),
        ],
    )
    async def test_at_which_figure_a_threshold_is_reached(
        self,
        bench: ThresholdBench,
        event_type: str,
        values: list[str],
        thresholds: list[str | int],
        told: list[str],
    ) -> None:
        """At it or beyond, to the last digit, by what the event type's operation makes of all."""
        watcher = Watcher(bench, alert(*sorted(thresholds, key=Decimal), event_type=event_type))
        await bench.ledger.append([event("acme", event_type, value) for value in values])
        expected = [f"acme 20260114 {event_type} {number}" for number in told]
        assert await watcher.at_changed() == expected
        assert await watcher.at_all() == []

    async def test_what_is_told(self, bench: ThresholdBench) -> None:
        """The figure as it was when it was looked at, exact, and of which alert."""
        watcher = Watcher(bench, alert("0.25"))
        await bench.ledger.append([event(value="0.1"), event(value="0.2")])
        await watcher.at_changed()
        (body,) = await bodies(bench)
        assert body.pop("sequence") == 1
        assert body == {
            "type": "usage.threshold.reached",
            "customerId": "acme",
            "period": "daily",
            "data": {
                "periodStart": "2026-01-14T00:00:00.000Z",
                "periodEnd": "2026-01-14T23:59:59.999Z",
                "periodKey": "20260114",
                "timestamp": "2026-01-14T11:15:00.000Z",
                "alert": "sum-daily-None",
                "eventType": "sum",
                "operation": "sum",
                "threshold": 0.25,
                "value": 0.3,
                "eventCount": 2,
                "exact": {"threshold": "0.25", "value": "0.3"},
            },
            "created": at("2026-01-14T11:15") // 1000,
        }

    async def test_each_is_told_once(self, bench: ThresholdBench) -> None:
        """Under many events, to many who look at once, and behind a restart; to each endpoint."""
        alerts = (alert(5, 50), alert(5, period=PeriodType.YEARLY))
        watcher = Watcher(bench, *alerts, endpoints=("billing", "crm"))
        told: list[str] = []

        async def look() -> None:
            told.extend(await watcher.at_all())

        for _ in range(4):
            await bench.ledger.append([event()] * 6)
            told += await watcher.at_changed()
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(look)
        assert sorted(told) == ["acme 2026 sum 5", "acme 20260114 sum 5"]
        await bench.restart()
        assert await Watcher(bench, *alerts).at_all() == []
        sent = [one.endpoint_id for one in await thresholds_sent(bench)]
        assert sorted(sent) == ["billing"] * 2 + ["crm"] * 2

    async def test_concurrent_tellers_tell_once(self, bench: ThresholdBench) -> None:
        """Who asks again in the transaction, and not only before it."""
        watched = watching(alert(1))
        since_ms = bench.ledger.watch(watched)
        await bench.ledger.append([event()])
        await bench.ledger.customer_usage("acme", PeriodType.DAILY)
        looks = await bench.ledger.users(watched, since_ms, limit=9)
        told: list[str] = []

        async def tell() -> None:
            told.extend(names(await bench.ledger.tell(watched, looks, ENDPOINTS)))

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(tell)
        assert told == ["acme 20260114 sum 1"]
        assert len(await thresholds_sent(bench)) == 1

    async def test_each_customer_and_period_is_one_by_itself(self, bench: ThresholdBench) -> None:
        """A new day begins anew; an alert of one customer is of nobody else."""
        watcher = Watcher(bench, alert(2), alert(1, period=PeriodType.HOURLY, customer="b"))
        await append_at(bench, "2026-01-14T10:00", "acme", 2)
        await append_at(bench, "2026-01-14T10:00", "b", 1)
        assert await watcher.at_changed("acme", "b") == [
            "acme 20260114 sum 2",
            "b 2026011410 sum 1",
        ]
        await append_at(bench, "2026-01-14T11:00", "b", 1)
        assert sorted(await watcher.at_changed("b")) == [
            "b 20260114 sum 2",
            "b 2026011411 sum 1",
        ]
        await append_at(bench, "2026-01-15T10:00", "acme", 1)
        assert await watcher.at_changed() == []
        await append_at(bench, "2026-01-15T11:00", "acme", 1)
        assert await watcher.at_changed() == ["acme 20260115 sum 2"]

    async def test_what_two_alerts_ask_for_is_told_once(self, bench: ThresholdBench) -> None:
        """By the first of them."""
        watcher = Watcher(bench, alert(2, 3), alert(2, 4, customer="acme"))
        await bench.ledger.append([event(value=4)])
        assert await watcher.at_changed() == [f"acme 20260114 sum {number}" for number in (2, 3, 4)]
        found = await bodies(bench)
        assert [one["data"]["alert"] for one in found] == [
            "sum-daily-None",
            "sum-daily-None",
            "sum-daily-acme",
        ]

    @pytest.mark.parametrize("period", PeriodType)
    async def test_every_type_of_period_is_watched(
        self, bench: ThresholdBench, period: PeriodType
    ) -> None:
        """Before anything was ever closed, and behind that."""
        await bench.ledger.append([event()])
        await bench.ledger.customer_usage("acme", period)
        watcher = Watcher(bench, alert(1, 2, period=period))
        assert len(await watcher.at_all()) == 1
        await close_ended(bench, rules(), clock_ms=at("2027-02-01T00:00"))
        await bench.ledger.append([event(value=2)])
        assert len(await watcher.at_changed()) == 2

    async def test_what_was_reached_while_nobody_watched_is_found(
        self, bench: ThresholdBench
    ) -> None:
        """Of everybody, by who begins to watch; new thresholds tell, old ones do not again."""
        for customer in ("acme", "b", "c", "d", "e"):
            await append_at(bench, "2026-01-14T10:00", customer, 10)
        await bench.restart()
        everybody = {f"{customer} 20260114 sum" for customer in ("acme", "b", "c", "d", "e")}
        told = await Watcher(bench, alert(5)).at_all()
        assert sorted(told) == sorted(f"{one} 5" for one in everybody)
        told = await Watcher(bench, alert(5, 7, 20)).at_all()
        assert sorted(told) == sorted(f"{one} 7" for one in everybody)
        assert await Watcher(bench, alert(7)).at_all() == []
        assert await Watcher(bench, alert(5, 7)).at_all() == []

    async def test_a_period_that_has_ended_is_looked_at_until_the_next_one_has_closed(
        self, bench: ThresholdBench
    ) -> None:
        """What came for it meanwhile, late or in time; longer ago only revisions tell."""
        hourly = alert(3, period=PeriodType.HOURLY)
        await append_at(bench, "2026-01-14T09:50", value=1)
        await append_at(bench, "2026-01-14T10:50", value=1)
        watcher = Watcher(bench, hourly)
        bench.clock.now_ms = at("2026-01-14T11:02")
        await bench.ledger.append([dated("2026-01-14T09:51", 2)])
        assert await watcher.at_changed() == ["acme 2026011409 sum 3"]
        await close_ended(bench, rules(*DAY))
        await bench.ledger.append([dated("2026-01-14T09:52", 2), dated("2026-01-14T08:52", 3)])
        assert await watcher.at_changed() == []
        await bench.ledger.append([dated("2026-01-14T10:51", 2)])
        assert await watcher.at_changed() == ["acme 2026011410 sum 3"]

    async def test_what_came_just_before_the_next_one_closes_is_looked_at(
        self, bench: ThresholdBench
    ) -> None:
        """Late, and not in the stored totals yet when that close begins."""
        await append_at(bench, "2026-01-14T09:50", value=1)
        await append_at(bench, "2026-01-14T10:50", "b")
        await close_ended(bench, rules(*DAY))
        watcher = Watcher(bench, alert(3, period=PeriodType.HOURLY))
        bench.clock.now_ms = at("2026-01-14T11:00")
        following = await bench.ledger.next_to_close()
        assert following is not None
        await bench.ledger.append([dated("2026-01-14T09:51", 2)])
        await bench.ledger.close(following, rules(*DAY))
        assert await watcher.at_changed() == ["acme 2026011409 sum 3"]

    async def test_only_what_is_watched_is_noted(self, bench: ThresholdBench) -> None:
        """Not other event types, nor other customers; nothing where nothing is watched."""
        watched = watching(alert(1, customer="acme"))
        bench.ledger.watch(watched)
        await bench.ledger.append([event("b"), event("acme", "max"), event("acme")])
        for customer in ("acme", "b"):
            await bench.ledger.customer_usage(customer, PeriodType.DAILY)
        looks = await bench.ledger.changed(limit=ALL)
        found = {(look.customer_id, one.key) for look in looks for one in look.periods}
        assert {one for one in found if one[1] == "20260114"} == {("acme", "20260114")}
        bench.ledger.watch(None)
        await bench.ledger.append([event("acme")])
        await bench.ledger.customer_usage("acme", PeriodType.DAILY)
        bench.ledger.watch(watched)
        with trio.CancelScope() as waiting:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait_and_cancel, waiting)
                await bench.ledger.changed(limit=ALL)
        assert waiting.cancelled_caught


async def wait_and_cancel(scope: trio.CancelScope) -> None:
    await wait_all_tasks_blocked()
    scope.cancel()
