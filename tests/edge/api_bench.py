"""The whole API on a loopback port, over a ledger in memory and a clock that tests set."""

from __future__ import annotations

from contextlib import asynccontextmanager
from decimal import Decimal
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, Self

import httpx
import trio
from trio.testing import wait_all_tasks_blocked

from meterd.domain.config import Config, EventType
from meterd.domain.credentials import ALL_SCOPES, ApiKey, Keyring, Scope, hash_of
from meterd.domain.endpoints import Endpoint
from meterd.domain.events import UsageEvent
from meterd.domain.operations import Operation
from meterd.domain.outcomes import Outcome
from meterd.domain.periods import PeriodType
from meterd.edge.access import Access
from meterd.edge.api import make_app
from meterd.edge.ingest import Ingest
from meterd.edge.limits import KIB, BodyBudget, Limits
from meterd.edge.peers import WrongKeys
from meterd.edge.readiness import Readiness
from meterd.edge.spare_time import Answers
from meterd.work.closer import Closer
from meterd.work.delivery import DeliveryActor
from tests.edge.loopback import open_door
from tests.edge.measured import metrics_over
from tests.edge.receivers import TRUSTING_NOBODY
from tests.fake_clock import FakeClock
from tests.model_ledger import ModelLedger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from quart_trio import QuartTrio

    from tests.edge.loopback import Client, Door

NOW: Final = "2026-03-10T09:58:00Z"
BODY_BYTES_MAX: Final = 300 * KIB
LIMITS: Final = Limits(body_bytes_max=BODY_BYTES_MAX)
# One key for each scope, named after it, and one for all.
KEYS: Final = {scope.value: frozenset((scope,)) for scope in Scope} | {"all": ALL_SCOPES}
CONFIG: Final = Config(
    periods=(PeriodType.HOURLY, PeriodType.DAILY),
    events={
        "api.calls": EventType(Operation.SUM, "Calls"),
        "a/b": EventType(Operation.MAX),
        "é": EventType(Operation.LAST),
    },
    webhooks=(Endpoint("billing", "http://b.test/?token=t0ps3cret", ("whsec_of_some_length",)),),
    keys=tuple(ApiKey(name, hash_of(f"key-{name}"), scopes) for name, scopes in KEYS.items()),
)

# Every route that needs a key, and the scope of that.
GUARDED: Final = [
    ("POST", "/usage/api.calls", "ingest"),
    ("POST", "/usagebatch", "ingest"),
    ("GET", "/config", "read"),
    ("GET", "/events", "read"),
    ("POST", "/events/0197f3c0-0000-7000-8000-000000000000/void", "admin"),
    ("GET", "/aggregations", "read"),
    ("POST", "/aggregations/trigger", "admin"),
    ("GET", "/customers", "read"),
    ("GET", "/customers/c/usage", "read"),
    ("GET", "/usage?customerId=c", "read"),
    ("GET", "/deliveries", "read"),
    ("GET", "/deliveries/msg_0", "read"),
    ("POST", "/deliveries/msg_0/retry", "admin"),
    ("POST", "/deliveries/replay", "admin"),
    ("GET", "/webhooks", "read"),
    ("GET", "/metrics", "metrics"),
    ("POST", "/webhooks/billing/test", "admin"),
    ("POST", "/webhooks/billing/enable", "admin"),
]


class Posts:
    """The senders of all endpoints: what was sent, answered with ``outcome``."""

    def __init__(self) -> None:
        self.outcome = Outcome(status=200)
        self.sent: list[tuple[str, bytes]] = []

    @asynccontextmanager
    async def open_sender(self, endpoint: Endpoint, *, connections_max: int) -> AsyncIterator[Self]:
        assert connections_max > endpoint.slots
        yield self

    def update(self, endpoint: Endpoint) -> None:
        """See ``Sender``."""

    async def post(
        self, url: str, headers: Mapping[str, str], body: bytes, *, deadline_s: float
    ) -> Outcome:
        assert deadline_s
        await trio.lowlevel.checkpoint()
        self.sent.append((headers["webhook-id"], body))
        assert "t0ps3cret" in url
        return self.outcome


class Api:
    """``http`` has the key of all scopes; ``config`` may be replaced; nothing closes by itself."""

    def __init__(self, ledger: ModelLedger | None) -> None:
        self.config = CONFIG
        self.clock = FakeClock(NOW)
        self.ledger = ledger or ModelLedger(self.clock.now_ms)
        self.closer = Closer(self.ledger, self.clock, lambda: self.config)
        self.posts = Posts()
        self.delivery = DeliveryActor(
            self.ledger, self.clock, lambda: self.config, self.posts.open_sender, "meterd/0"
        )
        self.started = trio.Event()
        self.is_full = False
        self.ahead_ms = 0
        self.clock_fault: str | None = None
        self.readiness = Readiness(
            self.started,
            self.closer.caught_up,
            lambda: self.is_full,
            lambda: self.ahead_ms,
            lambda: self.clock_fault,
        )
        self.ingest = Ingest(self.ledger, lambda: self.config, self.readiness)
        self.metrics = metrics_over(
            lambda: self.config,
            self.clock,
            self.readiness,
            self.delivery,
            events=self.ingest.counts,
        )
        self.app: QuartTrio
        self.http: httpx.AsyncClient
        self.door: Door

    async def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Any request; what every answer carries is checked."""
        answer = await self.http.request(method, path, **options)
        kind = answer.headers["Content-Type"]
        is_page = path == "/metrics" and answer.status_code == HTTPStatus.OK
        assert kind.startswith("text/plain") if is_page else kind == "application/json"
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "Server" not in answer.headers
        return answer

    async def raw(self, request_line: str, *fields: str, body: bytes = b"") -> tuple[int, Any]:
        """Status and content of an answer to a request whose path is sent as it stands."""
        head = [
            f"{request_line} HTTP/1.1",
            "Host: a",
            "x-apikey: key-all",
            f"Content-Length: {len(body)}",
            *fields,
        ]
        client: Client
        async with await self.door.connect() as client:
            given = await client.ask("\r\n".join([*head, "", ""]).encode() + body)
            return given.status, given.json

    async def store(self, *customers: str, event_type: str = "api.calls") -> None:
        await self.ledger.append(
            [
                UsageEvent(customer, event_type, Decimal(value), b"{}")
                for value, customer in enumerate(customers)
            ]
        )

    async def close_hour(self) -> None:
        """Time goes on to the next hour, and the last one closes."""
        self.clock.advance(hours=1)
        await self.closer.trigger()


@asynccontextmanager
async def serving(ledger: ModelLedger | None = None, *, started: bool = True) -> AsyncIterator[Api]:
    api = Api(ledger)
    if started:
        api.started.set()
    api.app = make_app(
        Access(lambda: Keyring(api.config.keys), WrongKeys(LIMITS), trio.current_time),
        lambda: api.config,
        api.ingest,
        api.ledger,
        api.closer,
        api.delivery,
        api.clock,
        api.readiness,
        BodyBudget(LIMITS.bodies_bytes_max),
        LIMITS,
        api.metrics,
        Answers(),
    )
    async with open_door(api.app) as api.door:
        address = f"http://127.0.0.1:{api.door.port}"
        async with httpx.AsyncClient(
            base_url=address, headers={"x-apikey": "key-all"}, verify=TRUSTING_NOBODY
        ) as api.http:
            yield api


@asynccontextmanager
async def delivering(api: Api) -> AsyncIterator[None]:
    """Deliveries are sent within, and those that are due when it begins have been."""
    async with trio.open_nursery() as nursery:
        await nursery.start(api.delivery.run)
        await all_settled()
        yield
        nursery.cancel_scope.cancel()


async def all_settled() -> None:
    """Nothing has happened for longer than what is settled together is gathered."""
    await wait_all_tasks_blocked(0.05)


async def catch_up(api: Api, nursery: trio.Nursery) -> None:
    """Starts the closer, and returns when it has nothing left to do."""
    nursery.start_soon(api.closer.run)
    await wait_all_tasks_blocked()


def error_of(answer: httpx.Response) -> tuple[int, Any]:
    content = answer.json()
    assert list(content) == ["error"], content
    return answer.status_code, content["error"]
