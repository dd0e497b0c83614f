"""Makes a Stripe invoice of each monthly aggregation that meterd sends: once, and of the right sum.

    pip install stripe standardwebhooks
    STRIPE_API_KEY=sk_... WEBHOOK_SECRET=whsec_... python examples/stripe_invoice_webhook.py

To be copied: PRICES and ``stripe_customer`` are yours to change. Environment: PORT (3000);
CUSTOMERS (customers.json), which of Stripe's customers each of meterd's is; DATABASE
(stripe_invoices.sqlite3), to be kept; AUTO_ADVANCE (true lets Stripe finalize and collect, else
invoices stay drafts for you to look at); STRIPE_API_BASE, for a stand-in of Stripe.

It answers 2xx once Stripe has the invoice, or there is none to make. Anything else says why, and
meterd sends the webhook again, for days. Against a second invoice stand three things:

- Stripe's idempotency keys, made of the aggregation's id and revision. They catch what comes soon:
  a lost answer's repeat, another process. Stripe may forget them after 24 hours.
- The database. What is to be invoiced is written down before Stripe is asked, so that a repeat asks
  for the same though prices have changed meanwhile; what is done is answered from it, for ever.
- A look at Stripe's list of the customer's invoices before one is made: after a crash nobody knows
  whether Stripe did it, and the key may be forgotten. Lists are up to date; Stripe's search is not.

The invoice is made first, an empty draft, and then each line on it. Lines made first would be
pending, and a subscription's invoice could take them along.

A line costs the exact total times the price, rounded to a whole cent, halves away from zero: once
for each line. A later revision (``aggregation.revised``, with the new totals as ``data.exact``) is
invoiced by its difference to what was invoiced before, at the price of then; less than nothing is
credited to the customer's balance by Stripe. A revision that comes after a later one is not
invoiced: the later one has it all.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
import signal
import socket
import sqlite3
import sys
import threading
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from decimal import ROUND_HALF_UP, Context, Decimal, DecimalException, InvalidOperation, Overflow
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import stripe
from standardwebhooks import Webhook, WebhookVerificationError

if TYPE_CHECKING:
    from email.message import Message
    from types import FrameType


class Price(NamedTuple):
    """``unit_amount`` is in the currency's smallest unit, as cents are, and need not be whole."""

    unit_amount: Decimal
    description: str
    currency: str


# An event type without a price is not invoiced. One currency: a Stripe invoice has only one.
PRICES: Final = {
    "api.calls": Price(Decimal("0.1"), "API calls", "usd"),
    "storage.bytes": Price(Decimal("0.00000001"), "Peak storage in bytes", "usd"),
}
PERIOD: Final = "monthly"  # other periods are not invoiced

PATH: Final = "/webhooks/stripe"
BODY_MAX: Final = 8 * 1024 * 1024  # bytes; a hundred aggregations in a batch, many event types each
STRIPE_TIMEOUT_S: Final = 10  # meterd waits for 15 seconds
STRIPE_AT_A_TIME: Final = 8  # a batch's customers; Stripe takes 25 requests a second in test mode
PAUSE_S: Final = 60  # what meterd is asked to wait where Stripe cannot be used at all
# Of the currencies whose smallest unit is not a hundredth to Stripe.
DECIMAL_PLACES: Final = {
    **dict.fromkeys(("bif", "clp", "djf", "gnf", "jpy", "kmf", "krw", "mga", "pyg", "rwf"), 0),
    **dict.fromkeys(("vnd", "vuv", "xaf", "xof", "xpf"), 0),
    **dict.fromkeys(("bhd", "jod", "kwd", "omr", "tnd"), 3),
}
# No total times a price has as many digits; what is no number at all is an error.
EXACT: Final = Context(prec=2000, Emax=2000, Emin=-2000, traps=[InvalidOperation, Overflow])


class RefusedError(Exception):
    """Why a webhook is answered with another status than 200."""

    def __init__(self, status: HTTPStatus, reason: str, retry_after_s: int | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.retry_after_s = retry_after_s


def stripe_customer(customer_id: str) -> str:
    """Stripe's id of a customer of meterd's: the same one, or what the file says.

    The file is read each time: a customer that is added is known to the next attempt.
    """
    if customer_id.startswith("cus_"):
        return customer_id
    path = Path(os.environ.get("CUSTOMERS") or "customers.json")
    try:
        found = json.loads(path.read_bytes()).get(customer_id) if path.exists() else None
    except (OSError, ValueError, AttributeError) as error:
        reason = f'{path} takes {{"customer_1": "cus_..."}}: {error}'
        raise RefusedError(HTTPStatus.INTERNAL_SERVER_ERROR, reason) from error
    if not isinstance(found, str):
        reason = f"{customer_id} has no Stripe customer in {path}"
        raise RefusedError(HTTPStatus.UNPROCESSABLE_ENTITY, reason)
    return found


class Aggregation(NamedTuple):
    """What is read of a payload."""

    id: str
    revision: int
    customer_id: str
    period_key: str
    start_s: int
    end_s: int
    totals: dict[str, Decimal]

    @property
    def text(self) -> str:
        return f"{self.customer_id} {self.period_key} revision {self.revision}"


def needed(payload: Any, name: str, kind: type) -> Any:
    found = payload.get(name) if isinstance(payload, dict) else None
    if not isinstance(found, kind):
        raise RefusedError(HTTPStatus.BAD_REQUEST, f"{name} is missing, or no {kind.__name__}")
    return found


def aggregation_of(payload: Any) -> Aggregation:
    """With the exact totals, which are text: read as floats, numbers may lose cents."""
    data = needed(payload, "data", dict)
    exact = needed(data, "exact", dict)
    try:
        return Aggregation(
            needed(data, "id", str),
            needed(data, "revision", int),
            needed(payload, "customerId", str),
            needed(data, "periodKey", str),
            int(datetime.fromisoformat(needed(data, "periodStart", str)).timestamp()),
            int(datetime.fromisoformat(needed(data, "periodEnd", str)).timestamp()),
            {name: number(needed(exact, name, str)) for name in exact},
        )
    except (ValueError, DecimalException) as error:
        reason = f"periodStart, periodEnd or exact: {error!r}"
        raise RefusedError(HTTPStatus.BAD_REQUEST, reason) from error


def whose(webhook: dict[str, Any], what: str) -> str:
    """``customer_1 daily 20260131``, as far as the webhook says."""
    data = webhook.get("data")
    parts = (webhook.get("customerId"), what, isinstance(data, dict) and data.get("periodKey"))
    return " ".join(part for part in parts if isinstance(part, str))


def number(text: str) -> Decimal:
    if not (found := EXACT.create_decimal(text)).is_finite():
        raise ValueError(f"{text} is no number")
    return found


class Line(NamedTuple):
    """``amount`` is what this bill asks for, whole cents; the rest says why."""

    event_type: str
    description: str
    unit_amount: str
    total: str
    before: str | None  # the total of the bill before, which this one corrects
    amount: int

    @property
    def text(self) -> str:
        corrected = "" if self.before is None else f" instead of {self.before}"
        return f"{self.description}: {self.total}{corrected}"


class Bill(NamedTuple):
    """What an aggregation's revision comes to. Written down before Stripe hears of it."""

    aggregation: str
    revision: int
    customer: str
    currency: str
    period_key: str
    start_s: int
    end_s: int
    lines: tuple[Line, ...]

    @classmethod
    def read(cls, text: str) -> Bill:
        fields = json.loads(text)
        return cls(**{**fields, "lines": tuple(Line(*line) for line in fields["lines"])})

    @property
    def metadata(self) -> dict[str, str]:
        return {"meterd_aggregation": self.aggregation, "meterd_revision": str(self.revision)}

    def key(self, refusals: int, line: str = "") -> str:
        """The idempotency key, hashed since ids may be longer than a key. Another one after each
        refusal: Stripe would repeat that for a day.
        """
        parts = json.dumps([self.aggregation, self.revision, refusals, line])
        return f"meterd-{hashlib.sha256(parts.encode()).hexdigest()}"


def billed(aggregation: Aggregation, earlier: list[Bill]) -> Bill:
    """The bill that makes all bills together what the totals cost."""
    amounts: defaultdict[str, int] = defaultdict(int)
    before: dict[str, str] = {}
    agreed: dict[str, Price] = {}
    for bill in earlier:
        for line in bill.lines:
            amounts[line.event_type] += line.amount
            before[line.event_type] = line.total
            price = Price(Decimal(line.unit_amount), line.description, bill.currency)
            agreed.setdefault(line.event_type, price)
    currency = earlier[0].currency if earlier else next(iter(PRICES.values())).currency
    lines = []
    for event_type, price in {**PRICES, **agreed}.items():
        if event_type not in aggregation.totals and event_type not in agreed:
            continue
        if price.currency != currency:
            reason = f"{event_type} costs {price.currency}, and {currency} is what was invoiced"
            raise RefusedError(HTTPStatus.INTERNAL_SERVER_ERROR, reason)
        total = aggregation.totals.get(event_type, Decimal(0))
        cost = EXACT.multiply(total, price.unit_amount)
        amount = int(cost.to_integral_value(ROUND_HALF_UP)) - amounts[event_type]
        numbers = (str(price.unit_amount), f"{total:f}", before.get(event_type))
        lines.append(Line(event_type, price.description, *numbers, amount))
    return Bill(
        aggregation.id,
        aggregation.revision,
        earlier[0].customer if earlier else stripe_customer(aggregation.customer_id),
        currency,
        aggregation.period_key,
        aggregation.start_s,
        aggregation.end_s,
        tuple(lines),
    )


def money(amount: int, currency: str) -> str:
    """``1238`` cents as people write them: ``12.38 usd``."""
    places = DECIMAL_PLACES.get(currency, 2)
    return f"{Decimal(amount).scaleb(-places):.{places}f} {currency}"


class Books:
    """What is to be invoiced and what is done, on disk before a method returns."""

    def __init__(self, path: str) -> None:
        self._lock = threading.Lock()
        self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._do("PRAGMA synchronous = FULL")
        self._do(
            "CREATE TABLE IF NOT EXISTS bills (aggregation TEXT, revision INTEGER, bill TEXT,"
            " refusals INTEGER NOT NULL DEFAULT 0, invoice TEXT,"
            " PRIMARY KEY (aggregation, revision))"
        )

    def _do(self, statement: str, *values: str | int | None) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._database.execute(statement, values).fetchall()

    def bills(self, aggregation: str) -> list[tuple[Bill, int, str | None]]:
        """By revision; each with how often Stripe refused it and, once done, its invoice or ""."""
        found = self._do(
            "SELECT bill, refusals, invoice FROM bills WHERE aggregation = ? AND bill IS NOT NULL"
            " ORDER BY revision",
            aggregation,
        )
        return [(Bill.read(text), refusals, invoice) for text, refusals, invoice in found]

    def plan(self, bill: Bill) -> None:
        text = json.dumps(bill._asdict())
        self._do(
            "INSERT INTO bills (aggregation, revision, bill) VALUES (?, ?, ?)"
            " ON CONFLICT (aggregation, revision) DO UPDATE SET bill = excluded.bill",
            *(bill.aggregation, bill.revision, text),
        )

    def refuse(self, bill: Bill, *, forget: bool) -> None:
        """``forget`` what nothing was made of: the next attempt makes it of what holds then."""
        self._do(
            "UPDATE bills SET refusals = refusals + 1, bill = ?"
            " WHERE aggregation = ? AND revision = ?",
            *(None if forget else json.dumps(bill._asdict()), bill.aggregation, bill.revision),
        )

    def finish(self, bill: Bill, invoice: str) -> None:
        self._do(
            "UPDATE bills SET invoice = ? WHERE aggregation = ? AND revision = ?",
            *(invoice, bill.aggregation, bill.revision),
        )


class Invoicer:
    """Takes aggregations to Stripe."""

    def __init__(self, client: stripe.StripeClient, books: Books, *, auto_advance: bool) -> None:
        self._invoices = client.v1.invoices
        self._items = client.v1.invoice_items
        self._books = books
        self._auto_advance = auto_advance
        # Two deliveries of one aggregation wait for each other; those of two, hardly ever.
        self._locks = [threading.Lock() for _ in range(256)]

    def take(self, aggregation: Aggregation) -> str:
        """What was done, for people. Afterwards Stripe has it, or RefusedError says why not."""
        with self._locks[hash(aggregation.id) % len(self._locks)]:
            known = [bill for bill, _, _ in self._books.bills(aggregation.id)]
            if known and known[-1].revision > aggregation.revision:
                return f"{aggregation.text}: a later revision is invoiced"
            if not known or known[-1].revision < aggregation.revision:
                self._books.plan(billed(aggregation, known))
            # An earlier one may be left, which meterd gave up: this one builds on it.
            for bill, refusals, invoice in self._books.bills(aggregation.id):
                if invoice is None:
                    self._books.finish(bill, self._carry_out(bill, refusals))
            bill, _, invoice = self._books.bills(aggregation.id)[-1]
        if not invoice:
            return f"{aggregation.text}: nothing to invoice"
        amount = money(sum(line.amount for line in bill.lines), bill.currency)
        return f"{aggregation.text}: {invoice} for {bill.customer}, {amount}"

    def _carry_out(self, bill: Bill, refusals: int) -> str:
        """The id of its invoice, with each of its lines once; "" where all lines are zero."""
        lines = [line for line in bill.lines if line.amount]
        if not lines:
            return ""
        invoice = None
        try:
            invoice = self._found(bill)
            there = self._lines_of(invoice) if invoice else set()
            invoice = invoice or self._created(bill, refusals)
            for line in lines:
                if line.event_type not in there:
                    self._add(bill, line, invoice, refusals)
            if self._auto_advance and invoice.status == "draft":
                self._invoices.update(invoice.id, {"auto_advance": True})
        except stripe.InvalidRequestError as error:
            self._books.refuse(bill, forget=invoice is None)
            raise RefusedError(HTTPStatus.BAD_GATEWAY, f"Stripe: {error}") from error
        except (stripe.APIError, stripe.IdempotencyError) as error:
            raise RefusedError(HTTPStatus.BAD_GATEWAY, f"Stripe: {error}") from error
        except stripe.StripeError as error:  # the key, the rate, the network: all have to wait
            reason = f"Stripe: {error}"
            raise RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, reason, PAUSE_S) from error
        return invoice.id

    def _found(self, bill: Bill) -> stripe.Invoice | None:
        """What an attempt has made whose answer never came."""
        made = self._invoices.list(
            {"customer": bill.customer, "created": {"gte": bill.start_s}, "limit": 100}
        )
        wanted = bill.metadata.items()
        return next(
            (one for one in made.auto_paging_iter() if wanted <= metadata(one).items()), None
        )

    def _lines_of(self, invoice: stripe.Invoice) -> set[str]:
        items = self._items.list({"invoice": invoice.id, "limit": 100})
        return {metadata(item).get("meterd_event_type", "") for item in items.auto_paging_iter()}

    def _created(self, bill: Bill, refusals: int) -> stripe.Invoice:
        revision = f", revision {bill.revision}" if bill.revision > 1 else ""
        return self._invoices.create(
            {
                "customer": bill.customer,
                "currency": bill.currency,
                "description": f"Usage {bill.period_key}{revision}",
                "metadata": bill.metadata,
                "auto_advance": False,  # not before each line is on it
                "pending_invoice_items_behavior": "exclude",
            },
            {"idempotency_key": bill.key(refusals)},
        )

    def _add(self, bill: Bill, line: Line, invoice: stripe.Invoice, refusals: int) -> None:
        self._items.create(
            {
                "customer": bill.customer,
                "invoice": invoice.id,
                "currency": bill.currency,
                "amount": line.amount,
                "description": line.text,
                "metadata": {**bill.metadata, "meterd_event_type": line.event_type},
                "period": {"start": bill.start_s, "end": bill.end_s},
            },
            {"idempotency_key": bill.key(refusals, line.event_type)},
        )


def metadata(made: stripe.Invoice | stripe.InvoiceItem) -> dict[str, str]:
    return made.metadata.to_dict() if made.metadata else {}


class Receiver(ThreadingHTTPServer):
    """A thread for each connection. Closing waits for the requests that have begun."""

    daemon_threads = False

    def __init__(self, port: int, verifier: Webhook, invoicer: Invoicer) -> None:
        super().__init__(("", port), Handler, bind_and_activate=False)
        self.socket.close()
        # localhost is ::1 to some senders and 127.0.0.1 to others: both families where there are.
        dual = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if dual else socket.AF_INET
        self.socket = socket.create_server(("", port), family=family, dualstack_ipv6=dual)
        self.port: int = self.socket.getsockname()[1]
        self._verifier = verifier
        self._invoicer = invoicer

    def take(self, headers: Message, body: bytes) -> list[str]:
        """What was done. Nothing of the body is read before its signature is verified."""
        try:
            self._verifier.verify(body, dict(headers.items()), json_parse=False)
        except (WebhookVerificationError, ValueError) as error:
            raise RefusedError(HTTPStatus.UNAUTHORIZED, f"Invalid signature: {error}") from error
        try:
            webhook = json.loads(body)
        except ValueError as error:
            raise RefusedError(HTTPStatus.BAD_REQUEST, f"not JSON: {error}") from error
        if needed(webhook, "type", str) != "aggregation.batch":
            return self._in_order([webhook])
        by_customer: defaultdict[str, list[Any]] = defaultdict(list)
        for item in needed(needed(webhook, "data", dict), "items", list):
            by_customer[needed(item, "customerId", str)].append(item)
        # One that fails makes the batch fail; the repeat makes nothing of those that are done.
        with ThreadPoolExecutor(STRIPE_AT_A_TIME) as pool:
            begun = [pool.submit(self._in_order, items) for items in by_customer.values()]
        failed = [told for one in begun if isinstance(told := one.exception(), RefusedError)]
        if failed:
            worst = max(failed, key=lambda refused: refused.status)
            raise RefusedError(worst.status, "; ".join(map(str, failed)), worst.retry_after_s)
        return [line for one in begun for line in one.result()]

    def _in_order(self, webhooks: list[Any]) -> list[str]:
        """One customer's, up to the first that fails."""
        return [self._done(webhook) for webhook in webhooks]

    def _done(self, webhook: Any) -> str:
        if needed(webhook, "type", str) not in ("aggregation.completed", "aggregation.revised"):
            return f"ignored: {whose(webhook, webhook['type'])}"
        if needed(webhook, "period", str) != PERIOD:
            return f"ignored: {whose(webhook, webhook['period'])}"
        try:
            return self._invoicer.take(aggregation_of(webhook))
        except sqlite3.Error as error:
            raise RefusedError(HTTPStatus.INTERNAL_SERVER_ERROR, f"database: {error}") from error


class Handler(BaseHTTPRequestHandler):
    server: Receiver
    timeout = 5  # seconds without a byte, after which a connection is given up

    def do_POST(self) -> None:
        try:
            done = self.server.take(self.headers, self._body())
        except RefusedError as refused:
            done = [f"❌ {refused.status.value} {refused}"]
            self._answer(refused.status, {"error": str(refused)}, refused.retry_after_s)
        else:
            self._answer(HTTPStatus.OK, {"received": True, "done": done})
            done = [f"✅ {line}" for line in done]
        # In one piece, so that two webhooks at a time don't mix their lines.
        sys.stdout.write("".join(f"{printable(line)}\n" for line in done))

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if self.path != PATH:
            raise RefusedError(HTTPStatus.NOT_FOUND, "Not found")
        if not re.fullmatch(r"[0-9]{1,15}", length):
            raise RefusedError(HTTPStatus.LENGTH_REQUIRED, "Content-Length required")
        if int(length) > BODY_MAX:
            raise RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "Body too large")
        return self.rfile.read(int(length))

    def _answer(self, status: HTTPStatus, answer: Any, retry_after_s: int | None = None) -> None:
        body = json.dumps(answer, separators=(",", ":")).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if retry_after_s is not None:
            self.send_header("Retry-After", str(retry_after_s))
        try:
            self.end_headers()
            self.wfile.write(body)
        except ConnectionError:
            self.close_connection = True  # the sender waits no more; its repeat is answered

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Silent: what is done is printed already."""


def printable(line: str) -> str:
    """The line without what would steer a terminal or begin a line of its own."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in line)


def setting(name: str) -> str:
    return os.environ.get(name) or sys.exit(f"❌ Error: {name} is not set")


def verifier_of(secret: str) -> Webhook:
    spelled = secret.removeprefix("whsec_")
    try:  # with its padding or without
        key = base64.b64decode(spelled + "=" * (-len(spelled) % 4), validate=True)
    except ValueError:
        key = b""
    if not secret.startswith("whsec_") or len(key) not in range(24, 64 + 1):
        sys.exit("❌ Error: WEBHOOK_SECRET takes whsec_ and the base64 of 24 to 64 bytes")
    return Webhook(key)


def main() -> None:
    if isinstance(sys.stdout, io.TextIOWrapper):  # each line at once, into files and pipes too
        sys.stdout.reconfigure(line_buffering=True, errors="replace")
    if len({price.currency for price in PRICES.values()}) != 1:
        sys.exit("❌ Error: PRICES takes one currency, since an invoice has only one")
    client = stripe.StripeClient(
        setting("STRIPE_API_KEY"),
        base_addresses={"api": os.environ.get("STRIPE_API_BASE") or stripe.DEFAULT_API_BASE},
        max_network_retries=1,  # at once; the others are meterd's
        http_client=stripe.RequestsClient(timeout=STRIPE_TIMEOUT_S),
    )
    verifier = verifier_of(setting("WEBHOOK_SECRET"))
    port = os.environ.get("PORT") or "3000"
    path = os.environ.get("DATABASE") or "stripe_invoices.sqlite3"
    try:
        books = Books(path)
        auto_advance = os.environ.get("AUTO_ADVANCE") == "true"
        receiver = Receiver(int(port), verifier, Invoicer(client, books, auto_advance=auto_advance))
    except sqlite3.Error as error:
        sys.exit(f"❌ Error: DATABASE {path}: {error}")
    except (ValueError, OverflowError, OSError) as error:
        sys.exit(f"❌ Error: cannot listen on port {port}: {error}")

    def stop(number: int, _frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)  # the second time it ends at once
        # shutdown() waits for the loop that this handler has interrupted.
        threading.Thread(target=receiver.shutdown).start()

    with receiver:
        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        print(f"🧾 Listening on: http://localhost:{receiver.port}{PATH}")
        receiver.serve_forever(poll_interval=0.1)  # seconds until a signal is followed
    print("Shutting down gracefully...")


if __name__ == "__main__":
    main()
