"""What every answer carries, whoever gives it: a lane, the framing, hypercorn, the door itself."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import h2.events
import msgspec
import pytest
import trio

from tests.edge.lane_bench import EVENT, LEFT, LIMITS, SERVED, lane, request
from tests.edge.loopback import Http2Client
from tests.edge.refused_requests import CHUNKED, REFUSED_BODIES, REFUSED_HEADS, head

if TYPE_CHECKING:
    from tests.edge.lane_bench import Lane

ALWAYS: Final = (b"cache-control: no-store", b"x-content-type-options: nosniff")
_FINAL_HEAD: Final = re.compile(rb"HTTP/1\.1 [2-5]\d\d [^\r\n]*\r\n(?:[^\r\n]+\r\n)*\r\n")
_CHUNKED_HEAD: Final = head(b"x-apikey: k", CHUNKED, line=b"POST /usage/api.calls HTTP/1.1")
REFUSED: Final = {
    **{name: raw for name, (_, raw) in REFUSED_HEADS.items()},
    **{f"body: {name}": _CHUNKED_HEAD + raw for name, (_, raw) in REFUSED_BODIES.items()},
    "a head that does not end": b"POST /usage/api.calls HTTP/1.1\r\nHost: a\r\n",
    "a body that does not end": request(EVENT)[:-1],
}
ASKED: Final = SERVED | LEFT


def heads(answered: bytes) -> list[bytes]:
    """The heads of all final answers, in small letters."""
    return [found[0].lower() for found in _FINAL_HEAD.finditer(answered)]


def assert_carried(answered: bytes) -> list[bytes]:
    found = heads(answered)
    assert found, answered
    for each in found:
        lines = each.split(b"\r\n")
        assert [lines.count(line) for line in ALWAYS] == [1, 1], each
    return found


@pytest.mark.parametrize("fast", [True, False])
async def test_every_answer_carries_them(fast: bool) -> None:
    """Once each: what is served, and what each lane refuses."""
    async with lane(fast=fast) as opened:
        for raw in ASKED.values():
            assert_carried(await opened.exchange(raw))


@pytest.mark.parametrize("fast", [True, False])
async def test_every_refusal_of_the_framing_carries_them_and_closes(fast: bool) -> None:
    """And what was sent behind a refused request is not looked at."""
    async with lane(fast=fast) as opened:
        for name, raw in REFUSED.items():
            cut_short = name.endswith("not end")
            answered = await opened.exchange(raw if cut_short else raw + request(EVENT) * 2)
            [refusal] = assert_carried(answered)
            assert b"\r\nconnection: close\r\n" in refusal, name
        assert await opened.stored() == []


async def test_a_refused_connection_is_closed_by_us() -> None:
    """Not only told so: the end comes although the client keeps its side open."""
    async with lane(fast=True) as opened:
        for raw in (REFUSED["two hosts"], REFUSED["body: extension"]):
            async with await opened.door.connect() as client:
                assert (await client.ask(raw)).fields["connection"] == "close"
                assert await client.is_closed()


async def test_who_is_turned_away_is_answered_alike() -> None:
    """For want of room nobody reads the request; and who is too slow with it is told so."""
    limits = msgspec.structs.replace(
        LIMITS, connections_per_peer_max=1, connections_max=1, head_s=0.3
    )
    async with lane(fast=True, limits=limits) as opened:
        async with await opened.door.connect() as first:
            await first.send(b"GET /ping HTTP/1.1\r\n")
            await opened.door.wait_open(1)
            await trio.testing.wait_all_tasks_blocked(0.01)
            [turned_away] = assert_carried(await opened.exchange())
            assert turned_away.startswith(b"http/1.1 503 ")
            slow = await first.answer()
        assert slow.status == 408
        assert (slow.fields["cache-control"], slow.fields["x-content-type-options"]) == (
            "no-store",
            "nosniff",
        )


async def test_answers_of_http2_carry_them() -> None:
    """Sound ones, and those whose path or method the application never sees."""
    async with lane(fast=True) as opened:
        for method, path in (
            (b"GET", b"/ping"),
            (b"GET", b"/nowhere"),
            (b"POST", b"/usage/api.calls"),
        ):
            assert await http2_fields(opened, method, path) >= {
                (b"cache-control", b"no-store"),
                (b"x-content-type-options", b"nosniff"),
            }


async def http2_fields(opened: Lane, method: bytes, path: bytes) -> set[tuple[bytes, bytes]]:
    async with await Http2Client.connect(opened.door) as client:
        await client.request(path, method)
        while await client.receive():
            for event in client.events:
                if isinstance(event, h2.events.ResponseReceived):
                    return {(bytes(name), bytes(value)) for name, value in event.headers}
        raise AssertionError("the connection ended without an answer")
