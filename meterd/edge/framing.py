"""Where each HTTP/1 request begins and ends (RFC 9112), decided strictly, without I/O.

The parser behind this file takes as good what two readers can understand differently: a length
given twice, Content-Length beside Transfer-Encoding, folded lines, bare line feeds. Whoever stands
in front of us may count such a request otherwise, and the rest of it becomes somebody else's. So a
request passes only if it has one reading, and it passes **rewritten in its plainest form**: the
parser never sees a byte that was not understood here, nor a request before its predecessor is
answered.

HTTP/2 has framing of its own: from its preface on (prior knowledge), or from the first byte where
TLS has agreed on it, bytes pass as they are.
"""

from __future__ import annotations

import re
import sys
from enum import Enum, auto
from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import msgspec

from meterd.edge.problems import ON_EVERY_ANSWER
from meterd.edge.request_ids import HEADER as REQUEST_ID

if TYPE_CHECKING:
    from meterd.edge.limits import Limits

_ALWAYS: Final = b"".join(b"%b: %b\r\n" % field for field in ON_EVERY_ANSWER)

# RFC 9113, section 3.4.
HTTP2_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_REQUEST_LINE: Final = re.compile(rb"%b ([\x21-\x7e]+) HTTP/(\d\.\d)" % _TOKEN)
# RFC 9112, section 3.2, without the authority form, which is for proxies.
_TARGET: Final = re.compile(rb"/.*|https?://[^/?#]+.*|\*", re.IGNORECASE)
_FIELD: Final = re.compile(rb"(%b):([\t\x20-\x7e\x80-\xff]*)" % _TOKEN)
# RFC 3986, section 3.2.2, but for empty labels and those that no name can have (RFC 1035, 2.3.4):
# the application fails on them.
_LABEL: Final = rb"[A-Za-z0-9\-_~%!$&'()*+,;=]{1,63}"
_HOST: Final = re.compile(rb"(?:%b(?:\.%b)*\.?|\[[0-9A-Fa-f:.]+\])?(?::[0-9]*)?" % (_LABEL, _LABEL))
# RFC 9112, section 3.2.2: what a proxy is sent; its path is all that concerns us.
_ABSOLUTE: Final = re.compile(rb"(%b) https?://[^/?#]+([^ ]*) (.*)" % _TOKEN, re.IGNORECASE)
_LENGTH_DIGITS_MAX: Final = 18
# What no head may contain, beside a CR and an LF that are no CRLF.
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
# Extensions are refused with everything else that is not hexadecimal: nobody needs them, and
# lenient reading of them has let requests through behind other servers. Eight digits are 4 GiB.
_CHUNK_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,8})\r\n")
_CHUNK_SIZE_BEGUN: Final = re.compile(rb"[0-9A-Fa-f]{0,8}\r?")
_CHUNK_SIZE_LINE_BYTES_MAX: Final = 10


class Refusal(msgspec.Struct, frozen=True):
    """Why a request is not served; the connection ends with it."""

    status: int
    error: str
    retry_after_s: int | None = None

    def answer(self, request_id: str = "") -> bytes:
        """The whole HTTP/1.1 response; with a name for the request unless nobody has read it."""
        named = f"{REQUEST_ID}: {request_id}\r\n".encode() if request_id else b""
        body = msgspec.json.encode({"error": self.error})
        later = b"" if self.retry_after_s is None else b"Retry-After: %d\r\n" % self.retry_after_s
        return (
            b"HTTP/1.1 %d %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
            b"%bConnection: close\r\n%b%b\r\n%b"
        ) % (
            self.status,
            HTTPStatus(self.status).phrase.encode(),
            len(body),
            later,
            named,
            _ALWAYS,
            body,
        )


class Head(msgspec.Struct, frozen=True):
    """A request head that has one reading."""

    rewritten: bytes
    body_bytes: int | None
    """None: the body is chunked."""


class Phase(Enum):
    """What the bytes that come next are."""

    HEAD = auto()
    BODY = auto()
    ANSWER = auto()
    """The request has passed whole; what comes is a later one and waits for its answer."""
    HTTP2 = auto()


class RequestFramer:
    """The byte stream of one connection, cut into requests that pass one at a time."""

    def __init__(self, limits: Limits) -> None:
        self.phase = Phase.HEAD
        self._limits = limits
        self._buffer = bytearray()
        self._searched = 0  # how much of the buffer is known to hold no end of a head
        self._first = True
        self._chunked = False
        self._left = 0  # of the body, or of the chunk
        self._chunk_end_due = False
        self._body_bytes = 0

    @property
    def buffered(self) -> int:
        """Bytes that were fed and have not passed yet."""
        return len(self._buffer)

    @property
    def is_between(self) -> bool:
        """HTTP/1: no byte of a next request has been fed."""
        return self.phase is Phase.HEAD and not self._buffer

    @property
    def head_has_begun(self) -> bool:
        """Its end has not been fed, as far as was looked."""
        return self.phase is Phase.HEAD and bool(self._buffer)

    @property
    def body_is_due(self) -> bool:
        """Part of the body has not been fed; of a chunked one, as far as it was looked at."""
        if self.phase is not Phase.BODY:
            return False
        return self._chunked or self._left > len(self._buffer)

    def pass_http2(self) -> None:
        """ALPN has agreed on HTTP/2 before the first byte."""
        self.phase = Phase.HTTP2

    def feed(self, data: bytes | bytearray) -> None:
        self._buffer += data

    def next_part(self) -> bytes | Refusal | None:
        """The next bytes for the parser; None: more must be fed, or ``next_request`` called.

        A head passes whole. After a refusal nothing more may be asked.
        """
        match self.phase:
            case Phase.HEAD:
                return self._head()
            case Phase.BODY:
                return self._chunks() if self._chunked else self._counted()
            case Phase.ANSWER:
                return None
            case Phase.HTTP2:
                return self._take(len(self._buffer)) or None

    def take_back(self) -> bytes:
        """What was fed behind the last request, as if it never had been."""
        return self._take(len(self._buffer))

    def next_request(self) -> None:
        """The request that passed is answered: the next one may pass."""
        assert self.phase is Phase.ANSWER
        self.phase = Phase.HEAD
        self._searched = 0

    def _head(self) -> bytes | Refusal | None:
        if self._first and self._buffer.startswith(HTTP2_PREFACE):
            self.phase = Phase.HTTP2
            return self._take(len(self._buffer))
        if self._first and HTTP2_PREFACE.startswith(self._buffer):
            return None
        # The end may have been cut anywhere, even between its CR and LF.
        end = self._buffer.find(b"\r\n\r\n", max(0, self._searched - 3))
        size = len(self._buffer) if end < 0 else end + 4
        refusal = self._refuse_early(size)
        if refusal or end < 0:
            self._searched = size
            return refusal
        head = parse_head(self._take(size)[:-4], self._limits)
        if isinstance(head, Refusal):
            return head
        self._first = False
        self._chunked = head.body_bytes is None
        self._left = self._body_bytes = head.body_bytes or 0
        self.phase = Phase.BODY if self._chunked or self._left else Phase.ANSWER
        return head.rewritten

    def _refuse_early(self, size: int) -> Refusal | None:
        """What can be said of a head before its end has come, so that no end is waited for."""
        # No further than a head may reach: whoever sends more is refused in any case.
        # A CRLF may have been cut in two: from its CR on it is looked at again.
        start = max(0, self._searched - 1)
        start -= start > 0 and self._buffer[start : start + 1] == b"\n"
        new = self._buffer[start : min(size, self._limits.head_bytes_max)]
        if _has_stray_bytes(new):
            return Refusal(400, "Control character or bare line break in the request head")
        line_max = self._limits.request_line_bytes_max
        if size >= line_max + 2 and self._buffer.find(b"\r\n", 0, line_max + 2) < 0:
            return Refusal(414, f"Request line is longer than {line_max} bytes")
        if size > self._limits.head_bytes_max:
            return Refusal(431, f"Request head is longer than {self._limits.head_bytes_max} bytes")
        return None

    def _counted(self) -> bytes | None:
        part = self._take(min(self._left, len(self._buffer)))
        self._left -= len(part)
        if not self._left:
            self.phase = Phase.ANSWER
        return part or None

    def _chunks(self) -> bytes | Refusal | None:
        """All of the chunked body that has come, as one chunk, and the last chunk if it is there.

        One chunk out of many, because a client may send each byte as a chunk of its own, and each
        would cost the parser and the application as much as a whole piece.
        """
        data = bytearray()
        while self.phase is Phase.BODY:
            size = len(self._buffer)
            if self._left:
                data += self._chunk_bytes()
            elif refusal := self._chunk_edge():
                return refusal
            if len(self._buffer) == size:
                break  # what is there is not enough for another step
        rewritten = b"%x\r\n%b\r\n" % (len(data), bytes(data)) if data else b""
        return rewritten + (b"0\r\n\r\n" if self.phase is Phase.ANSWER else b"") or None

    def _chunk_bytes(self) -> bytes:
        part = self._take(min(self._left, len(self._buffer)))
        self._left -= len(part)
        self._chunk_end_due = not self._left
        return part

    def _chunk_edge(self) -> Refusal | None:
        """Takes the line break after a chunk, then the size of the next one."""
        if self._chunk_end_due:
            return self._chunk_end()
        sized = _CHUNK_SIZE.match(self._buffer)
        if sized is None:
            begun = bytes(self._buffer[:_CHUNK_SIZE_LINE_BYTES_MAX])
            whole = _CHUNK_SIZE_BEGUN.fullmatch(begun) is not None
            return None if whole else Refusal(400, "Malformed chunk size")
        size = int(sized[1], 16)
        if size:
            del self._buffer[: sized.end()]
            self._left = size
            self._body_bytes += size
            return body_refusal(self._body_bytes, self._limits)
        last = bytes(self._buffer[sized.end() : sized.end() + 2])
        if last == b"\r\n":
            del self._buffer[: sized.end() + 2]
            self.phase = Phase.ANSWER
            return None
        return None if b"\r\n".startswith(last) else Refusal(400, "Chunk trailers are not taken")

    def _chunk_end(self) -> Refusal | None:
        if self._buffer.startswith(b"\r\n"):
            del self._buffer[:2]
            self._chunk_end_due = False
            return None
        begun = b"\r\n".startswith(self._buffer)
        return None if begun else Refusal(400, "Chunk is longer than its size")

    def _take(self, count: int) -> bytes:
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken


def _has_stray_bytes(piece: bytearray) -> bool:
    """Whether a piece of a head has a control character, or a CR or LF that is no CRLF.

    Counting is an order of magnitude faster than an expression that says all of it.
    """
    breaks = piece.count(b"\r\n")
    if piece.count(b"\n") != breaks or piece.count(b"\r") - piece.endswith(b"\r") != breaks:
        return True
    return _CONTROL.search(piece) is not None


# Who asks again asks with the same head, but for a body's length: at most 2 MB are remembered.
@lru_cache(maxsize=128)
def parse_head(raw: bytes, limits: Limits) -> Head | Refusal:
    """Reads a head, given without the empty line that ends it and free of bare line breaks."""
    request_line, *lines = raw.split(b"\r\n")
    if len(lines) > limits.fields_max:
        return Refusal(431, f"Request has more than {limits.fields_max} header fields")
    matched = _REQUEST_LINE.fullmatch(request_line)
    if matched is None or not _TARGET.fullmatch(matched[1]):
        return Refusal(400, "Malformed request line")
    version = matched[2]
    if version not in (b"1.0", b"1.1"):
        return Refusal(400, "HTTP version must be 1.0 or 1.1")
    fields: list[tuple[bytes, bytes]] = []
    for line in lines:
        field = _FIELD.fullmatch(line)
        if field is None:
            return Refusal(400, "Malformed header field")
        fields.append((field[1], field[2].strip(b" \t")))
    return (
        _host_refusal(version, _values(fields, b"host"))
        or _coding_refusal(version, fields)
        or _rewrite(request_line, fields, limits)
    )


def body_refusal(body_bytes: int, limits: Limits) -> Refusal | None:
    if body_bytes <= limits.body_bytes_max:
        return None
    return Refusal(413, f"Request body is longer than {limits.body_bytes_max} bytes")


def _host_refusal(version: bytes, hosts: list[bytes]) -> Refusal | None:
    """RFC 9112, section 3.2: HTTP/1.1 names its host, nobody names two."""
    if len(hosts) > 1 or (not hosts and version == b"1.1"):
        return Refusal(400, "Request must have exactly one Host")
    if hosts and not _HOST.fullmatch(hosts[0]):
        return Refusal(400, "Malformed Host")
    return None


def _coding_refusal(version: bytes, fields: list[tuple[bytes, bytes]]) -> Refusal | None:
    """RFC 9112, sections 6.1 to 6.3: one way only to know where the body ends."""
    lengths, codings = _values(fields, b"content-length"), _values(fields, b"transfer-encoding")
    if lengths and codings:
        return Refusal(400, "Content-Length together with Transfer-Encoding")
    if codings and version == b"1.0":
        return Refusal(400, "Transfer-Encoding in HTTP/1.0")
    if codings and [coding.lower() for coding in codings] != [b"chunked"]:
        return Refusal(400, "Transfer-Encoding must be chunked")
    if lengths and (len(lengths) > 1 or not lengths[0].isdigit()):
        return Refusal(400, "Content-Length must be one number")
    return None


def _rewrite(
    request_line: bytes, fields: list[tuple[bytes, bytes]], limits: Limits
) -> Head | Refusal:
    chunked = bool(_values(fields, b"transfer-encoding"))
    digits = next(iter(_values(fields, b"content-length")), b"0")
    # More digits are over every honest limit, and Python refuses to read thousands of them.
    body_bytes = int(digits) if len(digits) <= _LENGTH_DIGITS_MAX else sys.maxsize
    refusal = body_refusal(body_bytes, limits)
    if refusal:
        return refusal
    # A server may ignore an offered upgrade (RFC 9110, section 7.8). We use none, and the parser
    # would take up h2c, after which the bytes are no longer what is counted here.
    kept = [field for field in fields if field[0].lower() != b"upgrade"]
    lines = [_in_origin_form(request_line), *(b"%b: %b" % field for field in kept), b"", b""]
    return Head(b"\r\n".join(lines), None if chunked else body_bytes)


def _in_origin_form(request_line: bytes) -> bytes:
    absolute = _ABSOLUTE.fullmatch(request_line)
    if absolute is None:
        return request_line
    method, path, version = absolute.groups()
    slash = b"" if path.startswith(b"/") else b"/"
    return b"%b %b%b %b" % (method, slash, path, version)


def _values(fields: list[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    return [value for field_name, value in fields if field_name.lower() == name]
