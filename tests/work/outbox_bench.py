"""Deliveries without a network, on a clock that goes with trio's."""

from __future__ import annotations

import secrets
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import trio

from meterd.domain.config import Config, EventType
from meterd.domain.endpoints import Endpoint
from meterd.domain.events import UsageEvent
from meterd.domain.operations import Operation
from meterd.domain.outcomes import Outcome
from meterd.domain.periods import HOUR_MS, PeriodType
from meterd.ledger import AggregationQuery
from meterd.work.closer import rules_of
from meterd.work.delivery import DeliveryActor
from tests.fake_clock import ms
from tests.model_ledger import ModelLedger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from meterd.domain.deliveries import Delivery

USER_AGENT = "meterd/0"
CLOSED_MS = ms("2026-03-10T10:00:00Z")
BILLING = Endpoint("billing", "http://billing.test/hook?token=t0ps3cret", ("whsec_first",))
CRM = Endpoint("crm", "http://crm.test/", ("whsec_other",))


class TrioTime:
    """The time of day goes with trio's clock, which MockClock moves."""

    def __init__(self) -> None:
        self._zero_ms = CLOSED_MS - round(trio.current_time() * 1000)

    def now_ms(self) -> int:
        return self._zero_ms + round(trio.current_time() * 1000)

    async def wait_until(self, instant_ms: int) -> None:
        await trio.sleep(max(0, instant_ms - self.now_ms()) / 1000)

    def fault(self) -> None:
        """It is as it should be."""


class Attempt(NamedTuple):
    at_ms: int
    endpoint_id: str
    url: str
    headers: dict[str, str]
    body: bytes


class Receivers:
    """All receivers: what came, and how each endpoint answers (200 unless told)."""

    def __init__(self, clock: TrioTime) -> None:
        self.attempts: list[Attempt] = []
        self.answers: dict[str, Callable[[], Awaitable[Outcome]]] = {}
        self.open: list[str] = []
        self.ever_opened: list[str] = []
        self.in_air = 0
        self._clock = clock

    @asynccontextmanager
    async def open_sender(
        self, endpoint: Endpoint, *, connections_max: int
    ) -> AsyncIterator[_Sender]:
        assert connections_max == endpoint.slots + 1, "one is for a test"
        self.open.append(endpoint.id)
        self.ever_opened.append(endpoint.id)
        try:
            yield _Sender(self, endpoint)
        finally:
            self.open.remove(endpoint.id)

    async def receive(
        self, endpoint: Endpoint, url: str, headers: dict[str, str], body: bytes
    ) -> Outcome:
        assert url == endpoint.url, "the sender was told of another endpoint"
        self.attempts.append(Attempt(self._clock.now_ms(), endpoint.id, url, headers, body))
        answer = self.answers.get(endpoint.id)
        self.in_air += 1
        try:
            await trio.lowlevel.checkpoint()
            return Outcome() if answer is None else await answer()
        finally:
            self.in_air -= 1


class _Sender:
    def __init__(self, receivers: Receivers, endpoint: Endpoint) -> None:
        self._receivers = receivers
        self._endpoint = endpoint

    def update(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    async def post(
        self, url: str, headers: Mapping[str, str], body: bytes, *, deadline_s: float
    ) -> Outcome:
        assert deadline_s == self._endpoint.deadline_ms / 1000
        return await self._receivers.receive(self._endpoint, url, dict(headers), body)


async def failing() -> Outcome:
    return Outcome("HTTP 500: Internal Server Error")


async def hanging() -> Outcome:
    await trio.sleep_forever()
    raise AssertionError


class OutboxBench:
    """A delivery actor over a model ledger; ``reload`` replaces the configuration."""

    def __init__(self, *endpoints: Endpoint) -> None:
        self.clock = TrioTime()
        self.ledger = ModelLedger(self._ledger_ms)
        self.receivers = Receivers(self.clock)
        self.config = Config(
            periods=(PeriodType.HOURLY,),
            events={"api.calls": EventType(Operation.SUM)},
            webhooks=endpoints or (BILLING,),
        )
        self.below: Callable[[int], int] = secrets.randbelow
        self._before_ms = 0
        self._actor: DeliveryActor | None = None
        self.ended = trio.Event()

    def _ledger_ms(self) -> int:
        return self.clock.now_ms() - self._before_ms

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Ends what is still in the air at the end, as a crash would."""
        actor = self._actor = DeliveryActor(
            self.ledger,
            self.clock,
            lambda: self.config,
            self.receivers.open_sender,
            USER_AGENT,
            self.below,
        )
        self.ended = trio.Event()

        async def run(*, task_status: trio.TaskStatus[None]) -> None:
            await actor.run(task_status=task_status)
            self.ended.set()

        async with trio.open_nursery() as nursery:
            await nursery.start(run)
            yield
            nursery.cancel_scope.cancel()

    def reload(self, *endpoints: Endpoint, **changes: Any) -> None:
        self.config = msgspec.structs.replace(self.config, webhooks=endpoints, **changes)
        assert self._actor is not None
        self._actor.reconfigure()

    def begin_shutdown(self) -> None:
        assert self._actor is not None
        self._actor.begin_shutdown()

    @property
    def actor(self) -> DeliveryActor:
        assert self._actor is not None
        return self._actor

    async def close_hour(self, *customers: str) -> None:
        """An hour with an event of each customer closes: a delivery of each to each endpoint."""
        await self.fill_hours(1, *customers)
        await self.close_next(*rules_of(self.config).endpoints)

    async def fill_hours(self, count: int, *customers: str) -> None:
        """The last ones have an event of each customer, and none has closed."""
        events = [UsageEvent(customer, "api.calls", Decimal(1), b"{}") for customer in customers]
        for hours in reversed(range(count)):
            self._before_ms = hours * HOUR_MS + 1
            await self.ledger.append(events)
        self._before_ms = 0

    async def close_next(self, *endpoints: str) -> None:
        """For these alone."""
        period = await self.ledger.next_to_close()
        assert period is not None
        rules = msgspec.structs.replace(rules_of(self.config), endpoints=endpoints)
        await self.ledger.close(period, rules)

    async def deliveries(self) -> list[Delivery]:
        found = await self.ledger.aggregations(AggregationQuery(), limit=1000)
        return [delivery for one in found for delivery in one.deliveries]
