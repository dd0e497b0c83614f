"""What a newcomer does: the generator, a look at the totals, and the webhook at the receiver."""

from __future__ import annotations

import os
import sys
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import httpx
import trio

from meterd.daemon import running
from meterd.domain.config import decode
from meterd.domain.instants import format_instant
from tests.daemon_process import KEY, ROOT
from tests.fake_clock import FakeClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

SECRET = "whsec_of_the_example_receiver"
CONFIG = """
periods = ["hourly"]
grace = "0s"
[events."api.calls"]
op = "sum"
[events."storage.bytes"]
op = "max"
[events."response.time.ms"]
op = "avg"
[[webhooks]]
url = "http://127.0.0.1:{port}/webhooks/metering"
secret = "{secret}"
allow_private = ["127.0.0.1/32"]
"""
HOUR_S = 3600


async def free_port() -> int:
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        port: int = listener.socket.getsockname()[1]
    return port


@asynccontextmanager
async def example_receiver(port: int) -> AsyncIterator[list[str]]:
    """The example receiver as a process; what it prints, line by line."""
    lines: list[str] = []
    async with trio.open_nursery() as nursery:
        process = await trio.lowlevel.open_process(
            [sys.executable, "examples/webhook_receiver.py"],
            cwd=ROOT,
            env={**os.environ, "PORT": str(port), "WEBHOOK_SECRET": SECRET},
            stdout=-1,
        )

        async def read() -> None:
            assert process.stdout is not None
            rest = b""
            async for piece in process.stdout:
                *whole, rest = (rest + piece).split(b"\n")
                lines.extend(line.decode() for line in whole)

        nursery.start_soon(read)
        await seen(lines, "Waiting for webhooks...")
        yield lines
        process.terminate()
        await process.wait()


async def seen(lines: list[str], text: str, times: int = 1) -> None:
    with trio.fail_after(30):
        while sum(text in line for line in lines) < times:  # noqa: ASYNC110
            await trio.sleep(0.02)


async def test_events_become_verified_webhooks(tmp_path: Path) -> None:
    """The generator's events are in the totals, and at the hour's end in verified webhooks."""
    port = await free_port()
    # The receiver refuses what is signed over five minutes from its own clock, so the daemon's hour
    # ends now: its clock starts an hour ago.
    clock = FakeClock(format_instant(int((time.time() - HOUR_S) * 1000)))
    config = decode(
        CONFIG.format(port=port, secret=SECRET).encode(),
        form="toml",
        environ={
            "METERD_API_KEY": KEY,
            "METERD_BIND": "127.0.0.1:0",
            "METERD_DATA_DIR": str(tmp_path / "data"),
        },
    )
    async with example_receiver(port) as printed, running(config, clock) as daemon:
        [url] = daemon.urls
        generated = await trio.run_process(
            [sys.executable, "examples/generate_events.py"],
            cwd=ROOT,
            env={**os.environ, "BASE_URL": url, "API_KEY": KEY, "EVENT_COUNT": "40"},
            capture_stdout=True,
        )
        assert b"Success:       40" in generated.stdout
        async with httpx.AsyncClient(base_url=url, headers={"x-apikey": KEY}) as http:
            await http.post("/aggregations/trigger")
            totals = (await http.get("/aggregations")).json()
            assert sum(found["eventCount"] for found in totals) == 40
            clock.set(format_instant(int(time.time() * 1000)))
            await seen(printed, "Signature verified", times=len(totals))
            await seen(printed, "Total Events Processed", times=len(totals))
            with trio.fail_after(20):
                while not all(  # noqa: ASYNC110
                    found["webhookStatus"]["delivered"]
                    for found in (await http.get("/aggregations")).json()
                ):
                    await trio.sleep(0.02)
    processed = [int(line.split(": ")[1]) for line in printed if "Total Events Processed" in line]
    assert sum(processed) == 40
