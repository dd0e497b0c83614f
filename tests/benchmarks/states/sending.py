"""How many posts one sender makes a second, beside what it could stand on: httpx in two ways.

The sender has a core of its own, and on the other is a receiver that only reads and answers.
Nothing is signed or stored.

``python -m tests.benchmarks.states.sending URL SECONDS ROUNDS`` prints a list of Series as JSON.
"""

from __future__ import annotations

import ssl
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from ipaddress import ip_network
from typing import TYPE_CHECKING, Final, TypeAlias

import httpx
import msgspec
import trio

from meterd.domain.endpoints import Endpoint
from meterd.edge.dialling import Guard, system_look_up
from meterd.edge.egress import open_sender
from meterd.edge.keep_alive import KeptConnections
from tests.benchmarks.pacing import percentile
from tests.benchmarks.processes import LOAD_CORE, pinned, python, started
from tests.benchmarks.results import Round, Series
from tests.daemon_process import ROOT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    Post: TypeAlias = Callable[[], Awaitable[None]]

IN_FLIGHT: Final = (1, 4, 16)
SENDER: Final = "meterd's sender"
# About what the webhook of an hour with five event types has, head and body.
BODY: Final = b'{"type":"aggregation.completed","data":"%b"}' % (b"x" * 800)
HEADERS: Final = {
    "Content-Type": "application/json",
    "User-Agent": "meterd/0",
    "X-Webhook-Signature": "v1=" + "a" * 64,
    "X-Webhook-Timestamp": "1784678400",
    "webhook-id": "msg_" + "b" * 32,
    "webhook-timestamp": "1784678400",
    "webhook-signature": "v1," + "c" * 44,
}
_WARM_UP: Final = 200


def measure(*, seconds: float, rounds: int) -> list[Series]:
    """In a process of its own."""
    with started(python("trio_alone")) as receiver:
        module = "tests.benchmarks.states.sending"
        command = [sys.executable, "-m", module, receiver.url, str(seconds), str(rounds)]
        out = subprocess.run(
            [*pinned(LOAD_CORE), *command], cwd=ROOT, stdout=subprocess.PIPE, check=True
        ).stdout
    return msgspec.json.decode(out, type=list[Series])


@asynccontextmanager
async def sender(url: str, in_flight: int) -> AsyncIterator[Post]:
    async with open_sender(_endpoint(url), _tls(), connections_max=in_flight) as opened:

        async def post() -> None:
            outcome = await opened.post(url, HEADERS, BODY)
            assert outcome.error is None, outcome

        yield post


@asynccontextmanager
async def client_over_our_connections(url: str, in_flight: int) -> AsyncIterator[Post]:
    guard = Guard(_endpoint(url), system_look_up(), _tls())
    async with _client(KeptConnections(guard, in_flight)) as client:
        yield _posting(client, url)


@asynccontextmanager
async def client_as_it_comes(url: str, in_flight: int) -> AsyncIterator[Post]:
    limits = httpx.Limits(max_connections=in_flight, max_keepalive_connections=in_flight)
    async with _client(httpx.AsyncHTTPTransport(verify=_tls(), limits=limits)) as client:
        yield _posting(client, url)


WAYS: Final[dict[str, Callable[[str, int], AbstractAsyncContextManager[Post]]]] = {
    SENDER: sender,
    "httpx's client over the same connections": client_over_our_connections,
    "httpx as it comes": client_as_it_comes,
}


def _endpoint(url: str) -> Endpoint:
    return Endpoint("receiver", url, ("secret",), allow_private=(ip_network("127.0.0.0/8"),))


def _tls() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _client(transport: httpx.AsyncBaseTransport) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=transport, trust_env=False, timeout=15)


def _posting(client: httpx.AsyncClient, url: str) -> Post:
    async def post() -> None:
        response = await client.post(url, headers=HEADERS, content=BODY)
        assert response.is_success, response

    return post


async def _round(way: str, url: str, in_flight: int, seconds: float) -> Round:
    latencies: list[float] = []

    async def work(post: Post, until: float) -> None:
        while (began := time.perf_counter()) < until:
            await post()
            latencies.append(time.perf_counter() - began)

    async with WAYS[way](url, in_flight) as post:
        for _ in range(_WARM_UP):
            await post()
        began, cpu_began = time.perf_counter(), time.process_time()
        async with trio.open_nursery() as nursery:
            for _ in range(in_flight):
                nursery.start_soon(work, post, began + seconds)
        took, cpu = time.perf_counter() - began, time.process_time() - cpu_began
    posts = len(latencies)
    latencies.sort()
    return Round(
        posts / took,
        cpu / posts * 1e6,
        percentile(latencies, 0.5) * 1000,
        percentile(latencies, 0.99) * 1000,
    )


async def _measure(url: str, seconds: float, rounds: int) -> list[Series]:
    found = [
        Series(f"posts, {in_flight} in flight", way, SENDER, None, [])
        for in_flight in IN_FLIGHT
        for way in WAYS
    ]
    for _ in range(rounds):
        for number, one in enumerate(found):
            in_flight = IN_FLIGHT[number // len(WAYS)]
            one.rounds.append(await _round(one.contestant, url, in_flight, seconds))
    return found


if __name__ == "__main__":
    _, url, seconds, rounds = sys.argv
    series = trio.run(_measure, url, float(seconds), int(rounds))
    sys.stdout.buffer.write(msgspec.json.encode(series))
