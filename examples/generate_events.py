"""Sends random, valid usage events, one request each: something to meter while trying meterd.

    API_KEY=... python examples/generate_events.py

Environment: API_KEY (required), BASE_URL (http://127.0.0.1:8080), EVENT_COUNT (100) and DELAY_MS,
the pause between two events in milliseconds (0). Ends with 1 when any event was refused.
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from decimal import Decimal
from random import choice, choices, randrange
from typing import TYPE_CHECKING, Final, NamedTuple

import httpx
from rich.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

CUSTOMERS: Final = ("customer_1", "customer_2", "customer_3")
REGIONS: Final = ("us-east-1", "eu-west-1", "ap-south-1")
BYTES_PER_MB: Final = 1024 * 1024
RULE: Final = "═" * 51

Metadata = dict[str, str | int | bool]


class Event(NamedTuple):
    event_type: str
    customer_id: str
    value: int
    metadata: Metadata

    def __str__(self) -> str:
        value = str(self.value)
        if self.event_type == "storage.bytes":
            value = f"{Decimal(self.value) / BYTES_PER_MB:.2f} MB"
        return f"{self.event_type} for {self.customer_id} (value: {value})"


def api_call() -> tuple[int, Metadata]:
    return 1, {
        "method": choice(("GET", "POST", "PUT", "PATCH", "DELETE")),
        "endpoint": choice(("/api/users", "/api/orders", "/api/products", "/api/search")),
        "statusCode": choice((200, 200, 200, 201, 204, 400, 401, 404, 500)),
    }


def storage_bytes() -> tuple[int, Metadata]:
    """From 1 KB to 100 MB."""
    return randrange(1024, 100 * BYTES_PER_MB), {
        "fileType": choice(("document", "image", "video", "archive", "code")),
        "operation": choice(("upload", "update", "snapshot")),
        "location": choice(REGIONS),
    }


def response_time_ms() -> tuple[int, Metadata]:
    """Fast for the most part, with the long tail that real services have."""
    fast, medium, slow = range(50, 300), range(300, 1000), range(1000, 2000)
    (band,) = choices((fast, medium, slow), weights=(70, 25, 5))
    return choice(band), {
        "endpoint": choice(("/api/users", "/api/orders", "/api/products", "/api/reports")),
        "region": choice(REGIONS),
        "cached": choice((True, False)),
    }


EVENT_TYPES: Final[dict[str, Callable[[], tuple[int, Metadata]]]] = {
    "api.calls": api_call,
    "storage.bytes": storage_bytes,
    "response.time.ms": response_time_ms,
}


def random_event() -> Event:
    event_type = choice(tuple(EVENT_TYPES))
    return Event(event_type, choice(CUSTOMERS), *EVENT_TYPES[event_type]())


def send(client: httpx.Client, event: Event) -> str | None:
    """What went wrong, or None: the event is on meterd's disk."""
    body = {"customerId": event.customer_id, "value": event.value, "metadata": event.metadata}
    try:
        answer = client.post(f"/usage/{event.event_type}", json=body)
    except httpx.HTTPError as error:
        return f"{type(error).__name__}: {error}"
    return None if answer.is_success else f"HTTP {answer.status_code}: {answer.text}"


def send_all(client: httpx.Client, count: int, delay_ms: int) -> list[Event]:
    """Sends ``count`` events, a line for each, and returns those that meterd took."""
    captured = []
    # On a terminal a bar runs below the lines; a file or a pipe gets the lines and nothing else.
    with Progress(transient=True, disable=not sys.stdout.isatty()) as progress:
        for number in progress.track(range(1, count + 1), description="Sending"):
            event = random_event()
            failure = send(client, event)
            if failure is None:
                captured.append(event)
                print(f"✅ [{number}/{count}] {event}", flush=True)
            else:
                print(f"❌ [{number}/{count}] Failed: {failure}", file=sys.stderr, flush=True)
            if number < count:
                time.sleep(delay_ms / 1000)
    return captured


def shares(names: Iterable[str], found: Counter[str]) -> str:
    total = found.total() or 1  # nothing captured: everybody's share is 0.0%
    return "\n".join(f"  {name}: {found[name]} ({found[name] / total:.1%})" for name in names)


def number_of(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def summary(captured: list[Event], count: int, seconds: float) -> str:
    return f"""
{RULE}
📊 Summary
{RULE}
Total Events:  {count}
Success:       {len(captured)} ✅
Failed:        {count - len(captured)} ❌
Duration:      {seconds:.2f}s
Rate:          {count / seconds:.2f} events/sec

By Customer:
{shares(CUSTOMERS, Counter(event.customer_id for event in captured))}

By Event Type:
{shares(EVENT_TYPES, Counter(event.event_type for event in captured))}
{RULE}
"""


def header(base_url: str, api_key: str, count: int, delay_ms: int) -> str:
    return f"""🚀 Event Generator
{RULE}
Base URL:      {base_url}
API Key:       {f"***{api_key[-4:]}" if api_key else "(not set)"}
Event Count:   {count}
Delay:         {delay_ms}ms
Customers:     {", ".join(CUSTOMERS)}
Event Types:   {", ".join(EVENT_TYPES)}
{RULE}
"""


def whole_number(name: str, default: int) -> int:
    text = os.environ.get(name) or str(default)
    if not (text.isascii() and text.isdigit()):
        sys.exit(f"❌ Error: {name} must be a whole number, not {text!r}")
    return int(text)


def main() -> int:
    base_url = os.environ.get("BASE_URL") or "http://127.0.0.1:8080"
    api_key = os.environ.get("API_KEY", "")
    count, delay_ms = whole_number("EVENT_COUNT", 100), whole_number("DELAY_MS", 0)
    print(header(base_url, api_key, count, delay_ms))
    if not api_key:
        sys.exit("❌ Error: the environment variable API_KEY is required")

    print(f"Generating {number_of(count, 'event')}...\n")
    with httpx.Client(base_url=base_url, headers={"x-apikey": api_key}, timeout=10) as client:
        begun = time.perf_counter()
        captured = send_all(client, count, delay_ms)
        print(summary(captured, count, time.perf_counter() - begun))
    return 0 if len(captured) == count else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)  # 128 + SIGINT, as shells have it
