"""A thousand wrong keys at a real front door, and who notices it."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Final

import trio

from tests.edge.lane_bench import EVENT, lane, request

if TYPE_CHECKING:
    from tests.edge.lane_bench import Lane

GUESSES: Final = 1000
GUESSER: Final = "127.0.0.2"
_STATUS: Final = re.compile(rb"HTTP/1\.1 (\d{3}) ")
_RETRY_AFTER: Final = re.compile(rb"\r\nretry-after: (\d+)\r\n")


async def asked(opened: Lane, host: str, *requests: bytes) -> bytes:
    """What is answered to these, sent by that address on one connection."""
    stream = await trio.open_tcp_stream("127.0.0.1", opened.door.port, local_address=host)
    answered = b""
    async with stream, trio.open_nursery() as nursery:
        nursery.start_soon(_send, stream, requests)
        while data := await stream.receive_some(65536):
            answered += data
    return answered


async def _send(stream: trio.SocketStream, requests: tuple[bytes, ...]) -> None:
    for raw in requests:
        await stream.send_all(raw)
    await stream.send_eof()


def statuses(answered: bytes) -> Counter[int]:
    return Counter(int(status) for status in _STATUS.findall(answered))


async def test_a_thousand_wrong_keys() -> None:
    """A hundred are told so, the others to wait; right keys of that address and of others are let
    in meanwhile, and a mistaken one of another address is told plainly.
    """
    guesses = [
        request(EVENT, key=b"x-apikey: guess-%d" % number)
        if number % 2
        else request(EVENT, key=b"Authorization: Bearer guess-%d" % number)
        for number in range(GUESSES)
    ]
    right, mistaken = request(EVENT), request(EVENT, key=b"x-apikey: mistyped")
    async with lane(fast=True) as opened:  # which keeps nobody waiting
        answered = b""
        for start in range(0, GUESSES, 100):
            answered += await asked(opened, GUESSER, *guesses[start : start + 100])
            assert statuses(await asked(opened, GUESSER, right)) == {201: 1}
            assert statuses(await asked(opened, "127.0.0.3", right)) == {201: 1}
        assert statuses(await asked(opened, "127.0.0.3", mistaken)) == {401: 1}
        counts = statuses(answered)
        assert counts[401] + counts[429] == GUESSES
        # One more for each second that this takes.
        assert 100 <= counts[401] < 150
        waits = [int(wait) for wait in _RETRY_AFTER.findall(answered)]
        assert len(waits) == counts[429]
        assert set(waits) == {1}
        assert len(await opened.stored()) == 2 * GUESSES // 100
