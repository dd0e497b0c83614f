"""Stands in for the endpoints of Stripe that examples/stripe_invoice_webhook.py calls.

Like Stripe where it matters: forms are decoded and unknown parameters refused (by the lists that
the library has from Stripe's OpenAPI); lists come newest first, in pages; a draft alone takes
items. What a request with an Idempotency-Key came to is stored once it was executed, errors too,
and answered again to the same request; to another with the same key, 400. A rate limit is not
stored.
"""

from __future__ import annotations

import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, NamedTuple, Self
from urllib.parse import parse_qsl, urlsplit

from stripe.params import InvoiceCreateParams, InvoiceItemCreateParams, InvoiceUpdateParams

KEY: Final = "sk_test_of_this_test"
INVOICES: Final = "/v1/invoices"
ITEMS: Final = "/v1/invoiceitems"


class Answer(NamedTuple):
    status: int
    body: dict[str, Any]


class Request(NamedTuple):
    method: str
    path: str
    params: dict[str, Any]
    key: str | None


class Fault(NamedTuple):
    """What befalls the next POST to that path: once it is executed where ``executed``.

    ``status`` 400 and 500 are stored under the key, 429 is not. None is an answer that gets lost,
    or a request that does.
    Where ``held``, nothing is answered before ``release`` is called.
    """

    path: str
    status: int | None = None
    executed: bool = True
    held: bool = False


def error(status: int, kind: str, message: str, code: str | None = None) -> Answer:
    told = {"type": kind, "message": message, **({"code": code} if code else {})}
    return Answer(status, {"error": told})


def invalid(message: str, code: str) -> Answer:
    return error(400, "invalid_request_error", message, code)


def decoded(form: str) -> dict[str, Any]:
    """``a=1&b[c]=2`` as ``{"a": "1", "b": {"c": "2"}}``."""
    found: dict[str, Any] = {}
    for name, value in parse_qsl(form, keep_blank_values=True):
        first, *others = re.findall(r"[^\[\]]+", name)
        where = found
        for inner in others:
            where = where.setdefault(first, {})
            first = inner
        assert first not in where, f"{name} twice"
        where[first] = value
    return found


class Stripe:
    """Serves within ``with``. ``requests`` are all that came; ``faults`` befall the next POSTs to
    their paths, after ``skip`` of those.
    """

    def __init__(self) -> None:
        self.customers = {"cus_A", "cus_B", "cus_C"}
        self.invoices: list[dict[str, Any]] = []
        self.items: list[dict[str, Any]] = []
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.skip = 0
        self.held = threading.Event()
        self._released = threading.Event()
        self._stored: dict[str, tuple[Request, Answer | None]] = {}
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._released.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def forget_keys(self) -> None:
        """As Stripe may once they are 24 hours old."""
        with self._lock:
            self._stored.clear()

    def advance(self) -> None:
        """What becomes of the invoices after an hour."""
        for invoice in self.invoices:
            if invoice["auto_advance"] and invoice["status"] == "draft":
                invoice["status"] = "open"

    def release(self) -> None:
        self._released.set()

    def made(self) -> dict[tuple[str, int], dict[str, int]]:
        """Each invoice's amount by event type. Fails where one is there twice, or a line is."""
        found: dict[tuple[str, int], dict[str, int]] = {}
        names = {}
        for invoice in self.invoices:
            told = invoice["metadata"]
            name = (told["meterd_aggregation"], int(told["meterd_revision"]))
            assert name not in found, f"{name} is invoiced twice"
            found[name] = {}
            names[invoice["id"]] = name
        for item in self.items:
            lines = found[names[item["invoice"]]]
            event_type = item["metadata"]["meterd_event_type"]
            assert event_type not in lines, f"{event_type} is charged twice"
            lines[event_type] = item["amount"]
        return found

    def posts(self, path: str) -> list[Request]:
        return [one for one in self.requests if (one.method, one.path) == ("POST", path)]

    def answer(self, request: Request) -> tuple[Answer, Fault | None]:
        with self._lock:
            self.requests.append(request)
            if request.method == "GET":
                return self._listed(request), None
            fault = self._fault(request.path)
            if fault and fault.status == 429:
                return error(429, "rate_limit_error", "Too many requests", "rate_limit"), None
            known = self._stored.get(request.key) if request.key else None
            if known is not None:
                return self._again(request, *known), fault if fault and not fault.status else None
            answer = error(500, "api_error", "Something went wrong")
            if fault is None or fault.executed:
                done = self._executed(request)
                answer = done if fault is None or fault.status is None else answer
            elif fault.status is None:
                return answer, fault
            if fault and fault.status == 400:
                answer = invalid("The account may not do this", "account_invalid")
            if request.key and answer.body.get("error", {}).get("code") != "parameter_unknown":
                self._stored[request.key] = (request, answer)
            return answer, fault

    def _fault(self, path: str) -> Fault | None:
        fault = next((one for one in self.faults if one.path == path), None)
        if fault is None:
            return None
        if self.skip:
            self.skip -= 1
            return None
        self.faults.remove(fault)
        return fault

    def _again(self, request: Request, before: Request, answer: Answer | None) -> Answer:
        assert answer is not None
        if (before.path, before.params) != (request.path, request.params):
            told = "Keys for idempotent requests can only be used with the same parameters"
            return error(400, "idempotency_error", told)
        return answer

    def _executed(self, request: Request) -> Answer:
        if request.path == INVOICES:
            return self._created_invoice(request.params)
        if request.path == ITEMS:
            return self._created_item(request.params)
        updated = re.fullmatch(rf"{INVOICES}/(\w+)", request.path)
        invoice = self._invoice(updated[1]) if updated else None
        if invoice is None:
            return error(404, "invalid_request_error", f"No such path: {request.path}")
        if unknown := request.params.keys() - InvoiceUpdateParams.__annotations__.keys():
            return invalid(f"Received unknown parameters: {unknown}", "parameter_unknown")
        invoice["auto_advance"] = request.params["auto_advance"] == "true"
        return Answer(200, invoice)

    def _created_invoice(self, params: dict[str, Any]) -> Answer:
        if unknown := params.keys() - InvoiceCreateParams.__annotations__.keys():
            return invalid(f"Received unknown parameters: {unknown}", "parameter_unknown")
        if params["customer"] not in self.customers:
            return invalid(f"No such customer: '{params['customer']}'", "resource_missing")
        assert params["pending_invoice_items_behavior"] == "exclude"
        invoice = {
            **params,
            "id": f"in_{len(self.invoices) + 1}",
            "object": "invoice",
            "status": "draft",
            "created": int(time.time()),
            "auto_advance": params.get("auto_advance") == "true",
        }
        self.invoices.append(invoice)
        return Answer(200, invoice)

    def _created_item(self, params: dict[str, Any]) -> Answer:
        if unknown := params.keys() - InvoiceItemCreateParams.__annotations__.keys():
            return invalid(f"Received unknown parameters: {unknown}", "parameter_unknown")
        if not re.fullmatch(r"-?[0-9]{1,12}", params["amount"]):
            return invalid(f"Invalid integer: {params['amount']}", "parameter_invalid_integer")
        invoice = self._invoice(params["invoice"])
        if invoice is None:
            return invalid(f"No such invoice: '{params['invoice']}'", "resource_missing")
        if invoice["status"] != "draft":
            return invalid("The invoice is not a draft", "invoice_not_editable")
        for name in ("customer", "currency"):
            if params[name] != invoice[name]:
                return invalid(f"{name} differs from the invoice's", "invalid")
        item = {
            **params,
            "id": f"ii_{len(self.items) + 1}",
            "object": "invoiceitem",
            "amount": int(params["amount"]),
        }
        self.items.append(item)
        return Answer(200, item)

    def _invoice(self, name: str) -> dict[str, Any] | None:
        return next((one for one in self.invoices if one["id"] == name), None)

    def _listed(self, request: Request) -> Answer:
        params = request.params
        if request.path == INVOICES:
            if params["customer"] not in self.customers:
                return invalid(f"No such customer: '{params['customer']}'", "resource_missing")
            since = int(params["created"]["gte"])
            found = [one for one in self.invoices if one["created"] >= since]
            found = [one for one in found if one["customer"] == params["customer"]]
        else:
            assert request.path == ITEMS, request.path
            found = [one for one in self.items if one["invoice"] == params["invoice"]]
        found.reverse()
        ids = [one["id"] for one in found]
        first = ids.index(params["starting_after"]) + 1 if "starting_after" in params else 0
        page = found[first : first + min(int(params["limit"]), 100)]
        more = first + len(page) < len(found)
        listed = {"object": "list", "url": request.path, "has_more": more, "data": page}
        return Answer(200, listed)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        stripe = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._serve(urlsplit(self.path).query)

            def do_POST(self) -> None:
                form = self.rfile.read(int(self.headers.get("Content-Length", "0")))
                self._serve(form.decode())

            def _serve(self, form: str) -> None:
                path = urlsplit(self.path).path
                key = self.headers.get("Idempotency-Key")
                request = Request(self.command, path, decoded(form), key)
                if self.headers["Authorization"] != f"Bearer {KEY}":
                    told = "Invalid API Key provided"
                    answer, fault = error(401, "invalid_request_error", told), None
                else:
                    answer, fault = stripe.answer(request)
                if fault and fault.held:
                    stripe.held.set()
                    stripe._released.wait()
                if fault and fault.status is None:
                    self.close_connection = True
                    return
                body = json.dumps(answer.body).encode()
                self.send_response(answer.status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        return Handler
