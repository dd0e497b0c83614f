"""``GET /metrics`` of a whole API: what was asked and sent against what is shown."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_classic

from meterd.domain.endpoint_states import EndpointState, disabled, paused
from meterd.domain.outcomes import ErrorKind, Outcome
from meterd.domain.periods import PeriodType, period_at
from meterd.ledger import EndpointSummary
from tests.edge.api_bench import CONFIG, NOW, all_settled, delivering, serving
from tests.edge.lane_bench import BATCH, EVENT, ITEM, lane, request
from tests.edge.measured import FakeEngine, signs
from tests.fake_clock import ms

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from meterd.domain.endpoints import Endpoint
    from tests.edge.api_bench import Api

JSON = {"customerId": "c", "value": 1}
BILLING = CONFIG.webhooks[0]


async def scrape(api: Api) -> dict[str, float]:
    """Values by name and labels, as the text has them."""
    answer = await api.ask("GET", "/metrics", headers={"x-apikey": "key-metrics"})
    assert answer.status_code == 200
    return by_name(answer.text)


def by_name(text: str) -> dict[str, float]:
    return {
        sample.name + "".join(f" {value}" for _, value in sorted(sample.labels.items())): (
            sample.value
        )
        for family in read_classic(text)
        for sample in family.samples
    }


@asynccontextmanager
async def measuring() -> AsyncIterator[tuple[Api, FakeEngine]]:
    async with serving() as api:
        engine = api.metrics._sources.engine
        assert isinstance(engine, FakeEngine)
        yield api, engine


def requests(found: dict[str, float]) -> Iterator[tuple[str, float]]:
    """Lane, method, route and status, of those that were asked for at all."""
    for name, value in found.items():
        if name.startswith("meterd_requests_total ") and value:
            yield name.removeprefix("meterd_requests_total "), value


# -- requests -------------------------------------------------------------------------------------


async def test_requests_by_route_and_status() -> None:
    """Each is counted once, under its template; the scrape itself from the next one on."""
    async with serving() as api:
        for _ in range(3):
            await api.ask("GET", "/ping")
        await api.ask("POST", "/usage/api.calls", json=JSON)
        await api.ask("POST", "/usage/a%2Fb", json=JSON)
        await api.ask("POST", "/usage/none", json=JSON)
        await api.ask("POST", "/webhooks/billing/enable", headers={"x-apikey": "key-read"})
        await api.ask("GET", "/deliveries/msg_0")
        await scrape(api)
        assert dict(requests(await scrape(api))) == {
            "full GET /ping 200": 3,
            "full POST /usage/{eventType} 201": 2,
            "full POST /usage/{eventType} 400": 1,
            "full POST /webhooks/{endpointId}/enable 403": 1,
            "full GET /deliveries/{deliveryId} 404": 1,
            "full GET /metrics 200": 1,
        }


async def test_no_client_makes_a_series() -> None:
    """Paths, methods and names that are nobody's all count as one."""
    async with serving() as api:
        for number in range(20):
            await api.ask("GET", f"/nothing/{number}")
            await api.ask(f"X{number}", "/ping")
            await api.ask("GET", f"/events?eventType=type{number}&customerId=c{number}")
            await api.ask("POST", f"/usage/type{number}", json={"customerId": f"c{number}"})
        found = dict(requests(await scrape(api)))
        assert found == {
            "full other none 404": 20,
            "full other none 405": 20,
            "full GET /events 200": 20,
            "full POST /usage/{eventType} 400": 20,
        }


async def test_what_alerts_wait_for_begins_at_0() -> None:
    """Prometheus sees no increase in a counter that begins with its first one."""
    async with serving() as api:
        await api.ask("GET", "/ping")
        found = await scrape(api)
        for status in (500, 503, 507):
            assert found[f"meterd_requests_total full GET /ping {status}"] == 0
        await api.ask("GET", "/ping")
        assert (await scrape(api))["meterd_requests_total full GET /ping 200"] == 2


async def test_requests_of_the_fast_lane() -> None:
    """By route and status, those refused for their key too; the other lane's beside them."""
    async with lane(fast=True) as opened:
        await opened.exchange(
            request(EVENT) * 2,
            request(b"[]"),
            request(b"[" + ITEM + b"]", line=BATCH),
            request(EVENT, key=b"x-apikey: wrong"),
            request(EVENT, b"x-unknown: y"),
        )
        text, _ = await opened.metrics.page("")
        found = by_name(text.decode())
        assert dict(requests(found)) == {
            "plain POST /usage/{eventType} 201": 2,
            "plain POST /usage/{eventType} 422": 1,
            "plain POST /usagebatch 201": 1,
            "plain POST /usage/{eventType} 401": 1,
            "full POST /usage/{eventType} 201": 1,
        }
        for status in (500, 503, 507):
            assert found[f"meterd_requests_total plain POST /usagebatch {status}"] == 0


# -- events ---------------------------------------------------------------------------------------


async def test_events_by_what_they_were_answered() -> None:
    """One by one and in batches; of a batch that is refused those that are to blame."""
    async with serving() as api:
        item = {"eventType": "api.calls", **JSON}
        keyed = {**item, "idempotencyKey": "k"}
        other = {**keyed, "value": 2}
        for body in (JSON, {**JSON, "idempotencyKey": "k"}, {**JSON, "idempotencyKey": "k"}):
            await api.ask("POST", "/usage/api.calls", json=body)
        await api.ask("POST", "/usage/api.calls", json={"customerId": "c"})
        await api.ask("POST", "/usage/api.calls", json={**JSON, "value": 2, "idempotencyKey": "k"})
        assert await events(api) == [2, 1, 1, 1]
        await api.ask("POST", "/usagebatch", json=[item, item, keyed])
        assert await events(api) == [4, 2, 1, 1]
        await api.ask("POST", "/usagebatch", json=[item, {}, {}])
        assert await events(api) == [4, 2, 1, 3]
        await api.ask("POST", "/usagebatch", json=[item, other])
        assert await events(api) == [4, 2, 2, 3]
        lenient = {"Prefer": "handling=lenient"}
        await api.ask("POST", "/usagebatch", json=[item, other, {}, keyed], headers=lenient)
        assert await events(api) == [5, 3, 3, 4]
        await api.ask("POST", "/usagebatch", content=b"[")
        assert await events(api) == [5, 3, 3, 4]


async def events(api: Api) -> list[float]:
    found = await scrape(api)
    return [
        found[f"meterd_events_total {outcome}"]
        for outcome in ("stored", "duplicate", "conflict", "refused")
    ]


# -- the page -------------------------------------------------------------------------------------


async def test_the_format_is_that_which_is_asked_for() -> None:
    """Classic text unless OpenMetrics is; both are complete."""
    async with serving() as api:
        classic = await api.ask("GET", "/metrics")
        assert classic.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert "meterd_events_total{" in classic.text
        accept = {"Accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"}
        answer = await api.http.get("/metrics", headers=accept)
        assert answer.headers["Content-Type"].startswith("application/openmetrics-text; version=1")
        assert answer.text.endswith("# EOF\n")
        read = read_openmetrics(answer.text)  # type: ignore[no-untyped-call]
        names = {family.name for family in read}
        assert {"meterd_events", "process_resident_memory_bytes", "process_open_fds"} <= names


async def test_it_is_there_before_the_ledger_may_be_asked() -> None:
    """A long recovery is when somebody looks."""
    async with serving(started=False) as api:
        found = await scrape(api)
        assert found["meterd_ready"] == 0
        api.started.set()
        api.closer.caught_up.set()
        assert (await scrape(api))["meterd_ready"] == 1


async def test_a_full_disk_and_a_wrong_clock() -> None:
    """As the engine says."""
    async with measuring() as (api, engine):
        found = await scrape(api)
        assert (found["meterd_disk_full"], found["meterd_clock_ahead_seconds"]) == (0, 0)
        engine.is_full, engine.ahead_ms = True, 1500
        found = await scrape(api)
        assert (found["meterd_disk_full"], found["meterd_clock_ahead_seconds"]) == (1, 1.5)


# -- closing --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("later", "lag"),
    [("09:59:59", 0), ("10:04:59", 0), ("10:05:00", 0), ("10:05:01", 1), ("12:05:00", 7200)],
)
async def test_closing_lags_from_when_a_period_is_due(later: str, lag: float) -> None:
    """Its end and the grace of five minutes; nothing that runs or has its grace lags."""
    async with measuring() as (api, engine):
        hour = period_at(PeriodType.HOURLY, ms(NOW))
        engine.signs = msgspec.structs.replace(signs(), next_to_close=hour)
        api.clock.set(f"2026-03-10T{later}Z")
        assert (await scrape(api))["meterd_closing_lag_seconds"] == lag


async def test_thresholds_that_were_reached() -> None:
    """As many as their watcher has told."""
    async with measuring() as (api, _):
        api.metrics._sources.thresholds.reached = 7
        assert (await scrape(api))["meterd_thresholds_reached_total"] == 7


# -- delivery -------------------------------------------------------------------------------------


def summary(endpoint_id: str, state: EndpointState, pending: int, parked: int) -> Any:
    found = EndpointSummary(endpoint_id, state, pending, parked)
    return msgspec.structs.replace(signs(), endpoints=[found])


async def state_of(api: Api, endpoint_id: str) -> list[str]:
    return [
        name.rsplit(" ", 1)[1]
        for name, value in (await scrape(api)).items()
        if name.startswith(f"meterd_endpoint_state {endpoint_id} ") and value
    ]


@pytest.mark.parametrize(
    ("state", "webhooks", "shown"),
    [
        (EndpointState(), (BILLING,), "on"),
        (disabled(EndpointState(), BILLING.url, 1), (BILLING,), "gone"),
        (paused(EndpointState(), BILLING.url, ms(NOW) + 1), (BILLING,), "paused"),
        (paused(EndpointState(), BILLING.url, ms(NOW)), (BILLING,), "on"),
        (EndpointState(), (msgspec.structs.replace(BILLING, enabled=False),), "off"),
        (EndpointState(), (), "removed"),
    ],
)
async def test_what_keeps_an_endpoint(
    state: EndpointState, webhooks: tuple[Endpoint, ...], shown: str
) -> None:
    """By the configuration and by its own word; pending is held where nothing is sent."""
    async with measuring() as (api, engine):
        api.config = msgspec.structs.replace(CONFIG, webhooks=webhooks)
        engine.signs = summary("billing", state, 4, 2)
        assert await state_of(api, "billing") == [shown]
        found = await scrape(api)
        kind = "pending" if shown == "on" else "held"
        assert found[f"meterd_endpoint_deliveries billing {kind}"] == 4
        assert found["meterd_endpoint_deliveries billing parked"] == 2


async def test_what_was_taken_out_and_has_nothing_is_forgotten() -> None:
    """Or each that there ever was would be shown for ever."""
    async with measuring() as (api, engine):
        engine.signs = summary("former", EndpointState(), 0, 0)
        assert await state_of(api, "former") == []
        assert await state_of(api, "billing") == ["on"]


@pytest.mark.parametrize(
    ("outcome", "state"),
    [
        (Outcome("HTTP 404: Not Found", ErrorKind.STATUS, 404), "failing"),
        (Outcome("connection refused", ErrorKind.CONNECT), "down"),
        (Outcome(status=200), "on"),
    ],
)
async def test_attempts_and_the_breaker(outcome: Outcome, state: str) -> None:
    """Ten customers' first attempts, by what came of them; ten failures open the breaker."""
    async with serving() as api:
        await api.store(*(f"customer_{number}" for number in range(10)))
        await api.close_hour()
        api.posts.outcome = outcome
        async with delivering(api):
            await all_settled()
            found = await scrape(api)
            assert await state_of(api, "billing") == [state]
        name = {"failing": "4xx", "down": "connect", "on": "2xx"}[state]
        attempts = {
            key: value for key, value in found.items() if key.startswith("meterd_attempts_total")
        }
        assert attempts == {f"meterd_attempts_total billing {name}": 10}
