"""A client's connection, kept alive while it lasts: plain bytes, so nothing repeats by itself."""

from __future__ import annotations

import socket
from typing import Any, Final

import msgspec

from tests.daemon_process import KEY

# Longer than anything here takes: who waits so long was forgotten.
ANSWER_S: Final = 20.0
FORMS: Final = ("plain", "plain", "expect", "chunked")
_HEAD: Final = "POST {path} HTTP/1.1\r\nHost: localhost\r\nx-apikey: {key}\r\n{more}\r\n"


class Answer(msgspec.Struct, frozen=True):
    """``retry_after`` is what it says of when to come again, in seconds."""

    status: int
    body: Any
    retry_after: int | None = None


class Connection:
    """``form``: ``plain`` is for the plain lane, ``expect`` and ``chunked`` are hypercorn's."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=ANSWER_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._rest = b""
        self.is_open = True

    def post(self, path: str, body: bytes, *, form: str, fields: str = "") -> Answer:
        """Raises OSError where no answer comes, or not all of it."""
        head, body = _request(path, body, form, fields)
        self._socket.sendall(head if form == "expect" else head + body)
        answer = self._answer()
        if answer.status == 100:
            self._socket.sendall(body)
            answer = self._answer()
        return answer

    def post_and_leave(self, path: str, body: bytes, *, form: str, fields: str = "") -> None:
        """As a client that has no patience; what comes of it, it never hears."""
        self._socket.sendall(b"".join(_request(path, body, form, fields)))
        self.close()

    def close(self) -> None:
        self.is_open = False
        self._socket.close()

    def _answer(self) -> Answer:
        while b"\r\n\r\n" not in self._rest:
            self._receive()
        head, _, self._rest = self._rest.partition(b"\r\n\r\n")
        status = int(head.split(b" ", 2)[1])
        if status == 100:
            return Answer(status, {})
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        length = int(fields[b"content-length"])
        while len(self._rest) < length:
            self._receive()
        body, self._rest = self._rest[:length], self._rest[length:]
        if fields.get(b"connection") == b"close":
            self.close()
        again = fields.get(b"retry-after")
        return Answer(status, msgspec.json.decode(body), None if again is None else int(again))

    def _receive(self) -> None:
        received = self._socket.recv(1 << 16)
        if not received:
            raise ConnectionError("the connection ended in front of an answer")
        self._rest += received


def _request(path: str, body: bytes, form: str, fields: str) -> tuple[bytes, bytes]:
    """Its head and its body, as they are sent."""
    framing = f"Content-Length: {len(body)}\r\n"
    if form == "chunked":
        framing = "Transfer-Encoding: chunked\r\n"
        half = len(body) // 2
        pieces = (body[:half], body[half:], b"")
        body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    elif form == "expect":
        framing += "Expect: 100-continue\r\n"
    return _HEAD.format(path=path, key=KEY, more=fields + framing).encode(), body
