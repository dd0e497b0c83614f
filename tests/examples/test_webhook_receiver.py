"""webhook_receiver.py against webhooks that are signed here, by the contract and not by meterd."""

from __future__ import annotations

import hashlib
import hmac
import json
import signal
import socket
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.examples.example import EXAMPLES, SECONDS_MAX, run
from tests.examples.receiver_example import NAME, PATH, Receiver

if TYPE_CHECKING:
    from collections.abc import Iterator

SECRET = "whsec_of_this_test"
RULE = "─" * 41

# The webhook whose output examples/README.md shows.
DOCUMENTED: dict[str, Any] = {
    "type": "aggregation.completed",
    "customerId": "customer_1",
    "period": "daily",
    "data": {
        "periodStart": "2026-01-14T00:00:00.000Z",
        "periodEnd": "2026-01-14T23:59:59.999Z",
        "periodKey": "20260114",
        "timestamp": "2026-01-15T00:05:00.000Z",
        "events": {"api.calls": 542, "storage.bytes": 104857600, "response.time.ms": 234.5},
        "eventCounts": {"api.calls": 540, "storage.bytes": 1, "response.time.ms": 1},
        "eventCount": 542,
    },
    "created": 1768435500,
}


def body_of(events: dict[str, Any], customer_id: str = "customer_1") -> bytes:
    data = {**DOCUMENTED["data"], "events": events}
    return json.dumps({**DOCUMENTED, "customerId": customer_id, "data": data}).encode()


def signed(
    body: bytes, *, secret: str = SECRET, age_s: int = 0, webhook_id: str = ""
) -> dict[str, str]:
    timestamp = str(int(time.time()) - age_s)
    mac = hmac.new(secret.encode(), f"{timestamp}.".encode() + body, hashlib.sha256)
    return {
        "Content-Type": "application/json",
        "X-Webhook-Signature": f"v1={mac.hexdigest()}",
        "X-Webhook-Timestamp": timestamp,
        **({"webhook-id": webhook_id} if webhook_id else {}),
    }


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    running = Receiver(WEBHOOK_SECRET=SECRET)
    yield running
    if running.process.poll() is None:
        running.stop()


def refused(reason: str) -> str:
    return f"\n📨 Received webhook\n{RULE}\n❌ {reason}\n"


def test_a_verified_webhook_is_shown_as_documented() -> None:
    """Answer, start and webhook are to the byte what examples/README.md shows."""
    running = Receiver()
    body = json.dumps(DOCUMENTED, separators=(",", ":")).encode()
    answer = httpx.post(
        running.url + PATH,
        content=body,
        headers=signed(body, secret="whsec_test_secret"),
        trust_env=False,
    )
    assert (answer.status_code, answer.text) == (200, '{"received":true}')
    said = (running.banner + running.stop()).replace(f":{running.port}", ":3000")
    readme = (EXAMPLES / "README.md").read_text()
    assert f"```text\n{said}```\n" in readme


def test_each_line_is_there_as_soon_as_the_webhook_is(receiver: Receiver) -> None:
    """What is printed reaches a pipe before the receiver ends."""
    body = body_of({"api.calls": 1})
    assert receiver.post(body, signed(body))[0] == 200
    said = receiver.read_until("   💰 Billing: 1 API call = $0.00\n")
    assert said.startswith(
        f"\n📨 Received webhook\n{RULE}\n✅ Signature verified\n\nWebhook Type: "
    )


@pytest.mark.parametrize("missing", ["X-Webhook-Signature", "X-Webhook-Timestamp"])
def test_missing_headers_are_400(receiver: Receiver, missing: str) -> None:
    """Without signature or timestamp there is nothing to verify."""
    body = body_of({})
    headers = signed(body)
    del headers[missing]
    assert receiver.post(body, headers) == (400, {"error": "Missing signature headers"})
    assert receiver.stop() == refused("Missing signature or timestamp")


@pytest.mark.parametrize("timestamp", ["soon", "-5", "1.5", "9" * 5000, ""])
def test_a_timestamp_that_is_no_number_is_400(receiver: Receiver, timestamp: str) -> None:
    """Only Unix seconds are a timestamp."""
    body = body_of({})
    headers = {**signed(body), "X-Webhook-Timestamp": timestamp}
    assert receiver.post(body, headers) == (400, {"error": "Missing signature headers"})


@pytest.mark.parametrize("age_s", [310, -310, 10**9])
def test_a_timestamp_that_is_off_is_401(receiver: Receiver, age_s: int) -> None:
    """More than five minutes either way, though the signature is right."""
    body = body_of({})
    assert receiver.post(body, signed(body, age_s=age_s)) == (401, {"error": "Invalid signature"})
    assert receiver.stop() == refused("Timestamp over 300 seconds off")


@pytest.mark.parametrize("age_s", [290, -290])
def test_a_timestamp_within_five_minutes_is_taken(receiver: Receiver, age_s: int) -> None:
    """Clocks differ, and networks take their time."""
    body = body_of({})
    assert receiver.post(body, signed(body, age_s=age_s)) == (200, {"received": True})


def test_what_was_not_signed_is_401_and_not_shown(receiver: Receiver) -> None:
    """Another body, another secret, another timestamp, another form: nothing of it is printed."""
    body = body_of({"api.calls": 1})
    right = signed(body)
    timestamp = str(int(right["X-Webhook-Timestamp"]) - 1)
    signature = right["X-Webhook-Signature"]
    forgeries = [
        (body.replace(b"1}", b"9}"), right),
        (body, signed(body, secret="whsec_other")),
        (body, {**right, "X-Webhook-Timestamp": timestamp}),
        (body, {**right, "X-Webhook-Signature": signature.removeprefix("v1=")}),
        (body, {**right, "X-Webhook-Signature": signature[:-1]}),
        (body, {**right, "X-Webhook-Signature": signature.upper()}),
        (b"", right),
    ]
    for forged, headers in forgeries:
        assert receiver.post(forged, headers) == (401, {"error": "Invalid signature"})
    assert receiver.stop() == refused("Invalid signature") * len(forgeries)


def test_a_repeat_is_told_and_not_processed_again(receiver: Receiver) -> None:
    """The same webhook-id, signed anew, is answered 200 again; a forged one leaves no trace."""
    body = body_of({"api.calls": 7})
    forged = signed(body, secret="whsec_other", webhook_id="msg_1")
    assert receiver.post(body, forged)[0] == 401
    for age_s in (60, 0):
        headers = signed(body, age_s=age_s, webhook_id="msg_1")
        assert receiver.post(body, headers) == (200, {"received": True})
    assert receiver.post(body, signed(body, webhook_id="msg_2"))[0] == 200
    said = receiver.stop()
    assert said.count("💰 Billing: 7 API calls") == 2
    repeat = f"✅ Signature verified\n🔁 Repeat of msg_1: already processed\n{RULE}\n"
    assert said.count("🔁") == said.count(repeat) == 1


def test_webhooks_without_an_id_are_no_repeats(receiver: Receiver) -> None:
    """Senders of the old form give no webhook-id."""
    body = body_of({"api.calls": 7})
    for _ in range(2):
        assert receiver.post(body, signed(body))[0] == 200
    said = receiver.stop()
    assert said.count("💰") == 2
    assert "🔁" not in said


def aggregation_of(customer_id: str, revision: int = 1) -> dict[str, Any]:
    """As meterd sends it today, with what it is known again by."""
    named = {"id": f"{customer_id}_daily_20260114", "revision": revision}
    data = {**DOCUMENTED["data"], "events": {"api.calls": 7}, **named}
    return {**DOCUMENTED, "customerId": customer_id, "data": data}


def revision_of(events: dict[str, Any], before: dict[str, Any], number: int = 2) -> bytes:
    made = aggregation_of("customer_1", number)
    previous = {"events": before, "revision": number - 1}
    data = {**made["data"], "events": events, "previous": previous}
    return json.dumps({**made, "type": "aggregation.revised", "data": data}).encode()


def batch_of(*items: Any) -> bytes:
    batch = {"type": "aggregation.batch", "period": "daily", "data": {"items": items}}
    return json.dumps(batch).encode()


def test_each_item_of_a_batch_is_processed_once(receiver: Receiver) -> None:
    """Also where it comes alone afterwards, under an id of its own; a later revision is another."""
    bodies = [
        batch_of(aggregation_of("a"), aggregation_of("b")),
        json.dumps(aggregation_of("a")).encode(),
        json.dumps(aggregation_of("a", 2)).encode(),
    ]
    for number, body in enumerate(bodies):
        headers = signed(body, webhook_id=f"msg_{number}")
        assert receiver.post(body, headers) == (200, {"received": True})
    said = receiver.stop()
    assert "\n✅ Signature verified\n📦 Batch of 2 aggregations\n" in said
    assert said.count("💰 Billing: 7 API calls") == 3
    assert said.count("🔁 Repeat of a_daily_20260114 revision 1: already processed\n") == 1


def test_a_batch_with_an_item_that_is_none_is_400(receiver: Receiver) -> None:
    """Nothing of it is processed, so its repeat is no repeat."""
    body = batch_of(aggregation_of("a"), {"type": "aggregation.completed"})
    assert receiver.post(body, signed(body)) == (400, {"error": "Malformed webhook"})
    whole = batch_of(aggregation_of("a"))
    assert receiver.post(whole, signed(whole)) == (200, {"received": True})
    said = receiver.stop()
    assert said.count("📦 Batch of 1 aggregation\n") == 1
    assert said.count("💰") == 1
    assert "🔁" not in said


@pytest.mark.parametrize("kind", ["webhook.test", "invoice.made"])
def test_types_that_it_does_not_know_are_taken(receiver: Receiver, kind: str) -> None:
    """A sender may learn new ones: refused, they would be sent for days."""
    body = json.dumps({"type": kind, "data": {}}).encode()
    assert receiver.post(body, signed(body)) == (200, {"received": True})
    assert receiver.stop().endswith(f"✅ Signature verified\n⏭️  Ignored: {kind}\n")


MB = 1024 * 1024


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ({"api.calls": 0}, ["   💰 Billing: 0 API calls = $0.00"]),
        ({"api.calls": 1234567}, ["   💰 Billing: 1234567 API calls = $1234.57"]),
        ({"storage.bytes": 1000 * MB}, []),
        ({"storage.bytes": 1500 * MB}, ["   ⚠️  Alert: High storage usage (1500.00 MB)"]),
        ({"response.time.ms": 200}, []),
        (
            {"response.time.ms": 200.25},
            ["   📊 Analytics: Slow response time (200.25ms avg)"],
        ),
        ({"errors.count": 10}, []),
        ({"errors.count": 11}, ["   🚨 Error Spike: 11 errors detected"]),
    ],
)
def test_the_totals_are_acted_upon(
    receiver: Receiver, events: dict[str, Any], expected: list[str]
) -> None:
    """A bill for any API calls; an alarm above 1000 MB, above 200 ms, above 10 errors."""
    body = body_of(events)
    assert receiver.post(body, signed(body))[0] == 200
    _, acted = receiver.stop().split("💡 Processing daily aggregation for customer_1\n")
    assert acted.splitlines() == expected


def test_totals_keep_their_digits(receiver: Receiver) -> None:
    """A number is shown as it was written, beyond what a double holds."""
    body = body_of({"total": 0}).replace(b'"total": 0', b'"total": 9007199254740993.10')
    assert receiver.post(body, signed(body))[0] == 200
    assert "\n  total: 9007199254740993.10\n" in receiver.stop()


def test_names_cannot_forge_lines(receiver: Receiver) -> None:
    """Line ends and escape codes in a name are not printed as such."""
    body = body_of({"api.calls": 1}, "c\n💰 \x1b[2J")
    assert receiver.post(body, signed(body))[0] == 200
    said = receiver.stop()
    assert "\x1b" not in said
    assert "\nCustomer ID: c�💰 �[2J\n" in said


NO_AGGREGATIONS = [
    b"{",
    b"[]",
    b"{}",
    b'{"data":1}',
    b'{"type":1}',
    b'{"type":"aggregation.completed"}',
    b'{"type":"usage.threshold.reached"}',
    revision_of({}, {}).replace(b'"previous": {"events": {}', b'"previous": {"events": []'),
    batch_of(1),
    b"\xff",
    body_of({}).replace(b'"events": {}', b'"events": []'),
    body_of({"errors.count": "many"}),
]


@pytest.mark.parametrize("body", NO_AGGREGATIONS)
def test_a_signed_body_that_is_no_aggregation_is_400(receiver: Receiver, body: bytes) -> None:
    """Somebody else who knows the secret does not take the receiver down."""
    assert receiver.post(body, signed(body)) == (400, {"error": "Malformed webhook"})
    assert receiver.stop().endswith("✅ Signature verified\n❌ Not an aggregation\n")


def test_other_requests_are_refused(receiver: Receiver) -> None:
    """An unknown path, a body without a length, a body beyond the limit."""
    body = body_of({})
    assert receiver.post(body, signed(body), "/other") == (404, {"error": "Not found"})
    assert httpx.get(receiver.url + "/other", trust_env=False).status_code == 404
    assert raw(receiver, f"POST {PATH} HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.0 411 ")
    too_long = f"POST {PATH} HTTP/1.0\r\nContent-Length: {8 * 1024 * 1024 + 1}\r\n\r\n"
    assert raw(receiver, too_long).startswith(b"HTTP/1.0 413 ")
    assert receiver.stop() == ""


def raw(receiver: Receiver, request: str) -> bytes:
    with socket.create_connection(("127.0.0.1", receiver.port), timeout=SECONDS_MAX) as peer:
        peer.sendall(request.encode())
        return peer.makefile("rb").read()


def test_health(receiver: Receiver) -> None:
    """GET / says that it is there, and where webhooks go."""
    answer = httpx.get(receiver.url, trust_env=False)
    assert (answer.status_code, answer.json()) == (
        200,
        {
            "status": "ok",
            "service": "Webhook Receiver",
            "endpoints": {"webhook": "POST /webhooks/metering"},
        },
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_after_the_requests_that_have_begun(
    receiver: Receiver, number: signal.Signals
) -> None:
    """SIGTERM and Ctrl-C: what is on its way is answered, then it says goodbye and exits with 0."""
    body = body_of({"api.calls": 7})
    head = "".join(f"{name}: {value}\r\n" for name, value in signed(body).items())
    with socket.create_connection(("127.0.0.1", receiver.port), timeout=SECONDS_MAX) as peer:
        peer.sendall(f"POST {PATH} HTTP/1.0\r\n{head}Content-Length: {len(body)}\r\n\r\n".encode())
        # Connections are taken in their order: after this answer the first one has been.
        assert httpx.get(receiver.url, trust_env=False).status_code == 200
        receiver.process.send_signal(number)
        wait_until_nobody_listens(receiver.port)
        peer.sendall(body)
        assert peer.makefile("rb").read().endswith(b'{"received":true}')
    receiver.process.wait(timeout=SECONDS_MAX)
    assert "💰 Billing: 7 API calls = $0.01\n" in receiver.stop()


def wait_until_nobody_listens(port: int) -> None:
    deadline = time.monotonic() + SECONDS_MAX
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=SECONDS_MAX).close()
        except OSError:
            return
    pytest.fail("it still listens")


def test_a_port_that_is_taken_is_named(receiver: Receiver) -> None:
    """One line says which port, and the exit code is 1."""
    done = run(NAME, PORT=str(receiver.port))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"❌ Error: cannot listen on port {receiver.port}: ")
