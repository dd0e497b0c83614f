"""Counts what an HTTP/2 client sends that asks for nothing, decided without I/O.

Requests are bounded by how many streams may be open at once. What else a client can send costs it
nine bytes and us a turn of the parser, often with an answer: PING, SETTINGS, PRIORITY, streams that
are reset as soon as they are opened (CVE-2023-44487), CONTINUATION and tiny pieces of DATA without
end (CVE-2019-9512 to 9518, CVE-2024-27316). So each such frame is paid for from an allowance, which
grows with time, with each request and its answer, and with what the client was sent: an honest
client opens windows for what it receives and ends what it asks for.

Tried with Chromium 156, curl 7.88, httpx 0.28, nghttp and h2load 1.52: a thousand requests, answers
of 18 MB, fifty downloads broken off. Only a window of 1 KiB (``h2load -w 10``) is too restless.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from meterd.edge.framing import HTTP2_PREFACE
from meterd.edge.limits import KIB

if TYPE_CHECKING:
    from collections.abc import Iterator

# RFC 9113, section 4.1: three bytes of length, one of type, one of flags, four of stream.
_HEADER_BYTES: Final = 9
_DATA: Final = 0
_HEADERS: Final = 1
_RST_STREAM: Final = 3
_END_STREAM: Final = 1
# Of a piece of DATA that is worth its turn; shorter ones are paid for unless they are the last.
_PIECE_BYTES: Final = 1 * KIB

_ALLOWANCE: Final = 200.0
_GROWS_PER_S: Final = 10.0
# One in front of the body, one behind it: what an honest client sends with a request.
_GROWS_PER_REQUEST: Final = 2.0
# Two windows are opened for a frame of at most 16 KiB, and for short frames as well.
_GROWS_PER_BYTE_SENT: Final = 1 / KIB
# Some clients reset each stream when it is over (curl 7.88 does): that costs nothing.
_GROWS_PER_ANSWER: Final = 1.0
# Undoes what the request gave, and one more.
_RESET_COSTS: Final = 3.0

# Each takes the parser 0.1 ms or more, and all others wait meanwhile.
_REQUESTS_AT_ONCE: Final = 4

# RFC 9113, sections 6.8 and 7: streams up to any number may have been served; ENHANCE_YOUR_CALM.
GOAWAY: Final = b"\0\0\x08\x07\0\0\0\0\0" + b"\x7f\xff\xff\xff" + b"\0\0\0\x0b"


class _Frames:
    """Finds the frames in one direction's bytes, wherever these are cut."""

    def __init__(self, passing: int) -> None:
        self._passing = passing  # bytes until the next frame begins
        self._header = b""

    def begun(self, data: bytes) -> Iterator[tuple[bytes, int, int]]:
        """The header of each that begins in the bytes that come next, its length, and where the
        header ends. Who stops there gives what is behind it with the next bytes.
        """
        at = 0
        while True:
            passed = min(self._passing, len(data) - at)
            at += passed
            self._passing -= passed
            if self._passing:
                return
            missing = _HEADER_BYTES - len(self._header)
            self._header += data[at : at + missing]
            at += missing
            if len(self._header) < _HEADER_BYTES:
                return
            header, self._header = self._header, b""
            self._passing = int.from_bytes(header[:3], "big")
            yield header, self._passing, at


class FrameAllowance:
    """One connection's, from its preface on. Instants are seconds that do not go back."""

    def __init__(self, now_s: float) -> None:
        self._left = _ALLOWANCE
        self._at_s = now_s
        self._received = _Frames(len(HTTP2_PREFACE))
        self._sent = _Frames(0)

    def earn(self, data: bytes) -> None:
        """By what is sent to the client."""
        earned = len(data) * _GROWS_PER_BYTE_SENT
        for header, _, _ in self._sent.begun(data):
            if header[3] in (_DATA, _HEADERS) and header[4] & _END_STREAM:
                earned += _GROWS_PER_ANSWER
        self._left = min(_ALLOWANCE, self._left + earned)

    def covers(self, data: bytes, now_s: float) -> bool:
        """Pays for the frames that begin in the bytes that came next; False if it cannot."""
        self._left = min(_ALLOWANCE, self._left + (now_s - self._at_s) * _GROWS_PER_S)
        self._at_s = now_s
        for header, length, _ in self._received.begun(data):
            self._left = min(_ALLOWANCE, self._left - _cost(header, length))
            if self._left < 0:
                return False
        return True


class Portions:
    """Cuts what one connection's client sends, from its preface on, where it asks for much."""

    def __init__(self) -> None:
        self._rest = b""
        self._frames = _Frames(len(HTTP2_PREFACE))

    def add(self, data: bytes) -> None:
        self._rest += data

    def next(self) -> bytes:
        """What has come next, with no more requests than are worth one turn; empty: all passed."""
        requests, end = 0, len(self._rest)
        for header, _, header_end in self._frames.begun(self._rest):
            requests += header[3] == _HEADERS
            if requests == _REQUESTS_AT_ONCE:
                end = header_end
                break
        portion, self._rest = self._rest[:end], self._rest[end:]
        return portion


def _cost(header: bytes, length: int) -> float:
    kind, flags = header[3], header[4]
    if kind == _HEADERS:
        return -_GROWS_PER_REQUEST
    if kind == _RST_STREAM:
        return _RESET_COSTS
    if kind == _DATA and (length >= _PIECE_BYTES or flags & _END_STREAM):
        return 0.0
    return 1.0
