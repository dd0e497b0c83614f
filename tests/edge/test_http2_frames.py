"""What an HTTP/2 client may send that asks for nothing, and what an honest one sends."""

from __future__ import annotations

from typing import Final

import pytest

from meterd.edge.framing import HTTP2_PREFACE
from meterd.edge.http2_frames import FrameAllowance, Portions


def frame(kind: int, payload: bytes = b"", *, flags: int = 0, stream: int = 1) -> bytes:
    return (
        len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload
    )


DATA: Final = 0
HEADERS: Final = frame(1, bytes(30), flags=4)
PRIORITY: Final = frame(2, bytes(5))
RESET: Final = frame(3, bytes(4))
SETTINGS: Final = frame(4, stream=0)
PING: Final = frame(6, bytes(8), stream=0)
WINDOW: Final = frame(8, bytes(4))
CONTINUATION: Final = frame(9, b"x")

FLOODS: Final = {
    "ping": PING,
    "settings": SETTINGS,
    "priority": PRIORITY,
    "windows": WINDOW,
    "continuation": CONTINUATION,
    "rapid reset": HEADERS + RESET,
    "empty data": frame(DATA),
    "single bytes": frame(DATA, b"x"),
    "unknown": frame(200, bytes(100)),
}
HONEST: Final = {
    "requests": HEADERS,
    "small bodies": HEADERS + frame(DATA, bytes(100), flags=1),
    "an end of its own": HEADERS + frame(DATA, bytes(100)) + frame(DATA, flags=1),
    "large bodies": HEADERS + frame(DATA, bytes(16384)) * 64 + frame(DATA, flags=1),
}


def covered(flood: bytes, count: int, piece: int, now_s: float = 0.0) -> int:
    """How many bytes pass at one instant, cut into pieces, of so many repetitions."""
    allowance = FrameAllowance(now_s)
    data = HTTP2_PREFACE + flood * count
    passed = 0
    for start in range(0, len(data), piece):
        if not allowance.covers(data[start : start + piece], now_s):
            return passed
        passed += len(data[start : start + piece])
    return passed


@pytest.mark.parametrize("piece", [1, 7, 9, 64, 1000])
@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_is_stopped(name: str, piece: int) -> None:
    """Behind two hundred frames and a piece, wherever the network cuts them."""
    flood = FLOODS[name]
    passed = covered(flood, 1000, piece)
    assert passed < len(HTTP2_PREFACE) + 202 * len(flood) + piece
    assert passed > 190 * len(flood) - piece


@pytest.mark.parametrize("name", HONEST)
def test_requests_pay_for_themselves(name: str) -> None:
    """However many at one instant: how many may be open is another limit."""
    asked = HONEST[name]
    assert covered(asked, 300, 65536) == len(HTTP2_PREFACE) + 300 * len(asked)


def test_windows_are_opened_for_what_was_sent() -> None:
    """Two for each frame of a large answer."""
    allowance = FrameAllowance(0)
    assert allowance.covers(HTTP2_PREFACE, 0)
    for _ in range(10_000):
        allowance.earn(frame(DATA, bytes(16384)))
        assert allowance.covers(WINDOW * 2, 0)


@pytest.mark.parametrize("piece", [1, 7, 9, 64, 1000])
@pytest.mark.parametrize("end", [frame(1, bytes(20), flags=5), frame(DATA, b"{}", flags=1)])
def test_streams_that_were_answered_may_be_reset(end: bytes, piece: int) -> None:
    """As curl does with each, however many; wherever what is sent is cut."""
    allowance = FrameAllowance(0)
    assert allowance.covers(HTTP2_PREFACE, 0)
    for _ in range(1000):
        assert allowance.covers(HEADERS, 0)
        sent = frame(1, bytes(20), flags=4) + end
        for start in range(0, len(sent), piece):
            allowance.earn(sent[start : start + piece])
        assert allowance.covers(RESET, 0)


def test_an_answer_that_was_begun_pays_for_no_reset() -> None:
    """Nor settings, nor what else is sent."""
    allowance = FrameAllowance(0)
    assert allowance.covers(HTTP2_PREFACE, 0)
    answered = 0
    while allowance.covers(HEADERS, 0) and allowance.covers(RESET, 0):
        allowance.earn(frame(4, flags=1, stream=0) + frame(1, flags=4))
        answered += 1
    assert answered < 250


def test_it_grows_with_time() -> None:
    """Ten pings a second for ever, not eleven."""
    allowance = FrameAllowance(0)
    assert allowance.covers(HTTP2_PREFACE, 0)
    assert all(allowance.covers(PING * 10, second) for second in range(1, 1000))
    assert not all(allowance.covers(PING * 11, second) for second in range(1001, 1400))


@pytest.mark.parametrize("piece", [1, 7, 9, 64, 65536])
def test_portions_hold_few_requests_and_all_bytes(piece: int) -> None:
    """Wherever the network cuts them: four heads at most begin in one."""
    data = HTTP2_PREFACE + SETTINGS + (HEADERS + frame(DATA, bytes(100), flags=1)) * 50
    portions = Portions()
    passed: list[bytes] = []
    for start in range(0, len(data), piece):
        portions.add(data[start : start + piece])
        while portion := portions.next():
            passed.append(portion)
    assert b"".join(passed) == data
    assert max(portion.count(HEADERS[:9]) for portion in passed) <= 4
    if piece == 65536:
        assert len(passed) == 13


def test_portions_are_no_shorter_than_what_came() -> None:
    """Of what asks for nothing, and of bodies."""
    portions = Portions()
    data = HTTP2_PREFACE + HEADERS + frame(DATA, bytes(16384)) * 3
    portions.add(data)
    assert portions.next() == data
    assert portions.next() == b""
