"""Reads one answer of a receiver from its bytes. The home of h11.

An answer has a limit, interim answers and framing included, and nothing of it is decoded, followed
or remembered. Most answers are short, plain and there at once: those are recognised by their bytes,
which takes a twentieth of the time that a parser of everything takes. Whatever is in any way
uncommon goes to h11, and both read the same.
"""

from __future__ import annotations

import re
from typing import Final

import h11

from meterd.domain.outcomes import ErrorKind
from meterd.edge.failures import HUNG_UP, AttemptError

# 16 KiB for the head, as common servers have it, and as much for a body.
ANSWER_BYTES_MAX: Final = 32 * 1024

# Receivers send one or none; who goes on and on with them costs as much as who answers.
INTERIM_MAX: Final = 16

_TOO_MANY_INTERIM: Final = "Parse Error: Too many interim answers"

# Stands for whatever was sent: how an answer ends depends on nothing but the method.
_ASKED: Final = h11.Request(
    method="POST", target="/", headers=[("Host", "receiver"), ("Content-Length", "0")]
)
_PLAIN_HEAD: Final = re.compile(
    rb"HTTP/1\.1 ([2-5][0-9][0-9])(?: ([ -~]*))?\r\n((?:[-A-Za-z0-9_]+:[ -~]*\r\n)*)\r\n"
)
_LENGTH: Final = re.compile(rb"[0-9]{1,5}")
_WITHOUT_BODY: Final = 204
_NOT_MODIFIED: Final = 304


class Answer:
    """One answer as it arrives.

    ``status`` is 0 until its head is there; ``ended`` says that it is there to its end, ``again``
    that the connection is good for another one. ``fault`` is why no more of it is to be read.
    ``is_in_chunks`` is of a body that comes so.
    """

    def __init__(self) -> None:
        self.status = 0
        self.reason = b""
        self.fields: list[tuple[bytes, bytes]] = []
        self.ended = False
        self.again = False
        self.is_in_chunks = False
        self.fault: AttemptError | None = None
        self._received = 0
        self._interim = 0
        self._parser: h11.Connection | None = None

    def receive(self, data: bytes) -> bytes:
        """What of the body is in these bytes; none at all are the end of the connection."""
        self._received += len(data)
        parser = self._parser
        if parser is None:
            if (body := self._plain(data)) is not None:
                return body
            parser = self._parser = h11.Connection(
                h11.CLIENT, max_incomplete_event_size=2 * ANSWER_BYTES_MAX
            )
            parser.send(_ASKED)
            parser.send(h11.EndOfMessage())
        if not data and not self.status:
            self.fault = AttemptError(ErrorKind.RESET, HUNG_UP)
            return b""
        body = self._parsed(parser, data)
        if self._received >= ANSWER_BYTES_MAX and not self.ended and self.fault is None:
            self.fault = AttemptError(ErrorKind.ANSWER_TOO_LONG, "Parse Error: Header overflow")
        return body

    def _parsed(self, parser: h11.Connection, data: bytes) -> bytes:
        body = bytearray()
        parser.receive_data(data)
        try:
            while not self.ended:
                match parser.next_event():
                    case h11.InformationalResponse() if self._interim < INTERIM_MAX:
                        self._interim += 1
                    case h11.InformationalResponse():
                        self.fault = AttemptError(ErrorKind.PROTOCOL, _TOO_MANY_INTERIM)
                        break
                    case h11.Response(status_code=status, reason=reason, headers=headers):
                        self.status, self.reason = status, bytes(reason)
                        self.fields = headers.raw_items()
                        self.is_in_chunks = any(name == b"transfer-encoding" for name, _ in headers)
                    case h11.Data(data=part):
                        body += part
                    case h11.EndOfMessage():
                        self.ended = True
                        rest, _ = parser.trailing_data
                        # What nobody asked for would be taken for the next answer.
                        self.again = parser.their_state is h11.DONE and not rest
                    case h11.NEED_DATA | h11.PAUSED:
                        break
        except h11.RemoteProtocolError as error:
            kind = ErrorKind.PROTOCOL if data else ErrorKind.RESET
            self.fault = AttemptError(kind, f"Parse Error: {error}")
        return bytes(body)

    def _plain(self, data: bytes) -> bytes | None:
        """The body, if this is a whole answer of the most common form."""
        head = _PLAIN_HEAD.match(data)
        if head is None:
            return None
        status = int(head[1])
        fields = []
        length = b"0" if status == _WITHOUT_BODY else None
        for line in head[3].split(b"\r\n")[:-1]:
            name, _, value = line.partition(b":")
            value = value.strip()
            fields.append((name, value))
            match name.lower():
                case b"content-length":
                    if length is not None or not _LENGTH.fullmatch(value):
                        return None
                    length = value
                case b"connection":
                    if value.lower() != b"keep-alive":
                        return None
                case b"transfer-encoding":
                    return None
        body = data[head.end() :]
        if length is None or int(length) != len(body) or status == _NOT_MODIFIED:
            return None
        self.status, self.reason, self.fields = status, head[2] or b"", fields
        self.ended = self.again = True
        return body
