"""Sends random usage events in batches, or with --dry-run only prints them.

    API_KEY=... python examples/generate_batchevents.py --count 2500 --customers 5

meterd takes at most 1000 events in one request, so more are sent in several, one after the other.
A request is stored whole or not at all; the first that is not ends the run with 1.
"""

from __future__ import annotations

import json
import sys
from http import HTTPStatus
from random import choice, randint
from typing import Any, Final

import click
import httpx

EVENTS_PER_REQUEST_MAX: Final = 1000  # what POST /usagebatch takes

# The smallest and the largest value of each event type.
EVENT_TYPES: Final = {
    "api.calls": (1, 100),
    "storage.bytes": (1_000, 1_000_000),
    "response.time.ms": (10, 500),
}

Event = dict[str, Any]


def random_events(count: int, customers: int) -> list[Event]:
    events = []
    for index in range(count):
        event_type = choice(tuple(EVENT_TYPES))
        events.append(
            {
                "eventType": event_type,
                "customerId": f"customer-{randint(1, customers):03}",
                "value": randint(*EVENT_TYPES[event_type]),
                "metadata": {"source": "generate_batchevents", "batchIndex": index},
            }
        )
    return events


def number_of(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def send(client: httpx.Client, batch: list[Event], label: str) -> None:
    """Sends one request and prints its result; ends the run with 1 unless all of it is stored."""
    try:
        answer = client.post("/usagebatch", json=batch)
    except httpx.HTTPError as error:
        sys.exit(f"{label}Request failed: {type(error).__name__}: {error}")
    # 207 says that some events were not stored: no success to a sender that means all of them.
    if not answer.is_success or answer.status_code == HTTPStatus.MULTI_STATUS:
        sys.exit(f"{label}Error ({answer.status_code}): {answer.text}")
    print(f"{label}Success ({answer.status_code}): {answer.text}", flush=True)


@click.command(help="Generate random usage events and send them to meterd in batches.")
@click.option(
    "--url",
    envvar="BASE_URL",
    default="http://127.0.0.1:8080",
    show_default=True,
    show_envvar=True,
    help="Where meterd listens.",
)
@click.option("--token", envvar="API_KEY", default="", show_envvar=True, help="API key.")
@click.option(
    "--count", type=click.IntRange(min=1), default=10, show_default=True, help="Number of events."
)
@click.option(
    "--customers",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Number of customers they are spread over.",
)
@click.option("--dry-run", is_flag=True, help="Print the events and send nothing.")
def main(url: str, token: str, count: int, customers: int, *, dry_run: bool) -> None:
    events = random_events(count, customers)
    print(f"Generated {number_of(count, 'event')} for {number_of(customers, 'customer')}")
    print(f"Event types: {', '.join(EVENT_TYPES)}\n")
    if dry_run:
        print("Dry run - events that would be sent:")
        print(json.dumps(events, indent=2))
        return

    starts = range(0, count, EVENTS_PER_REQUEST_MAX)
    print(f"Sending to: {url.rstrip('/')}/usagebatch", flush=True)
    with httpx.Client(base_url=url, headers={"x-apikey": token}, timeout=30) as client:
        for number, start in enumerate(starts, 1):
            label = f"[{number}/{len(starts)}] " if len(starts) > 1 else ""
            send(client, events[start : start + EVENTS_PER_REQUEST_MAX], label)


if __name__ == "__main__":
    main()
