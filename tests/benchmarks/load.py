"""A load client in a process of its own: plain sockets, keep-alive, requests made beforehand.

``python -m tests.benchmarks.load`` reads a JSON plan from stdin and prints a JSON result. What is
measured is from the first byte sent until the whole answer is there.
"""

from __future__ import annotations

import json
import random
import sys
import time
from typing import Any, Final

import trio

EVENT_TYPES: Final = ("api.calls", "storage.bytes", "response.time.ms", "test.count", "test.last")
VARIANTS: Final = 200  # requests made beforehand, sent in turn


def head(plan: dict[str, Any], path: str, body: bytes) -> bytes:
    # A field that the fast lane does not know leaves the request to hypercorn and Quart.
    odd = "X-Benchmark: 1\r\n" if plan["by_quart"] else ""
    return (
        f"POST {path} HTTP/1.1\r\nHost: {plan['host']}\r\nx-apikey: {plan['key']}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n{odd}\r\n"
    ).encode()


def single_requests(plan: dict[str, Any], chance: random.Random) -> list[bytes]:
    requests = []
    for _ in range(VARIANTS):
        customer = f"customer_{chance.randrange(plan['customers'])}"
        event_type = chance.choice(EVENT_TYPES)
        event = {"customerId": customer, "value": chance.randrange(1, 1000), "metadata": {"n": 1}}
        body = json.dumps(event).encode()
        requests.append(head(plan, f"/usage/{event_type}", body) + body)
    return requests


def batch_requests(plan: dict[str, Any], chance: random.Random) -> list[bytes]:
    requests = []
    for _ in range(10):
        events = [
            {
                "eventType": chance.choice(EVENT_TYPES),
                "customerId": f"customer_{chance.randrange(plan['customers'])}",
                "value": chance.randrange(1, 1000),
                "metadata": {"source": "load", "n": number},
            }
            for number in range(plan["batch"])
        ]
        body = json.dumps(events).encode()
        requests.append(head(plan, "/usagebatch", body) + body)
    return requests


async def exchange(stream: trio.SocketStream, request: bytes) -> int:
    """Sends a request and reads the whole answer; its status."""
    await stream.send_all(request)
    received = b""
    while b"\r\n\r\n" not in received:
        received += await stream.receive_some(65536)
    headers, _, body = received.partition(b"\r\n\r\n")
    length = int(headers.lower().split(b"content-length:")[1].split(b"\r\n")[0])
    while len(body) < length:
        body += await stream.receive_some(65536)
    return int(headers[9:12])


async def client(
    plan: dict[str, Any], requests: list[bytes], until: float, took: list[float]
) -> None:
    host, port = plan["host"].rsplit(":", 1)
    stream = await trio.open_tcp_stream(host, int(port))
    turn = random.randrange(len(requests))
    async with stream:
        while time.perf_counter() < until:
            began = time.perf_counter()
            status = await exchange(stream, requests[turn % len(requests)])
            took.append(time.perf_counter() - began)
            turn += 1
            if status != 201:
                sys.exit(f"the server answered {status}")


async def main(plan: dict[str, Any]) -> dict[str, float]:
    chance = random.Random(plan["seed"])
    requests = (batch_requests if plan["batch"] else single_requests)(plan, chance)
    took: list[float] = []
    began = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(plan["connections"]):
            nursery.start_soon(client, plan, requests, began + plan["seconds"], took)
    seconds = time.perf_counter() - began
    took.sort()
    return {
        "requests_per_s": len(took) / seconds,
        "events_per_s": len(took) * (plan["batch"] or 1) / seconds,
        "p50_ms": took[len(took) // 2] * 1000,
        "p99_ms": took[len(took) * 99 // 100] * 1000,
    }


if __name__ == "__main__":
    print(json.dumps(trio.run(main, json.load(sys.stdin))))
