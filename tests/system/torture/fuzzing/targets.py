"""What each decoder of bytes from outside promises, for any bytes at all.

A target takes bytes and raises where a promise is broken. ``SEEDS`` are what a fuzzer begins with:
most bytes are refused at their first letter, and say nothing.
"""

from __future__ import annotations

import hmac
import json
from email.message import Message
from typing import TYPE_CHECKING, Any, Final

import h11
import msgspec

from examples.webhook_receiver import TOLERANCE_S, refusal
from meterd.domain.credentials import ALL_SCOPES, Keyring, Scope, new_key
from meterd.domain.events import (
    Batch,
    Reason,
    Refusal,
    UsageEvent,
    _decode_batch_slowly,
    _decode_event_slowly,
    decode_batch,
    decode_event,
)
from meterd.domain.instants import format_instant
from meterd.domain.signatures import sign, signing_key
from meterd.edge.access import Access
from meterd.edge.framing import Head, RequestFramer, parse_head
from meterd.edge.framing import Refusal as FramingRefusal
from meterd.edge.limits import Limits
from meterd.edge.parameters import (
    Parameters,
    UnfitParameterError,
    aggregation_cursor,
    aggregations_asked,
    event_cursor,
    events_asked,
)
from meterd.edge.peers import WrongKeys
from meterd.edge.plain_request import PlainHead, parse_plain_head
from tests.domain.test_events_both_ways import meaning
from tests.edge.lane_bench import LEFT, SERVED
from tests.edge.refused_requests import REFUSED_BODIES, REFUSED_HEADS

if TYPE_CHECKING:
    from collections.abc import Callable

TYPES: Final = {"api.calls": None, "é": None}
HEADER_KEYS: Final = ("", "k")
FIELDS: Final = ("customerId", "value", "metadata", "idempotencyKey", "eventType")
KEY, KNOWN = new_key(bytes(range(32)))
SECRET: Final = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
NOW_S: Final = 1_800_000_000
LIMITS: Final = Limits()


def event(data: bytes) -> None:
    """Both ways agree; what is taken is taken again as it was; what is refused is named."""
    header_key, body = HEADER_KEYS[len(data) % 2], data
    decoded = decode_event(body, "api.calls", TYPES, header_key)
    slowly = _decode_event_slowly(body, "api.calls", TYPES, header_key)
    assert meaning(decoded) == meaning(slowly)
    if isinstance(decoded, UsageEvent):
        again = decode_event(written(decoded), "api.calls", TYPES)
        assert meaning(again) == meaning(decoded)
    else:
        assert_named(decoded)


def batch(data: bytes) -> None:
    """As for an event, of each item, strict and lenient."""
    header_key = HEADER_KEYS[len(data) % 2]
    for lenient in (False, True):
        decoded = decode_batch(data, TYPES, lenient=lenient, header_key=header_key)
        slowly = _decode_batch_slowly(data, TYPES, lenient=lenient, header_key=header_key)
        assert meaning(decoded) == meaning(slowly)
        if isinstance(decoded, Refusal):
            assert_named(decoded)
            continue
        assert decoded.events
        assert lenient or not decoded.failures
        assert_failures_named(decoded.failures)
        events = [with_own_key(each) for each in decoded.events]
        text = b"[" + b",".join(written(each) for each in events) + b"]"
        again = decode_batch(text, TYPES, lenient=False)
        assert meaning(again) == meaning(Batch(events, []))


def with_own_key(decoded: UsageEvent) -> UsageEvent:
    """The event without the key that a header has made for it, which no client can send."""
    is_made = any(decoded.idempotency_key.startswith(f"{key}\x1f") for key in HEADER_KEYS)
    return msgspec.structs.replace(decoded, idempotency_key="") if is_made else decoded


def written(decoded: UsageEvent) -> bytes:
    """The event as a client would send it."""
    names = {"eventType": decoded.event_type, "customerId": decoded.customer_id}
    if decoded.idempotency_key:
        names["idempotencyKey"] = decoded.idempotency_key
    text = json.dumps(names).encode()
    return b'%b,"value":%b,"metadata":%b}' % (
        text[:-1], str(decoded.value).encode(), decoded.metadata,
    )  # fmt: skip


def assert_named(refused: Refusal) -> None:
    answer = refused.answer
    assert isinstance(answer["error"], str)
    json.dumps(answer).encode()
    if refused.reason is not Reason.INVALID:
        return
    if "details" in answer:
        assert_failures_named([{"index": 0, "errors": answer["details"]}])
    else:
        assert_failures_named(answer["validationErrors"])
        assert answer["invalidCount"] == len(answer["validationErrors"])


def assert_failures_named(failures: list[dict[str, Any]]) -> None:
    for failure in failures:
        assert failure["errors"]
        for text in failure["errors"]:
            is_named = text.startswith((*FIELDS, "Invalid event type: "))
            assert is_named or text == "Event must be an object", text


def head(data: bytes) -> None:
    """However they are cut up they mean the same; both lanes agree; h11 reads the same."""
    parts, refused = framed(data, len(data) or 1)
    # A refusal may come before what is pushed at once would have passed; what passed is the same.
    cut_parts, cut_refused = framed(data, 1 + len(data) % 7)
    assert (refused is None) == (cut_refused is None)
    assert (refused and refused.status) == (cut_refused and cut_refused.status) or max(
        map(len, data.split(b"\r\n")), default=0
    ) > 4096, (refused, cut_refused)
    if refused is None:
        assert cut_parts == parts
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return
    raw = data[:end]
    plain = parse_plain_head(raw)
    if plain is not None:
        assert_alike(plain, parse_head(raw, LIMITS))
    strictly = parse_head(raw, LIMITS) if b"\n" not in raw.replace(b"\r\n", b"") else None
    if isinstance(strictly, Head) and refused is None:
        assert_h11_reads(strictly)
        again = parse_head(strictly.rewritten[:-4], LIMITS)
        assert again == strictly


def framed(data: bytes, piece: int) -> tuple[bytes, FramingRefusal | None]:
    """All that passes, and the refusal that ends it."""
    framer = RequestFramer(LIMITS)
    passed = b""
    for start in range(0, len(data), piece):
        framer.feed(data[start : start + piece])
        while True:
            part = framer.next_part()
            if isinstance(part, FramingRefusal):
                return passed, part
            if part is None:
                if framer.phase.name == "ANSWER" and framer.buffered:
                    framer.next_request()
                    continue
                break
            # Of a chunked body it depends on the pieces in how many chunks it passes.
            passed += part if not framer._chunked else b""
        if framer.phase.name == "HTTP2":
            return passed[:24], None
    return passed, None


def assert_alike(plain: PlainHead, strictly: Head | FramingRefusal) -> None:
    assert isinstance(strictly, Head) or plain.body_bytes > LIMITS.body_bytes_max, strictly
    if isinstance(strictly, Head):
        assert strictly.body_bytes == plain.body_bytes


def assert_h11_reads(strictly: Head) -> None:
    parser = h11.Connection(h11.SERVER)
    parser.receive_data(strictly.rewritten)
    request = parser.next_event()
    assert isinstance(request, h11.Request), request
    lengths = [value for name, value in request.headers if name == b"content-length"]
    codings = [value for name, value in request.headers if name == b"transfer-encoding"]
    if strictly.body_bytes is None:
        assert (lengths, [each.lower() for each in codings]) == ([], [b"chunked"])
    else:
        assert codings == []
        assert sum(map(int, lengths)) == strictly.body_bytes


def key(data: bytes) -> None:
    """Only the very key is let in, by either header, and the daemon's words never repeat it."""
    text = data.decode("latin-1")
    access = Access(lambda: Keyring((KNOWN,)), WrongKeys(LIMITS), lambda: 0.0)
    assert (Keyring((KNOWN,)).authenticate(data) is not None) == (data == KEY.encode())
    assert access.lets_in(Scope.READ, text, "") == (text == KEY)
    assert access.lets_in(Scope.READ, None, text) == is_bearer(text)
    if not is_bearer(text):
        refused = access.refusal(Scope.READ, None, text, "127.0.0.1")
        assert refused is not None
        assert refused.status in (401, 429)
    assert KNOWN.scopes == ALL_SCOPES


def is_bearer(authorization: str) -> bool:
    scheme, _, token = authorization.partition(" ")
    return scheme.lower() == "bearer" and token.strip() == KEY


def cursor(data: bytes) -> None:
    """What is taken means one place, which is written so again; what is refused is named."""
    text = data.decode("latin-1")
    for name, read in READERS.items():
        try:
            found = read(Parameters({name: text}))
        except UnfitParameterError as refused:
            says_what = str(refused).startswith(f"{name} must be ")
            assert says_what
        else:
            assert_read_again(name, text, found, read)


READERS: Final[dict[str, Callable[[Parameters], Any]]] = {
    "cursor": lambda asked: asked.event_cursor(),
    "limit": lambda asked: asked.limit(),
    "from": lambda asked: events_asked(asked).from_ms,
    "to": lambda asked: aggregations_asked(asked).to_ms,
    "period": lambda asked: aggregations_asked(asked).period_type,
}


def assert_read_again(name: str, text: str, found: Any, read: Callable[[Parameters], Any]) -> None:
    match name:
        case "cursor" if text:
            assert isinstance(found, bytes)
            assert len(found) == 16
            assert read(Parameters({name: event_cursor(found) or ""})) == found
        case "limit":
            assert 1 <= found <= 100_000
        case "from" | "to" if found is not None and 0 <= found < 253_402_300_800_000:
            assert read(Parameters({name: format_instant(found)})) == found
        case _:
            pass
    try:
        place = Parameters({"cursor": text}).aggregation_cursor()
    except UnfitParameterError:
        return
    if place is not None:
        again = Parameters({"cursor": aggregation_cursor(place) or ""})
        assert again.aggregation_cursor() == place


def signature(data: bytes) -> None:
    """A receiver believes what was signed, at its time, and nothing else; any text is a secret."""
    header, timestamp, body = [*data.split(b"\n", 2), b"", b""][:3]
    headers = Message()
    headers["X-Webhook-Signature"] = header.decode("latin-1").replace("\r", " ")
    headers["X-Webhook-Timestamp"] = timestamp.decode("latin-1").replace("\r", " ")
    refused = refusal(headers, body, SECRET, NOW_S)
    given = headers["X-Webhook-Timestamp"]
    in_time = given.isascii() and given.isdigit() and len(given) <= 15
    in_time = in_time and abs(int(given) - NOW_S) <= TOLERANCE_S
    # By hand, and not by what it is told by.
    mac = hmac.new(SECRET.encode(), given.encode("latin-1") + b"." + body, "sha256")
    right = headers["X-Webhook-Signature"] == "v1=" + mac.hexdigest()
    assert (refused is None) == (in_time and right)
    text = data.decode("utf-8", "replace")
    assert len(signing_key(text)) <= max(64, len(text.encode()))
    if in_time and str(int(given)) == given:
        signed = sign(body, message_id="m", timestamp_s=int(given), secrets=[SECRET])
        headers.replace_header("X-Webhook-Signature", signed["X-Webhook-Signature"])
        assert refusal(headers, body, SECRET, NOW_S) is None


def _signed(body: bytes, timestamp_s: int) -> bytes:
    made = sign(body, message_id="m", timestamp_s=timestamp_s, secrets=[SECRET])
    return b"\n".join((made["X-Webhook-Signature"].encode(), b"%d" % timestamp_s, body))


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    "event": event,
    "batch": batch,
    "head": head,
    "key": key,
    "cursor": cursor,
    "signature": signature,
}
_BODIES: Final = (
    b'{"customerId":"c","value":1}',
    b'{"customerId":"\xc3\xa9","value":-1.50e3,"metadata":{"a":["\xc3\xa9",null,{"b":1e5}]}}',
    b'{"customerId":"c","value":"12.5","metadata":{},"idempotencyKey":"k"}',
    b'{"customerId":7,"value":"x","metadata":[],"idempotencyKey":""}',
)
SEEDS: Final[dict[str, tuple[bytes, ...]]] = {
    "event": _BODIES,
    "batch": tuple(
        b"[" + each[:1] + b'"eventType":"api.calls",' + each[1:] + b",5]" for each in _BODIES
    ),
    "head": (
        *SERVED.values(),
        *LEFT.values(),
        *(raw for _, raw in REFUSED_HEADS.values() if len(raw) < 2000),
        *(LEFT["chunked"][:90] + raw for _, raw in REFUSED_BODIES.values() if len(raw) < 2000),
    ),
    "key": (KEY.encode(), b"Bearer " + KEY.encode(), b"bearer  " + KEY.encode() + b" "),
    "cursor": (
        (event_cursor(bytes(range(16))) or "").encode(),
        b"2026-03-10T09:58:00Z",
        b"2026-03-10T09:58:00.5 02:00",
        b"100",
        b"hourly",
        b"lJIBkgI",
    ),
    "signature": (
        _signed(b"{}", NOW_S),
        _signed(b'{"a":1}\n', NOW_S - TOLERANCE_S),
        _signed(b"{}", NOW_S + TOLERANCE_S + 1),
        SECRET.encode(),
    ),
}
