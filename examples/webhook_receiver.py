"""Receives meterd's webhooks, verifies them, and shows what one might do with the totals.

    WEBHOOK_SECRET=whsec_... python examples/webhook_receiver.py

Environment: PORT (3000) and WEBHOOK_SECRET (whsec_test_secret), the secret of the endpoint in
meterd's configuration. It needs the standard library only, to be copied into other projects.

A webhook is believed once its signature is verified: nothing of it is parsed or shown before.
Deliveries arrive at least once. An aggregation is known again by its id and revision, which an item
of a batch has too, whose webhook-id is the batch's; a threshold by what reached it; one without
either, by its webhook-id.

A late event, or one that was taken back, makes a revision of what was sent before: it has all
totals anew, and those of before beside them, of which the difference is to be billed or credited.
"""

from __future__ import annotations

import hmac
import io
import json
import os
import re
import signal
import socket
import sys
import threading
import time
from collections import deque
from decimal import Decimal
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator
    from email.message import Message
    from types import FrameType

    Numbers = dict[str, int | Decimal]

PATH: Final = "/webhooks/metering"
TOLERANCE_S: Final = 300  # older is a replay: meterd signs every attempt anew
BODY_MAX: Final = 8 * 1024 * 1024  # bytes; a batch of aggregations, a hundred for each event type
IDS_REMEMBERED: Final = 10_000

PRICE_PER_API_CALL: Final = Decimal("0.001")  # dollars
STORAGE_ALERT_MB: Final = 1000
BYTES_PER_MB: Final = 1024 * 1024
SLOW_RESPONSE_MS: Final = 200
ERROR_SPIKE: Final = 10

RULE: Final = "─" * 41
DOUBLE_RULE: Final = "═" * 40
VERIFIED: Final = "✅ Signature verified"
BATCH: Final = "aggregation.batch"
THRESHOLD: Final = "usage.threshold.reached"
KNOWN: Final = (BATCH, THRESHOLD, "aggregation.completed", "aggregation.revised")


class Refusal(NamedTuple):
    """An answer other than 200, and what the terminal says about it."""

    status: HTTPStatus
    error: str
    reason: str


MISSING: Final = Refusal(
    HTTPStatus.BAD_REQUEST, "Missing signature headers", "Missing signature or timestamp"
)
STALE: Final = Refusal(
    HTTPStatus.UNAUTHORIZED, "Invalid signature", f"Timestamp over {TOLERANCE_S} seconds off"
)
FORGED: Final = Refusal(HTTPStatus.UNAUTHORIZED, "Invalid signature", "Invalid signature")
MALFORMED: Final = Refusal(HTTPStatus.BAD_REQUEST, "Malformed webhook", "Not an aggregation")


def refusal(headers: Message, body: bytes, secret: str, now_s: int) -> Refusal | None:
    """Why a request that came at ``now_s`` is not to be believed; None when its signature holds."""
    signature = headers.get("X-Webhook-Signature", "")
    timestamp = headers.get("X-Webhook-Timestamp", "")
    if not signature or not re.fullmatch(r"[0-9]{1,15}", timestamp):
        return MISSING
    if abs(now_s - int(timestamp)) > TOLERANCE_S:
        return STALE
    # Over the bytes as they came: parsing them and writing JSON again may change them.
    signed = timestamp.encode() + b"." + body
    expected = "v1=" + hmac.digest(secret.encode(), signed, "sha256").hex()
    # The time == takes would tell how much of a guess is right.
    return None if hmac.compare_digest(expected.encode(), signature.encode()) else FORGED


def name_of(webhook: dict[str, Any], headers: Message) -> str:
    """What a webhook is known again by. The signature covers its body, and no header."""
    data = webhook["data"]
    if webhook["type"] == THRESHOLD:
        period = f"{webhook['period']} {data['periodKey']}"
        reached = f"{data['eventType']} {data['exact']['threshold']}"
        return f"{webhook['customerId']} {period} {reached}"
    if "id" in data and "revision" in data:
        return f"{data['id']} revision {data['revision']}"
    return headers.get("webhook-id", "")


def described(webhook: dict[str, Any]) -> Iterator[str]:
    data = webhook["data"]
    before = data.get("previous", {})
    yield ""
    yield f"Webhook Type: {webhook['type']}"
    yield f"Customer ID: {webhook['customerId']}"
    yield f"Period: {webhook['period']}"
    if before:
        yield f"Revision: {data['revision']}, in place of {before['revision']}"
    yield ""
    yield "Period Range:"
    yield f"  Start: {data['periodStart']}"
    yield f"  End:   {data['periodEnd']}"
    yield f"  Timestamp: {data['timestamp']}"
    yield ""
    if webhook["type"] == THRESHOLD:
        yield from reached(webhook)
        return
    yield "Aggregated Events:"
    yield from totals(data["events"], before.get("events"))
    yield ""
    yield f"Total Events Processed: {data['eventCount']}"
    yield RULE
    yield ""
    yield f"💡 Processing {webhook['period']} aggregation for {webhook['customerId']}"
    yield from processed(data["events"], before.get("events", {}))


def totals(events: Numbers, before: Numbers | None) -> Iterator[str]:
    """Of a revision with what they were. A type whose events were all taken back is not there any
    more.
    """
    if before is None:
        yield from (f"  {event_type}: {value}" for event_type, value in events.items())
        return
    for event_type in {**before, **events}:
        now, was = (found.get(event_type, "none") for found in (events, before))
        yield f"  {event_type}: {now} (was {was})"


def number_of(count: int | Decimal, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def reached(webhook: dict[str, Any]) -> Iterator[str]:
    """Where your own mails to customers, or to those who look after them, would begin."""
    data, customer_id = webhook["data"], webhook["customerId"]
    exact = data["exact"]
    yield f"Threshold: {exact['threshold']} of {data['eventType']} ({data['operation']})"
    yield f"  Value: {exact['value']}, of {number_of(data['eventCount'], 'event')}"
    yield f"  Alert: {data['alert']}"
    yield RULE
    yield ""
    yield f"🔔 {customer_id} has reached {exact['threshold']} of {data['eventType']}"


def processed(events: Numbers, before: Numbers) -> Iterator[str]:
    """Where your own billing, alerting and analytics would begin.

    What was billed ``before`` is the revision's word for it: your own books know it for sure, by
    the aggregation's id.
    """
    calls = events.get("api.calls", 0)
    used = number_of(calls, "API call")
    if "api.calls" in before:
        billed = before["api.calls"]
        dollars = (calls - billed) * PRICE_PER_API_CALL
        what = "credit" if dollars < 0 else "charge"
        yield f"   💰 Billing: {used}, {billed} billed before: {what} ${abs(dollars):.2f}"
    elif "api.calls" in events:
        yield f"   💰 Billing: {used} = ${calls * PRICE_PER_API_CALL:.2f}"
    storage_mb = Decimal(events.get("storage.bytes", 0)) / BYTES_PER_MB
    if storage_mb > STORAGE_ALERT_MB:
        yield f"   ⚠️  Alert: High storage usage ({storage_mb:.2f} MB)"
    response_ms = Decimal(events.get("response.time.ms", 0))
    if response_ms > SLOW_RESPONSE_MS:
        yield f"   📊 Analytics: Slow response time ({response_ms:.2f}ms avg)"
    errors = events.get("errors.count", 0)
    if errors > ERROR_SPIKE:
        yield f"   🚨 Error Spike: {errors} errors detected"


def printable(line: str) -> str:
    """The line without what would steer a terminal or begin a line of its own."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in line)


class Receiver(ThreadingHTTPServer):
    """A thread for each connection. Closing waits for the requests that have begun."""

    daemon_threads = False

    def __init__(self, port: int, secret: str) -> None:
        super().__init__(("", port), Handler, bind_and_activate=False)
        self.socket.close()
        # localhost is ::1 to some senders and 127.0.0.1 to others: both families where there are.
        dual = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if dual else socket.AF_INET
        self.socket = socket.create_server(("", port), family=family, dualstack_ipv6=dual)
        self.port: int = self.socket.getsockname()[1]
        self._secret = secret
        self._lock = threading.Lock()
        self._ids: deque[str] = deque(maxlen=IDS_REMEMBERED)

    def take(self, headers: Message, body: bytes) -> tuple[Refusal | None, list[str]]:
        """Why it is refused, if it is, and what to print of it."""
        if refused := refusal(headers, body, self._secret, int(time.time())):
            return refused, [f"❌ {refused.reason}"]
        try:
            # Decimal keeps the digits as they were written; a float would not.
            webhook = json.loads(body, parse_float=Decimal)
            kind = webhook["type"] + ""
            if kind not in KNOWN:  # a sender may learn others, and repeats refusals
                return None, [VERIFIED, f"⏭️  Ignored: {kind}"]
            items = webhook["data"]["items"] if kind == BATCH else [webhook]
            # All of them before the first is processed.
            found = [(name_of(item, headers), list(described(item))) for item in items]
        except (ValueError, LookupError, TypeError, AttributeError):
            return MALFORMED, [VERIFIED, f"❌ {MALFORMED.reason}"]
        shown = [f"📦 Batch of {number_of(len(found), 'aggregation')}"] if kind == BATCH else []
        for name, lines in found:
            if self._is_repeat(name):
                shown += [f"🔁 Repeat of {name}: already processed", RULE]
            else:
                shown += lines
        return None, [VERIFIED, *shown]

    def _is_repeat(self, name: str) -> bool:
        """Remembers the name, as one's own books must: in the transaction that books the totals."""
        with self._lock:
            if name in self._ids:
                return True
            if name:
                self._ids.append(name)
            return False


class Handler(BaseHTTPRequestHandler):
    server: Receiver
    timeout = 5  # seconds without a byte, after which a connection is given up

    def do_GET(self) -> None:
        if self.path == "/":
            endpoints = {"webhook": f"POST {PATH}"}
            health = {"status": "ok", "service": "Webhook Receiver", "endpoints": endpoints}
            self._answer(HTTPStatus.OK, health)
        else:
            self._answer(HTTPStatus.NOT_FOUND, {"error": "Not found"})

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if self.path != PATH:
            self._answer(HTTPStatus.NOT_FOUND, {"error": "Not found"})
        elif not re.fullmatch(r"[0-9]{1,15}", length):
            self._answer(HTTPStatus.LENGTH_REQUIRED, {"error": "Content-Length required"})
        elif int(length) > BODY_MAX:
            self._answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, {"error": "Body too large"})
        else:
            refused, lines = self.server.take(self.headers, self.rfile.read(int(length)))
            shown = ["", "📨 Received webhook", RULE, *lines]
            # In one piece, so that two webhooks at a time don't mix their lines.
            sys.stdout.write("".join(printable(line) + "\n" for line in shown))
            if refused:
                self._answer(refused.status, {"error": refused.error})
            else:
                self._answer(HTTPStatus.OK, {"received": True})

    def _answer(self, status: HTTPStatus, answer: dict[str, Any]) -> None:
        body = json.dumps(answer, separators=(",", ":")).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Silent: what arrives is printed already."""


def main() -> None:
    if isinstance(sys.stdout, io.TextIOWrapper):  # each line at once, into files and pipes too
        sys.stdout.reconfigure(line_buffering=True, errors="replace")
    port = os.environ.get("PORT") or "3000"
    secret = os.environ.get("WEBHOOK_SECRET") or "whsec_test_secret"
    try:
        receiver = Receiver(int(port), secret)
    except (ValueError, OverflowError, OSError) as error:
        sys.exit(f"❌ Error: cannot listen on port {port}: {error}")

    def stop(number: int, _frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)  # the second time it ends at once
        # shutdown() waits for the loop that this handler has interrupted.
        threading.Thread(target=receiver.shutdown).start()

    with receiver:
        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        print("🚀 Webhook Receiver Started")
        print(DOUBLE_RULE)
        print(f"Listening on: http://localhost:{receiver.port}")
        print(f"Webhook URL: http://localhost:{receiver.port}{PATH}")
        print(f"Webhook Secret: {secret}")
        print(DOUBLE_RULE)
        print("\nWaiting for webhooks...")
        receiver.serve_forever(poll_interval=0.1)  # seconds until a signal is followed
    print("\nShutting down gracefully...")


if __name__ == "__main__":
    main()
