"""A front door whose plain lane is on or off, over a model of a ledger."""

from __future__ import annotations

import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import trio
from trio.testing import wait_all_tasks_blocked

from meterd.domain.config import Config, EventType
from meterd.domain.credentials import ALL_SCOPES, ApiKey, Keyring, Scope, hash_of
from meterd.domain.operations import Operation
from meterd.edge.access import Access
from meterd.edge.api import make_app
from meterd.edge.ingest import Ingest
from meterd.edge.limits import KIB, BodyBudget, Limits
from meterd.edge.peers import WrongKeys
from meterd.edge.plain_lane import PlainLane
from meterd.edge.readiness import Readiness
from meterd.ledger import EventQuery
from meterd.work.closer import Closer
from meterd.work.delivery import DeliveryActor
from tests.edge.api_bench import Posts
from tests.edge.loopback import GET, REQUESTS, Door, open_door
from tests.edge.measured import metrics_over
from tests.fake_clock import FakeClock
from tests.model_ledger import ModelLedger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable
    from hypercorn.typing import Scope as AsgiScope

KEY: Final = b"x-apikey: k"
CONFIG: Final = Config(
    events={"api.calls": EventType(Operation.SUM), "a~b": EventType(Operation.MAX)},
    keys=(
        ApiKey("all", hash_of("k"), ALL_SCOPES),
        ApiKey("reader", hash_of("r"), frozenset((Scope.READ,))),
    ),
)
# As patient as the daemon: a busy machine may hold up a client of these tests for a second.
LIMITS: Final = Limits(body_bytes_max=256 * KIB, linger_s=0.1)
EVENT: Final = b'{"customerId":"c","value":1}'


class Lane:
    """A front door over a ledger of its own; ``by_hypercorn`` are the paths that got that far."""

    def __init__(self, *, fast: bool, limits: Limits) -> None:
        self.clock = FakeClock("2026-03-10T09:58:00Z")
        self.ledger = ModelLedger(self.clock.now_ms)
        self.by_hypercorn: list[str] = []
        self.started = trio.Event()
        self.started.set()
        self.readiness = Readiness(self.started, self.started, lambda: False)
        self.door: Door
        access = Access(lambda: Keyring(CONFIG.keys), WrongKeys(limits), trio.current_time)
        bodies = BodyBudget(limits.bodies_bytes_max)
        ingest = Ingest(self.ledger, lambda: CONFIG, self.readiness)
        closer = Closer(self.ledger, self.clock, lambda: CONFIG)
        delivery = DeliveryActor(
            self.ledger, self.clock, lambda: CONFIG, Posts().open_sender, "meterd/0"
        )
        plain = PlainLane(ingest, access, bodies, limits, self.clock.now_ms, REQUESTS)
        self.metrics = metrics_over(
            lambda: CONFIG,
            self.clock,
            self.readiness,
            delivery,
            events=ingest.counts,
            plain_requests=plain.requests,
        )
        self._app: Any = make_app(
            access,
            lambda: CONFIG,
            ingest,
            self.ledger,
            closer,
            delivery,
            self.clock,
            self.readiness,
            bodies,
            limits,
            self.metrics,
            plain.answers,
        )
        self.plain = plain if fast else None

    async def app(
        self, scope: AsgiScope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        if scope["type"] == "http":
            self.by_hypercorn.append(scope["path"])
        await self._app(scope, receive, send)

    async def stored(self) -> list[tuple[str, str, str, bytes]]:
        found = await self.ledger.events(EventQuery(), limit=10_000)
        return [
            (one.event.customer_id, one.event.event_type, str(one.event.value), one.event.metadata)
            for one in found
        ]

    async def exchange(self, *pieces: bytes) -> bytes:
        """Sends the pieces one after another, half-closes, and reads to the end.

        What came of one is over when the next is sent: who is refused before its body has come is
        also told that the connection ends.
        """
        stream = await trio.open_tcp_stream("127.0.0.1", self.door.port)
        answered = b""
        async with stream:
            try:
                for piece in pieces:
                    await stream.send_all(piece)
                    await wait_all_tasks_blocked()
                await stream.send_eof()
            except trio.BrokenResourceError:
                pass  # refused before everything was sent
            try:
                while data := await stream.receive_some(65536):
                    answered += data
            except trio.BrokenResourceError:
                pass
        return re.sub(rb"\r\ndate: [^\r]*", b"", answered)


@asynccontextmanager
async def lane(*, fast: bool, limits: Limits = LIMITS) -> AsyncIterator[Lane]:
    opened = Lane(fast=fast, limits=limits)
    async with open_door(opened.app, limits, opened.plain) as opened.door:
        yield opened


def request(
    body: bytes, *fields: bytes, line: bytes = b"POST /usage/api.calls HTTP/1.1", key: bytes = KEY
) -> bytes:
    head = [line, b"Host: a", key, b"Content-Length: %d" % len(body), *fields]
    return b"\r\n".join([*head, b"", body])


BATCH: Final = b"POST /usagebatch HTTP/1.1"
ITEM: Final = b'{"eventType":"api.calls","customerId":"c","value":2}'

SERVED: Final = {
    "an event": request(EVENT),
    "an event with metadata": request(b'{"customerId":"c","value":0.1,"metadata":{"a": [1e5]}}'),
    "another type": request(EVENT, line=b"POST /usage/a~b HTTP/1.1"),
    "a bearer key": request(EVENT, key=b"Authorization: Bearer k"),
    "a batch": request(b"[" + ITEM + b"]", line=BATCH),
    "a lenient batch": request(b"[" + ITEM + b",5]", b"Prefer: handling=lenient", line=BATCH),
    "a faulty batch": request(b"[" + ITEM + b",5]", line=BATCH),
    "no body": request(b""),
    "not JSON": request(b"{"),
    "field errors": request(b'{"customerId":7}'),
    "an unknown type": request(EVENT, line=b"POST /usage/nope HTTP/1.1"),
    "a large body": request(b"[" + b",".join([ITEM] * 1000) + b"]", line=BATCH),
    "too many": request(b"[" + b",".join([b"1"] * 1001) + b"]", line=BATCH),
    "an idempotency key": request(EVENT, b"Idempotency-Key: k1") * 2,
    "a conflicting one": request(EVENT, b"Idempotency-Key: k1")
    + request(b'{"customerId":"c","value":9}', b'idempotency-key: "k1"'),
    "a batch's idempotency key": request(
        b"[" + ITEM + b"," + ITEM + b"]", b"Idempotency-Key: b", line=BATCH
    )
    * 2,
    "no key": request(EVENT, key=b"Accept: */*"),
    "a wrong key": request(EVENT, key=b"x-apikey: no"),
    "a key without the scope": request(EVENT, key=b"x-apikey: r"),
    "a wrong key, then a right one": request(EVENT, key=b"x-apikey: no") + request(EVENT),
    "too long an idempotency key": request(EVENT, b"Idempotency-Key: " + b"k" * 256),
}
LEFT: Final = {
    "a wrong key and no end": request(EVENT, key=b"x-apikey: no")[:-1],
    "percent-encoded": request(EVENT, line=b"POST /usage/api%2Ecalls HTTP/1.1"),
    "a path below": request(EVENT, line=b"POST /usage/api.calls/x HTTP/1.1"),
    "a doubled slash": request(EVENT, line=b"POST //usage/api.calls HTTP/1.1"),
    "absolute form": request(EVENT, line=b"POST http://a/usage/api.calls HTTP/1.1"),
    "a query": request(EVENT, line=b"POST /usage/api.calls?a=b HTTP/1.1"),
    "HTTP/1.0": request(EVENT, line=b"POST /usage/api.calls HTTP/1.0"),
    "connection close": request(EVENT, b"Connection: close"),
    "an unknown field": request(EVENT, b"X-Odd: 1"),
    "expect": request(EVENT, b"Expect: 100-continue"),
    "another method": request(EVENT, line=b"PUT /usage/api.calls HTTP/1.1"),
    "two idempotency keys": request(EVENT, b"Idempotency-Key: a", b"Idempotency-Key: a"),
    "no idempotency key": request(EVENT, b"Idempotency-Key:"),
    "an idempotency key beyond ASCII": request(EVENT, "Idempotency-Key: café".encode()),
    "a read": GET,
    "chunked": b"POST /usage/api.calls HTTP/1.1\r\nHost: a\r\nx-apikey: k\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n1c\r\n" + EVENT + b"\r\n0\r\n\r\n",
}
