"""Requests that must be refused, each with its status: for the framer and for real sockets."""

from __future__ import annotations

from typing import Final

from meterd.edge.limits import KIB, MIB, Limits


def head(*fields: bytes, line: bytes = b"POST /echo HTTP/1.1", host: bytes | None = b"a") -> bytes:
    hosts = [] if host is None else [b"Host: " + host]
    return b"\r\n".join([line, *hosts, *fields, b"", b""])


LENGTH: Final = b"Content-Length: 5"
CHUNKED: Final = b"Transfer-Encoding: chunked"
CHUNKED_HEAD: Final = head(CHUNKED)

REFUSED_HEADS: Final[dict[str, tuple[int, bytes]]] = {
    # Where does the body end?
    "length and coding": (400, head(LENGTH, CHUNKED) + b"0\r\n\r\n"),
    "coding and length": (400, head(CHUNKED, LENGTH) + b"0\r\n\r\n"),
    "two lengths differ": (400, head(LENGTH, b"Content-Length: 6") + b"hello"),
    "two lengths equal": (400, head(LENGTH, b"content-length: 5") + b"hello"),
    "list of lengths": (400, head(b"Content-Length: 5, 5") + b"hello"),
    "plus sign": (400, head(b"Content-Length: +5") + b"hello"),
    "minus sign": (400, head(b"Content-Length: -1")),
    "hexadecimal length": (400, head(b"Content-Length: 0x5") + b"hello"),
    "underscore in length": (400, head(b"Content-Length: 5_0") + b"h" * 50),
    "fraction": (400, head(b"Content-Length: 5.0") + b"hello"),
    "empty length": (400, head(b"Content-Length:")),
    "arabic digit": (400, head("Content-Length: \N{ARABIC-INDIC DIGIT FIVE}".encode()) + b"hello"),
    "unknown coding": (400, head(b"Transfer-Encoding: xchunked") + b"0\r\n\r\n"),
    "identity": (400, head(b"Transfer-Encoding: identity")),
    "two codings": (400, head(b"Transfer-Encoding: gzip, chunked") + b"0\r\n\r\n"),
    "chunked not last": (400, head(b"Transfer-Encoding: chunked, identity") + b"0\r\n\r\n"),
    "empty coding": (400, head(b"Transfer-Encoding:")),
    "coding twice": (400, head(CHUNKED, CHUNKED) + b"0\r\n\r\n"),
    "coding in HTTP/1.0": (400, head(CHUNKED, line=b"POST /echo HTTP/1.0") + b"0\r\n\r\n"),
    # Where does a line end?
    "folded line": (400, head(b"X: a", b" b")),
    "folded coding": (400, head(b"Transfer-Encoding:", b"\tchunked") + b"0\r\n\r\n"),
    "folded first field": (400, b"GET /ping HTTP/1.1\r\n Host: a\r\n\r\n"),
    "bare LF everywhere": (400, head(LENGTH).replace(b"\r\n", b"\n") + b"hello"),
    "bare LF between fields": (400, head(b"X: a\nTransfer-Encoding: chunked")),
    "bare LF at the end": (400, b"GET /ping HTTP/1.1\r\nHost: a\r\n\n"),
    "bare LF before CRLF": (400, b"GET /ping HTTP/1.1\r\nHost: a\n\r\n"),
    "bare CR": (400, head(b"X: a\rb")),
    "bare CR in request line": (400, head(line=b"GET /ping\r HTTP/1.1")),
    "empty line first": (400, b"\r\nGET /ping HTTP/1.1\r\nHost: a\r\n\r\n"),
    # What is a field?
    "space before colon": (400, head(b"Transfer-Encoding : chunked")),
    "tab before colon": (400, head(b"X\t: a")),
    "no colon": (400, head(b"garbage")),
    "empty name": (400, head(b": a")),
    "name outside ASCII": (400, head("Ж: a".encode())),
    "delimiter in name": (400, head(b"X(1): a")),
    "NUL in value": (400, head(b"X: a\0b")),
    "NUL in name": (400, head(b"X\0: a")),
    "vertical tab in value": (400, head(b"Transfer-Encoding: \x0bchunked")),
    "control character in value": (400, head(b"X: a\x01b")),
    "DEL in value": (400, head(b"X: a\x7fb")),
    # What is a request line?
    "HTTP/0.9": (400, b"GET /ping\r\n\r\n"),
    "HTTP/1.2": (400, head(line=b"GET /ping HTTP/1.2")),
    "HTTP/2.0": (400, head(line=b"GET /ping HTTP/2.0")),
    "HTTP/9.9": (400, head(line=b"GET /ping HTTP/9.9")),
    "HTTP/1": (400, head(line=b"GET /ping HTTP/1")),
    "HTTP/1.10": (400, head(line=b"GET /ping HTTP/1.10")),
    "lower case version": (400, head(line=b"GET /ping http/1.1")),
    "two spaces": (400, head(line=b"GET  /ping HTTP/1.1")),
    "trailing space": (400, head(line=b"GET /ping HTTP/1.1 ")),
    "leading space": (400, head(line=b" GET /ping HTTP/1.1")),
    "tab in request line": (400, head(line=b"GET\t/ping HTTP/1.1")),
    "space in target": (400, head(line=b"GET /ping x HTTP/1.1")),
    "NUL in target": (400, head(line=b"GET /ping\0 HTTP/1.1")),
    "target outside ASCII": (400, head(line="GET /ping/ö HTTP/1.1".encode())),
    "target without slash": (400, head(line=b"GET ping HTTP/1.1")),
    "authority as target": (400, head(line=b"CONNECT a:1 HTTP/1.1")),
    "absolute target without host": (400, head(line=b"GET http:///ping HTTP/1.1")),
    "bad method": (400, head(line=b"P{}ST /echo HTTP/1.1")),
    "no method": (400, head(line=b" /ping HTTP/1.1")),
    # Which host?
    "no host": (400, head(host=None)),
    "two hosts": (400, head(b"Host: b")),
    "two equal hosts": (400, head(b"host: a")),
    "two hosts in HTTP/1.0": (400, head(b"Host: b", line=b"GET /ping HTTP/1.0")),
    "host that begins with a dot": (400, head(host=b".a")),
    "host with an empty label": (400, head(host=b"a..b")),
    "host with a label too long": (400, head(host=b"a" * 64)),
    "host with a space": (400, head(host=b"a b")),
    "host with a path": (400, head(host=b"a/b")),
    "host with a user": (400, head(host=b"me@a")),
    "list of hosts": (400, head(host=b'a"')),
    # How much?
    "long field": (431, head(b"X: " + b"a" * 16 * KIB)),
    "long name": (431, head(b"X" * 16 * KIB + b": a")),
    "head just too long": (431, head(b"X: " + b"a" * (16 * KIB - len(head(b"X: ")) + 1))),
    "65 fields": (431, head(*[b"X: a"] * 64)),
    "thousands of fields": (431, head(*[b"X: a"] * 5000)),
    "long target": (414, head(line=b"GET /" + b"a" * 8 * KIB + b" HTTP/1.1")),
    "line just too long": (414, head(line=b"GET /" + b"a" * (8 * KIB - 13) + b" HTTP/1.1")),
    "long method": (414, head(line=b"P" * 10_000 + b" / HTTP/1.1")),
    "line without end": (414, b"G" * 9 * KIB),
    "body just too long": (413, head(b"Content-Length: %d" % (4 * MIB + 1))),
    "body of 10 GB": (413, head(b"Content-Length: 10000000000")),
    "length of 19 digits": (413, head(b"Content-Length: 0000000000000000005")),
    "length of 5000 digits": (413, head(b"Content-Length: " + b"9" * 5000)),
    # What is this at all?
    "TLS": (400, bytes.fromhex("16030100a5010000a10303") + bytes(range(160))),
    "HTTP/2 preface broken off": (400, b"PRI * HTTP/2.0\r\n\r\nGET / HTTP/1.1\r\n\r\n"),
}

REFUSED_BODIES: Final[dict[str, tuple[int, bytes]]] = {
    "negative size": (400, b"-1\r\nx\r\n0\r\n\r\n"),
    "size with 0x": (400, b"0x5\r\nhello\r\n0\r\n\r\n"),
    "size with plus": (400, b"+5\r\nhello\r\n0\r\n\r\n"),
    "no size": (400, b"\r\nhello\r\n0\r\n\r\n"),
    "space after size": (400, b"5 \r\nhello\r\n0\r\n\r\n"),
    "space before size": (400, b" 5\r\nhello\r\n0\r\n\r\n"),
    "nine digits": (400, b"000000005\r\nhello\r\n0\r\n\r\n"),
    "extension": (400, b"5;a=b\r\nhello\r\n0\r\n\r\n"),
    "long extension": (400, b"5;" + b"a" * 100_000 + b"\r\nhello\r\n0\r\n\r\n"),
    "bare LF after size": (400, b"5\nhello\n0\n\n"),
    "bare CR after size": (400, b"5\rhello\r\n0\r\n\r\n"),
    "chunk longer than its size": (400, b"5\r\nhelloXX0\r\n\r\n"),
    "bare LF after chunk": (400, b"5\r\nhello\n0\r\n\r\n"),
    "bare LF after last chunk": (400, b"5\r\nhello\r\n0\r\n\n"),
    "trailer": (400, b"5\r\nhello\r\n0\r\nX: a\r\n\r\n"),
    "chunk too long": (413, b"ffffffff\r\nx"),
    "chunk just too long": (413, b"%x\r\nx" % (Limits().body_bytes_max + 1)),
    "chunks too long together": (413, b"5\r\nhello\r\n%x\r\nx" % (Limits().body_bytes_max - 4)),
}
