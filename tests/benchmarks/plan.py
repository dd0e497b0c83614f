"""What a load client is asked to do and what it tells: JSON on its stdin, JSON on its stdout."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

EVENT_TYPES: Final = ("api.calls", "storage.bytes", "response.time.ms", "test.count", "test.last")

# single     POST /usage/{eventType}, random customers
# batch      POST /usagebatch, 1000 events of random customers
# introduce  POST /usagebatch until each customer has had one event of each of ``types`` types
# fill       POST /usagebatch until ``events`` are sent, each with the events of ten customers
# ping       GET /ping
# mixed      single, every hundredth request a ping
# listing    GET /events?customerId= of random customers
Kind = Literal["single", "batch", "introduce", "fill", "ping", "mixed", "listing"]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """One load. Ends after ``seconds``, or when all that ``kind`` has to send is answered."""

    kind: Kind
    connections: int
    customers: int = 1000
    # A header field that the fast lane does not know leaves the request to hypercorn and Quart.
    by_quart: bool = False
    # Each event of ``single`` and ``batch`` with an idempotency key of its own.
    keys: bool = False
    seconds: float = 3.0
    # Answers of the first moments are checked, but not measured.
    warm_up_s: float = 0.5
    # Requests a second, sent when they are due however long others take; None sends the next one
    # when the last is answered.
    rate: float | None = None
    seed: int = 1
    types: int = 1
    events: int = 0


class Errand(msgspec.Struct, frozen=True):
    """A plan, and where to carry it out. ``address`` is host:port."""

    address: str
    key: str
    plan: Plan


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a plan. Latencies are until the whole answer was there.

    ``events`` are all that were acknowledged, for a reckoning against the server's CPU time, while
    the rates are of the time that is measured. An event is a request where none is stored.
    ``busy`` is the share of all that time in which the client used its core.
    """

    events: int
    events_per_s: float
    requests_per_s: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    failures: dict[str, int]
    busy: float
