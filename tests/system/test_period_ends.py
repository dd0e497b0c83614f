"""A whole daemon in this process, its clock set by the test: period ends, crossed up and down."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import trio

from meterd.daemon import running
from meterd.domain.config import decode
from tests.fake_clock import FakeClock
from tests.receiver import Received, Receiver, receiving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

KEY = "test-key-of-a-length-that-nobody-guesses-0123456789"

CONFIG = """
periods = {periods}
grace = "{grace}"
[events."api.calls"]
op = "sum"
[events."storage.bytes"]
op = "max"
[[webhooks]]
id = "billing"
url = "{url}"
secret = "whsec_test_secret_of_some_length"
allow_private = ["127.0.0.0/8"]
"""
ALL = '["hourly", "daily", "weekly", "monthly", "yearly"]'


class Client:
    """Speaks to a daemon in this process."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def post(self, customer: str, value: float, event_type: str = "api.calls") -> None:
        answer = await self._http.post(
            f"/usage/{event_type}", json={"customerId": customer, "value": value}
        )
        assert answer.status_code == 201, answer.text

    async def trigger(self) -> dict[str, Any]:
        answer: dict[str, Any] = (await self._http.post("/aggregations/trigger")).json()
        return answer

    async def aggregations(self, **asked: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await self._http.get("/aggregations", params=asked)).json()
        return found

    async def closed(self, count: int) -> dict[str, dict[str, Any]]:
        """The closed aggregations by id, once they are that many."""
        with trio.fail_after(20):
            while True:
                found = await self.aggregations(limit="1000")
                closed = {a["_id"]: a for a in found if a["status"] == "closed"}
                if len(closed) >= count:
                    assert len(closed) == count, sorted(closed)
                    return closed
                await trio.sleep(0.01)

    async def ready(self) -> None:
        with trio.fail_after(20):
            while (await self._http.get("/readyz")).status_code != 200:  # noqa: ASYNC110
                await trio.sleep(0.01)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    yield from receiving()


@asynccontextmanager
async def serving(
    folder: Path, clock: FakeClock, receiver: Receiver, periods: str = ALL, grace: str = "5m"
) -> AsyncIterator[Client]:
    environ = {
        "METERD_API_KEY": KEY,
        "METERD_BIND": "127.0.0.1:0",
        "METERD_DATA_DIR": str(folder / "data"),
    }
    text = CONFIG.format(periods=periods, grace=grace, url=receiver.url)
    config = decode(text.encode(), form="toml", environ=environ)
    async with (
        running(config, clock) as daemon,
        httpx.AsyncClient(base_url=daemon.urls[0], headers={"x-apikey": KEY}) as http,
    ):
        yield Client(http)


async def webhooks(receiver: Receiver, count: int) -> list[Received]:
    return await trio.to_thread.run_sync(receiver.wait_for, count)


async def test_a_period_closes_when_its_grace_is_over(tmp_path: Path, receiver: Receiver) -> None:
    """Not a moment earlier, and the webhook says what the aggregation says."""
    clock = FakeClock("2026-03-10T09:58:00Z")
    async with serving(tmp_path, clock, receiver) as client:
        await client.post("c", 2)
        await client.post("c", 3.5)
        clock.set("2026-03-10T10:04:59.999Z")
        await client.post("c", 100)
        assert await client.closed(0) == {}
        clock.set("2026-03-10T10:05:00Z")
        closed = await client.closed(1)
        hour = closed["c_hourly_2026031009"]
        assert hour["events"] == {"api.calls": 5.5}
        assert hour["periodEnd"] == "2026-03-10T09:59:59.999Z"
        [received] = await webhooks(receiver, 1)
    assert received.payload["type"] == "aggregation.completed"
    assert received.payload["period"] == "hourly"
    assert received.payload["data"]["events"] == {"api.calls": 5.5}
    assert received.payload["data"]["eventCount"] == 2
    assert received.headers["x-webhook-timestamp"] == received.headers["webhook-timestamp"]


CROSSINGS = [
    # last event before, first event after, moment of closing, keys that close
    (
        "2024-02-29T23:59:59.999Z",
        "2024-03-01T00:00:00Z",
        ["hourly_2024022923", "daily_20240229", "monthly_202402"],
    ),
    (
        "2026-02-28T23:59:59.999Z",
        "2026-03-01T00:00:00Z",
        ["hourly_2026022823", "daily_20260228", "monthly_202602"],
    ),
    (
        "2026-12-31T23:59:59.999Z",
        "2027-01-01T00:00:00Z",
        ["hourly_2026123123", "daily_20261231", "monthly_202612", "yearly_2026"],
    ),
    # 2026 has 53 weeks; its last ends on Sunday, 3 January 2027.
    (
        "2027-01-03T23:59:59.999Z",
        "2027-01-04T00:00:00Z",
        ["hourly_2027010323", "daily_20270103", "weekly_202653"],
    ),
    (
        "2024-12-29T23:59:59.999Z",
        "2024-12-30T00:00:00Z",
        ["hourly_2024122923", "daily_20241229", "weekly_202452"],
    ),
]


@pytest.mark.parametrize(("before", "after", "keys"), CROSSINGS)
async def test_midnights_that_end_longer_periods(
    tmp_path: Path, receiver: Receiver, before: str, after: str, keys: list[str]
) -> None:
    """What ends at a midnight closes once, with the events up to the last millisecond."""
    clock = FakeClock(before)
    async with serving(tmp_path, clock, receiver, grace="0s") as client:
        await client.post("c", 1)
        clock.set(after)
        await client.post("c", 10)
        closed = await client.closed(len(keys))
        assert sorted(closed) == sorted(f"c_{key}" for key in keys)
        assert {a["events"]["api.calls"] for a in closed.values()} == {1}
        received = await webhooks(receiver, len(keys))
    assert len({one.headers["webhook-id"] for one in received}) == len(keys)


async def test_what_ended_while_down_closes_at_start_oldest_first(
    tmp_path: Path, receiver: Receiver
) -> None:
    """After three days of downtime everything overdue is closed, and nothing twice."""
    clock = FakeClock("2026-03-10T09:58:00Z")
    async with serving(tmp_path, clock, receiver) as client:
        await client.post("c", 1)
        await client.post("d", 4, "storage.bytes")
    clock.set("2026-03-13T12:00:00Z")
    async with serving(tmp_path, clock, receiver) as client:
        closed = await client.closed(4)
        await client.ready()
        assert sorted(closed) == [
            "c_daily_20260310",
            "c_hourly_2026031009",
            "d_daily_20260310",
            "d_hourly_2026031009",
        ]
        received = await webhooks(receiver, 4)
    for customer in ("c", "d"):
        periods = [r.payload["period"] for r in received if r.payload["customerId"] == customer]
        assert sorted(periods) == ["daily", "hourly"]
    async with serving(tmp_path, clock, receiver) as client:
        await client.ready()
        assert len(await client.closed(4)) == 4
    assert len(receiver.received) == 4


async def test_a_clock_that_steps_back_changes_nothing_final(
    tmp_path: Path, receiver: Receiver
) -> None:
    """Events after the step count in the first open hour, once, also after a restart."""
    clock = FakeClock("2026-03-10T09:58:00Z")
    async with serving(tmp_path, clock, receiver, grace="0s") as client:
        await client.post("c", 1)
        clock.set("2026-03-10T10:00:00Z")
        await client.closed(1)
        clock.set("2026-03-10T08:30:00Z")
        await client.post("c", 20)
    async with serving(tmp_path, clock, receiver, grace="0s") as client:
        await client.post("c", 300)
        clock.set("2026-03-10T11:00:00Z")
        closed = await client.closed(2)
        assert closed["c_hourly_2026031009"]["events"] == {"api.calls": 1}
        assert closed["c_hourly_2026031010"]["events"] == {"api.calls": 320}


async def test_a_trigger_closes_what_has_ended_and_shows_what_runs(
    tmp_path: Path, receiver: Receiver
) -> None:
    """Grace or not; a snapshot sends no webhook and never stops the close that follows."""
    clock = FakeClock("2026-03-10T09:58:00Z")
    async with serving(tmp_path, clock, receiver) as client:
        await client.post("c", 1)
        clock.set("2026-03-10T10:01:00Z")
        await client.post("c", 2)
        answer = await client.trigger()
        # The hour that ended, and snapshots of hour, day, week, month and year.
        assert answer == {
            "message": "Aggregation jobs queued for processing",
            "jobsCreated": 6,
            "jobsUpdated": 0,
            "jobsQueued": 6,
            "customersFound": 1,
            "periodsConfigured": 5,
            "eventsScanned": 2,
        }
        found = {a["_id"]: a for a in await client.aggregations()}
        assert found["c_hourly_2026031009"]["status"] == "closed"
        assert found["c_hourly_2026031010"]["status"] == "open"
        assert found["c_hourly_2026031010"]["events"] == {"api.calls": 2}
        assert found["c_yearly_2026"]["events"] == {"api.calls": 3}
        assert [r.payload["period"] for r in await webhooks(receiver, 1)] == ["hourly"]
        again = await client.trigger()
        assert (again["jobsCreated"], again["jobsUpdated"]) == (0, 5)
        await client.post("c", 5)
        clock.set("2026-03-10T11:05:00Z")
        closed = await client.closed(2)
        assert closed["c_hourly_2026031010"]["events"] == {"api.calls": 7}
        await webhooks(receiver, 2)


async def test_a_trigger_without_events_says_so(tmp_path: Path, receiver: Receiver) -> None:
    """And without periods, that there are none."""
    clock = FakeClock("2026-03-10T09:58:00Z")
    async with serving(tmp_path, clock, receiver) as client:
        assert await client.trigger() == {"message": "No events to aggregate", "jobsQueued": 0}
    async with serving(tmp_path, clock, receiver, periods="[]") as client:
        assert await client.trigger() == {"error": "No periods configured in systemconfig.toml"}
