"""Recognises a plain ingest request by its head: the only ones that the fast lane interprets.

A whitelist, in its order: a request line of one of two forms, header fields that are known to
change nothing about framing, each at most once, every byte printable. Whatever else a head says,
however harmless, makes it foreign, and a foreign request is left to the lane that knows all of
HTTP.

Pure: bytes in, a PlainHead or None out. The parse of a head is remembered by its bytes, since a
client repeats it; what it means, and whether its key is let in, is decided for every request.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Final

import msgspec

from meterd.edge.request_ids import fit

# What every plain request begins with; a shorter beginning may still become one.
BEGINNING: Final = b"POST /usage"
END_OF_HEAD: Final = b"\r\n\r\n"
# Heads over this size are foreign: they would make the memory of parsed heads large.
HEAD_MAX: Final = 1024
_REMEMBERED: Final = 4096  # at most 4 MiB of heads

# Event types that need no percent-encoding; one with other characters comes by the other lane.
_REQUEST_LINE: Final = re.compile(
    rb"POST /(?:usage/([A-Za-z0-9._~-]{1,100})|usagebatch) HTTP/1\.1", re.ASCII
)
_FIELD: Final = re.compile(rb"([A-Za-z-]+):[ \t]*([\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?)[ \t]*")
_HOST: Final = re.compile(
    rb"(?:[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*|\[[0-9A-Fa-f:.]+\])(?::[0-9]+)?"
)
_LENGTH: Final = re.compile(rb"(?:0|[1-9][0-9]{0,7})")
# Two fields differ with every request: they are taken out before the parse is remembered.
_KEY_FIELD: Final = re.compile(
    rb"\r\n[Ii]dempotency-[Kk]ey:[ \t]*([\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?)[ \t]*(?=\r\n|\Z)"
)
_KEY_PART: Final = b"dempotency-"
_ID_FIELD: Final = re.compile(
    rb"\r\n(?i:x-request-id):[ \t]*([\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?)[ \t]*(?=\r\n|\Z)"
)
_ID_PART: Final = b"equest-"
# Fields that say nothing about where a request ends or what must be done with it.
_KNOWN: Final = frozenset(
    (
        b"accept",
        b"accept-encoding",
        b"accept-language",
        b"authorization",
        b"cache-control",
        b"connection",
        b"content-length",
        b"content-type",
        b"dnt",
        b"forwarded",
        b"host",
        b"origin",
        b"pragma",
        b"prefer",
        b"priority",
        b"referer",
        b"sec-fetch-dest",
        b"sec-fetch-mode",
        b"sec-fetch-site",
        b"traceparent",
        b"tracestate",
        b"user-agent",
        b"via",
        b"x-apikey",
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-port",
        b"x-forwarded-proto",
        b"x-real-ip",
    )
)


class PlainHead(msgspec.Struct, frozen=True):
    """What a plain request's head says. ``event_type`` is None for a batch.

    ``idempotency_keys`` are the values of that header: one, or none. ``request_id`` is what the
    client calls its request, if that is fit for a name.
    """

    event_type: str | None
    body_bytes: int
    apikey: str | None
    authorization: str
    prefer: str
    idempotency_keys: tuple[str, ...] = ()
    request_id: str | None = None


def parse_plain_head(head: bytes) -> PlainHead | None:
    """The head, given without the empty line that ends it; None if the request is foreign."""
    # Twice as fast as ``in``.
    has_key, has_id = head.find(_KEY_PART) > 0, head.find(_ID_PART) > 0
    if not (has_key or has_id):
        return _parse(head)
    differing: dict[str, Any] = {}
    # A second one of either is left in, and makes the request foreign.
    if has_key:
        field = _KEY_FIELD.search(head)
        if field is None:
            return None
        differing["idempotency_keys"] = (field[1].decode(),)
        head = head[: field.start()] + head[field.end() :]
    if has_id:
        field = _ID_FIELD.search(head)
        if field is None:
            return None
        differing["request_id"] = fit(field[1].decode())
        head = head[: field.start()] + head[field.end() :]
    parsed = _parse(head)
    if parsed is None:
        return None
    return msgspec.structs.replace(parsed, **differing)


@lru_cache(maxsize=_REMEMBERED)
def _parse(head: bytes) -> PlainHead | None:
    request_line, *lines = head.split(b"\r\n")
    matched = _REQUEST_LINE.fullmatch(request_line)
    if matched is None:
        return None
    fields: dict[bytes, bytes] = {}
    for line in lines:
        field = _FIELD.fullmatch(line)
        if field is None:
            return None
        name = field[1].lower()
        if name not in _KNOWN or name in fields:
            return None
        fields[name] = field[2]
    if not _HOST.fullmatch(fields.get(b"host", b"")):
        return None
    if fields.get(b"connection", b"keep-alive").lower() != b"keep-alive":
        return None
    length = fields.get(b"content-length", b"")
    if not _LENGTH.fullmatch(length):
        return None
    apikey = fields.get(b"x-apikey")
    return PlainHead(
        None if matched[1] is None else matched[1].decode(),
        int(length),
        None if apikey is None else apikey.decode(),
        fields.get(b"authorization", b"").decode(),
        fields.get(b"prefer", b"").decode(),
    )
