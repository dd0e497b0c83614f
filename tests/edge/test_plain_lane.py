"""The fast lane beside the other one: what it serves, what it leaves alone, the same answers."""

from __future__ import annotations

import random
import re
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import pytest
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
from tests.edge.loopback import GET, Door, open_door, wait_until
from tests.edge.refused_requests import REFUSED_HEADS
from tests.fake_clock import FakeClock
from tests.model_ledger import ModelLedger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable
    from hypercorn.typing import Scope as AsgiScope
    from trio.testing import MockClock

KEY: Final = b"x-apikey: k"
CONFIG: Final = Config(
    events={"api.calls": EventType(Operation.SUM), "a~b": EventType(Operation.MAX)},
    keys=(
        ApiKey("all", hash_of("k"), ALL_SCOPES),
        ApiKey("reader", hash_of("r"), frozenset((Scope.READ,))),
    ),
)
LIMITS: Final = Limits(body_bytes_max=256 * KIB, body_stall_s=0.3, head_s=0.3, linger_s=0.1)
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
        )
        plain = PlainLane(ingest, access, bodies, limits, self.clock.now_ms)
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
        """Sends the pieces one after another, half-closes, and reads to the end."""
        stream = await trio.open_tcp_stream("127.0.0.1", self.door.port)
        answered = b""
        async with stream:
            try:
                for piece in pieces:
                    await stream.send_all(piece)
                    await trio.lowlevel.checkpoint()
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


@pytest.mark.parametrize("name", [*SERVED, *LEFT])
async def test_both_lanes_answer_alike(name: str) -> None:
    """To the byte, and with the same events stored; the fast lane serves what is plain itself."""
    raw = {**SERVED, **LEFT}[name]
    async with lane(fast=True) as fast, lane(fast=False) as slow:
        answers = [await each.exchange(raw) for each in (fast, slow)]
        assert answers[0] == answers[1]
        assert answers[0].startswith(b"HTTP/1.1 ")
        assert await fast.stored() == await slow.stored()
        assert (not fast.by_hypercorn) == (name in SERVED)


@pytest.mark.parametrize("name", REFUSED_HEADS)
async def test_what_must_be_refused_is_refused_behind_a_plain_request(name: str) -> None:
    """The strict check stands before both lanes, also for later requests; nothing is stored."""
    status, raw = REFUSED_HEADS[name]
    addressed = raw.replace(b"/echo", b"/usagebatch")
    async with lane(fast=True) as fast:
        first, _, rest = (await fast.exchange(request(EVENT) + addressed)).partition(b"}")
        assert first.startswith(b"HTTP/1.1 201 ")
        assert rest.startswith(b"HTTP/1.1 %d " % status)
        assert rest.count(b"HTTP/1.1 ") == 1
        assert len(await fast.stored()) == 1


async def test_generated_connections_are_answered_alike() -> None:
    """Any mix of plain, foreign and odd requests, pipelined and cut anywhere, on both lanes."""
    chance = random.Random(20260310)
    whole = [*SERVED.values(), *LEFT.values()]
    async with lane(fast=True) as fast, lane(fast=False) as slow:
        for number in range(150):
            raw = bytearray(b"".join(chance.choices(whole, k=chance.randrange(1, 5))))
            for _ in range(chance.choice((0, 0, 1, 2))):
                raw[chance.randrange(len(raw))] = chance.choice(b"\0\r\n :,A0\xff")
            cuts = sorted(chance.randrange(len(raw)) for _ in range(chance.randrange(4)))
            pieces = [
                bytes(raw[start:end]) for start, end in zip([0, *cuts], [*cuts, None], strict=True)
            ]
            answers = [await each.exchange(*pieces) for each in (fast, slow)]
            assert answers[0] == answers[1], (number, pieces)
        assert await fast.stored() == await slow.stored()
        assert len(await fast.stored()) > 100
        assert len(fast.by_hypercorn) < len(slow.by_hypercorn)


async def test_answers_say_the_time_they_are_given_at() -> None:
    """However alike they are."""
    async with lane(fast=True) as fast, await fast.door.connect() as client:
        for date in ("tue, 10 mar 2026 09:58:00 gmt", "tue, 10 mar 2026 09:58:01 gmt"):
            assert (await client.ask(request(EVENT))).fields["date"] == date
            fast.clock.advance(seconds=1)


async def test_the_fast_lane_takes_a_connection_back() -> None:
    """One read on a connection that sends events does not leave it with the slow lane."""
    async with lane(fast=True) as fast, await fast.door.connect() as client:
        for _ in range(3):
            assert (await client.ask(request(EVENT))).status == 201
            assert (await client.ask(GET)).status == 200
            assert (await client.ask(request(EVENT))).status == 201
        assert fast.by_hypercorn == ["/ping"] * 3
        assert len(await fast.stored()) == 6


@pytest.mark.parametrize("fast", [True, False])
async def test_a_body_may_stall_as_long_in_either_lane(
    mock_clock: MockClock, *, fast: bool
) -> None:
    """What was waited in one is not granted again by the other."""
    limits = Limits(body_stall_s=10)
    async with lane(fast=fast, limits=limits) as opened, await opened.door.connect() as client:
        await client.send(request(EVENT)[:-1])
        await wait_all_tasks_blocked(0.05)
        mock_clock.jump(9.9)
        await wait_all_tasks_blocked(0.05)
        assert opened.by_hypercorn == ([] if fast else ["/usage/api.calls"])
        mock_clock.jump(1.1)  # in one lane a sweep finds it, a second late at the most
        assert (await client.answer()).status == 408


async def test_a_body_that_drips_is_read_once_a_second(mock_clock: MockClock) -> None:
    """And is answered when it is whole."""
    whole = request(EVENT)
    async with lane(fast=True, limits=Limits()) as fast, await fast.door.connect() as client:
        for end in range(-7, -1):
            await client.send(whole[:-7] if end == -7 else whole[end - 1 : end])
            await wait_all_tasks_blocked(0.05)
        await client.send(whole[-2:])
        await wait_all_tasks_blocked(0.05)
        assert await fast.stored() == []
        mock_clock.jump(1.0)
        assert (await client.answer()).status == 201
        assert fast.by_hypercorn == []


class Turns(trio.abc.Instrument):
    """How many connections had a turn between two looks at who has sent something, at most."""

    def __init__(self) -> None:
        self.most = self._now = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._now += task.name.endswith("._handle")
        self.most = max(self.most, self._now)

    def before_io_wait(self, _timeout: float) -> None:
        self._now = 0


async def test_many_that_are_overdue_at_once_end_a_few_at_a_time(mock_clock: MockClock) -> None:
    """Whoever opened them all at once does not keep the others waiting when they end."""
    limits = Limits()
    async with lane(fast=True, limits=limits) as fast, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(await fast.door.connect()) for _ in range(40)]
        await wait_all_tasks_blocked(0.05)
        turns = Turns()
        trio.lowlevel.add_instrument(turns)
        mock_clock.jump(limits.keep_alive_s + 2)
        for client in clients:
            assert await client.is_closed()
        trio.lowlevel.remove_instrument(turns)
        assert 0 < turns.most <= 16


async def test_a_body_that_stops_coming_is_given_up() -> None:
    """The other lane answers 408, once, and closes; nothing is stored."""
    async with lane(fast=True) as fast, await fast.door.connect() as client:
        await client.send(request(EVENT)[:-1])
        assert (await client.answer()).status == 408
        assert await client.is_closed()
        assert await fast.stored() == []


async def test_a_client_that_leaves_amid_a_body_stores_nothing() -> None:
    """Half a request is none."""
    async with lane(fast=True) as fast:
        answered = await fast.exchange(request(EVENT)[:-1])
        assert answered.startswith(b"HTTP/1.1 400 ")
        assert await fast.stored() == []


async def test_a_large_answer_to_a_slow_reader_arrives_whole() -> None:
    """What the socket does not take at once is sent as it goes on reading."""
    items = b"[" + b",".join([b'{"eventType":"%b"}' % (b"x" * 200)] * 1000) + b"]"
    async with (
        lane(fast=True) as fast,
        await fast.door.connect() as client,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(client.send, request(items, line=BATCH) * 20)
        await wait_all_tasks_blocked()
        for _ in range(20):
            answer = await client.answer()
            assert answer.status == 422
            assert answer.json["invalidCount"] == 1000


async def test_shutdown_ends_idle_connections_and_answers_what_arrived() -> None:
    """An idle one at once; one whose body is on its way when it is whole."""
    async with lane(fast=True) as fast:
        async with await fast.door.connect() as idle, await fast.door.connect() as busy:
            assert (await idle.ask(request(EVENT))).status == 201
            await busy.send(request(EVENT)[:-5])
            await wait_until(lambda: fast.door.door.statistics().idle == 1)
            fast.door.door.begin_shutdown()
            assert await idle.is_closed()
            assert (await busy.ask(request(EVENT)[-5:])).status == 201
            assert await busy.is_closed()
        await fast.door.ended.wait()
        assert len(await fast.stored()) == 2


async def test_an_idle_connection_ends_when_its_time_is_over() -> None:
    """Also one that never said anything."""
    limits = Limits(keep_alive_s=0.05)
    opened = Lane(fast=True, limits=limits)
    async with open_door(opened.app, limits, opened.plain) as door:
        async with await door.connect() as silent, await door.connect() as client:
            assert (await client.ask(request(EVENT))).status == 201
            assert await client.is_closed()
            assert await silent.is_closed()
        await door.wait_open(0)


async def test_a_connection_is_idle_after_either_lane() -> None:
    """What hypercorn served last neither holds up a shutdown nor takes an honest client's place."""
    async with (
        lane(fast=True) as fast,
        await fast.door.connect() as reading,
        await fast.door.connect() as sending,
    ):
        assert (await reading.ask(GET)).status == 200
        assert (await sending.ask(request(EVENT))).status == 201
        await wait_until(lambda: fast.door.door.statistics().idle == 2)
        fast.door.door.begin_shutdown()
        assert await reading.is_closed()
        assert await sending.is_closed()


async def test_a_refusal_is_said_also_behind_large_answers() -> None:
    """An answer that did not fit into the socket at once is over when it is sent."""
    items = b"[" + b",".join([b'{"eventType":"%b"}' % (b"x" * 200)] * 1000) + b"]"
    bad = b"GET / HTTP/9.9\r\nHost: a\r\n\r\n"
    async with (
        lane(fast=True) as fast,
        await fast.door.connect() as client,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(client.send, request(items, line=BATCH) * 20 + bad)
        await wait_all_tasks_blocked()
        for _ in range(20):
            assert (await client.answer()).status == 422
        assert (await client.answer()).status == 400


async def test_a_mistake_of_ours_costs_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """500, as in the other lane, and the connection goes on."""

    async def mistaken(_: object) -> None:
        raise AssertionError("our own mistake")

    async with lane(fast=True) as fast, await fast.door.connect() as client:
        with monkeypatch.context() as patch:
            patch.setattr(fast.ledger, "append", mistaken)
            assert (await client.ask(request(EVENT))).json == {"error": "Internal server error"}
        assert (await client.ask(request(EVENT))).status == 201


@pytest.mark.parametrize("fast", [True, False])
async def test_bodies_are_bounded_together(*, fast: bool) -> None:
    """Past the bound 503 with Retry-After; room is there again when an answer is given."""
    limits = Limits(body_bytes_max=256 * KIB, bodies_bytes_max=256 * KIB)
    large = request(b"[" + b",".join([ITEM] * 1000 + [b" " * 190_000]) + b"]", line=BATCH)
    async with (
        lane(fast=fast, limits=limits) as opened,
        await opened.door.connect() as slow,
        await opened.door.connect() as other,
    ):
        await slow.send(large[:-1])
        await wait_all_tasks_blocked()
        refused = await other.ask(large)
        assert (refused.status, refused.fields["retry-after"]) == (503, "1")
        assert (await slow.ask(large[-1:])).status == 400
        assert (await slow.ask(large)).status == 400
