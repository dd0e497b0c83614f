"""The requests of a plan, as bytes: made beforehand where a load is measured."""

from __future__ import annotations

import json
import random
import time
from itertools import chain, cycle, islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple, assert_never

from tests.benchmarks.plan import EVENT_TYPES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tests.benchmarks.plan import Errand

BATCH: Final = 1000
SINGLES_MADE: Final = 2000
BATCHES_MADE: Final = 20
FILLS_MADE: Final = 100
CUSTOMERS_IN_A_FILL: Final = 10  # what a collector in front of some customers would send
LARGE_BYTES: Final = 3_800  # of metadata in each event: 3.7 MiB in all
POSTS_FOR_A_GET: Final = 99
# Where a key is to stand, which is as long.
NO_KEY: Final = b"@" * 16
# Times an odd number, numbers that count up are in no order, and each still another.
ODD: Final = 0x9E3779B97F4A7C15
KEYS_MASK: Final = (1 << 64) - 1


class Request(NamedTuple):
    """Bytes to send, the status that answers them, and the events that it acknowledges."""

    data: bytes
    status: int
    events: int


def requests_of(errand: Errand) -> Iterator[Request]:
    """What to send, in order, by whichever connection is free."""
    plan, chance = errand.plan, random.Random(errand.plan.seed)
    match plan.kind:
        case "single":
            singles = _singles(errand, chance, max(SINGLES_MADE, plan.customers))
            return _with_keys(singles) if plan.keys else cycle(singles)
        case "batch":
            batches = [_random_batch(errand, chance) for _ in range(BATCHES_MADE)]
            return _with_keys(batches) if plan.keys else cycle(batches)
        case "introduce":
            return _introductions(errand)
        case "fill":
            made = [_fill(errand, chance, number) for number in range(FILLS_MADE)]
            return islice(cycle(made), plan.events // BATCH)
        case "ping":
            return cycle([_get(errand, "/ping")])
        case "mixed":
            posts = _singles(errand, chance, SINGLES_MADE // POSTS_FOR_A_GET * POSTS_FOR_A_GET)
            rounds = (
                [*posts[first : first + POSTS_FOR_A_GET], _get(errand, "/ping")]
                for first in range(0, len(posts), POSTS_FOR_A_GET)
            )
            return cycle(list(chain.from_iterable(rounds)))
        case "listing":
            names = [f"customer_{chance.randrange(plan.customers)}" for _ in range(SINGLES_MADE)]
            return cycle([_get(errand, f"/events?customerId={name}") for name in names])
        case _:
            assert_never(plan.kind)


def _with_keys(made: Iterable[Request]) -> Iterator[Request]:
    """Again and again, the keys never those that any client sent before, and in no order."""
    pieces = [(request, request.data.split(NO_KEY)) for request in made]
    number = time.time_ns()
    for request, parts in cycle(pieces):
        data = [parts[0]]
        for part in parts[1:]:
            number += 1
            data += (b"%016x" % (number * ODD & KEYS_MASK), part)
        yield request._replace(data=b"".join(data))


def _key(errand: Errand) -> dict[str, str]:
    return {"idempotencyKey": NO_KEY.decode()} if errand.plan.keys else {}


def _singles(errand: Errand, chance: random.Random, count: int) -> list[Request]:
    made = []
    for _ in range(count):
        customer = f"customer_{chance.randrange(errand.plan.customers)}"
        event = {"customerId": customer, "value": chance.randrange(1, 1000), "metadata": {"n": 1}}
        event |= _key(errand)
        path = f"/usage/{chance.choice(EVENT_TYPES)}"
        made.append(Request(_post(errand, path, event), 201, 1))
    return made


def _random_batch(errand: Errand, chance: random.Random) -> Request:
    return _batch(
        errand,
        (
            (chance.choice(EVENT_TYPES), chance.randrange(errand.plan.customers))
            for _ in range(BATCH)
        ),
    )


def _fill(errand: Errand, chance: random.Random, number: int) -> Request:
    first = number * CUSTOMERS_IN_A_FILL
    return _batch(
        errand,
        (
            (
                chance.choice(EVENT_TYPES),
                (first + chance.randrange(CUSTOMERS_IN_A_FILL)) % errand.plan.customers,
            )
            for _ in range(BATCH)
        ),
    )


def large_batch(errand: Errand) -> Request:
    """As large as a body may be, nearly."""
    body = [
        {
            "eventType": EVENT_TYPES[0],
            "customerId": f"customer_{number % errand.plan.customers}",
            "value": 1,
            "metadata": {"padding": "x" * LARGE_BYTES},
        }
        for number in range(BATCH)
    ]
    return Request(_post(errand, "/usagebatch", body), 201, BATCH)


def _introductions(errand: Errand) -> Iterator[Request]:
    everyone = (
        (event_type, customer)
        for customer in range(errand.plan.customers)
        for event_type in EVENT_TYPES[: errand.plan.types]
    )
    while events := list(islice(everyone, BATCH)):
        yield _batch(errand, events)


def _batch(errand: Errand, events: Iterable[tuple[str, int]]) -> Request:
    body = [
        {
            "eventType": event_type,
            "customerId": f"customer_{customer}",
            "value": number % 997,
            "metadata": {"source": "load", "n": number},
            **_key(errand),
        }
        for number, (event_type, customer) in enumerate(events)
    ]
    return Request(_post(errand, "/usagebatch", body), 201, len(body))


def _post(errand: Errand, path: str, content: Any) -> bytes:
    body = json.dumps(content).encode()
    more = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return _head(errand, f"POST {path}", more) + body


def _get(errand: Errand, path: str) -> Request:
    return Request(_head(errand, f"GET {path}", ""), 200, 1)


def _head(errand: Errand, line: str, more: str) -> bytes:
    odd = "X-Benchmark: 1\r\n" if errand.plan.by_quart else ""
    return (
        f"{line} HTTP/1.1\r\nHost: {errand.address}\r\nx-apikey: {errand.key}\r\n{more}{odd}\r\n"
    ).encode()
