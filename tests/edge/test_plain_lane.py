"""The fast lane beside the other one: what it serves, what it leaves alone, the same answers."""

from __future__ import annotations

import random

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from meterd.edge.limits import KIB, Limits
from tests.edge.lane_bench import (
    BATCH,
    EVENT,
    ITEM,
    LEFT,
    SERVED,
    lane,
    request,
)
from tests.edge.loopback import GET, wait_until
from tests.edge.refused_requests import REFUSED_HEADS


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
