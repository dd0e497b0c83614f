"""webhook_receiver.py takes all that a real meterd sends: its tests, and its batches."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

import httpx
import trio

from meterd.daemon import running
from meterd.domain.config import decode
from meterd.domain.instants import format_instant
from tests.daemon_process import KEY, ROOT
from tests.examples.receiver_example import PATH, Receiver
from tests.examples.test_webhook_receiver import SECRET
from tests.fake_clock import FakeClock

if TYPE_CHECKING:
    from pathlib import Path

CONFIG = """
periods = ["hourly"]
grace = "0s"
[events."api.calls"]
op = "sum"
[[webhooks]]
id = "example"
url = "{url}"
secret = "{secret}"
allow_private = ["127.0.0.1/32"]
batch = 100
"""
CUSTOMERS = ("customer_1", "customer_2", "customer_3")
COMMAND = (sys.executable, "-m", "meterd", "webhooks", "test", "example")
HOUR_S = 3600


async def test_tests_and_batches_are_taken(tmp_path: Path) -> None:
    """`meterd webhooks test` ends with 0; each item of a batch is processed, and is delivered."""
    receiver = Receiver(WEBHOOK_SECRET=SECRET)
    # What is signed must be within five minutes of the receiver's clock, so the hour ends now.
    clock = FakeClock(format_instant(int((time.time() - HOUR_S) * 1000)))
    config = decode(
        CONFIG.format(url=receiver.url + PATH, secret=SECRET).encode(),
        form="toml",
        environ={
            "METERD_API_KEY": KEY,
            "METERD_BIND": "127.0.0.1:0",
            "METERD_DATA_DIR": str(tmp_path / "data"),
        },
    )
    async with (
        running(config, clock) as daemon,
        httpx.AsyncClient(base_url=daemon.urls[0], headers={"x-apikey": KEY}, timeout=30) as http,
    ):
        for customer in CUSTOMERS:
            answer = await http.post("/usage/api.calls", json={"customerId": customer, "value": 7})
            assert answer.status_code == 201, answer.text
        clock.set(format_instant(int(time.time() * 1000)))
        await http.post("/aggregations/trigger")
        tested = await trio.run_process(
            [*COMMAND, "--url", daemon.urls[0]],
            cwd=ROOT,
            env={**os.environ, "METERD_API_KEY": KEY},
            capture_stdout=True,
            check=False,
        )
        assert tested.returncode == 0, tested.stdout
        assert tested.stdout.startswith(b"example: 200 (")
        with trio.fail_after(20):
            while not all(
                one["webhookStatus"]["delivered"]
                for one in (await http.get("/aggregations")).json()
            ):
                clock.advance(seconds=0.1)  # a batch waits for what closes with it
                await trio.sleep(0.02)
    said = receiver.stop()
    assert "⏭️  Ignored: webhook.test\n" in said
    assert "📦 Batch of 3 aggregations\n" in said
    assert said.count("✅ Signature verified\n") == 2
    for customer in CUSTOMERS:
        assert f"💡 Processing hourly aggregation for {customer}\n" in said
    assert said.count("💰 Billing: 7 API calls") == len(CUSTOMERS)
