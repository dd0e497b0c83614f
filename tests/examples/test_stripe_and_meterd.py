"""A month that ends in a real meterd becomes Stripe invoices, though Stripe fails meanwhile."""

from __future__ import annotations

import datetime as dt
import itertools
from typing import TYPE_CHECKING

import httpx
import trio

from meterd.daemon import running as meterd_running
from meterd.domain.config import decode
from tests.examples.stripe_example import SECRET, running
from tests.examples.stripe_stand_in import INVOICES, ITEMS, Fault, Stripe
from tests.fake_clock import FakeClock

if TYPE_CHECKING:
    from pathlib import Path

    from tests.examples.stripe_example import Example

KEY = "test-key-of-a-length-that-nobody-guesses-0123456789"
USAGE = [
    ("customer_1", 1000),
    ("customer_1", 0.1),
    ("customer_1", 0.2),
    ("customer_1", 234.7),
    ("customer_2", 9),
]
CONFIG = """
periods = ["hourly", "daily", "monthly"]
grace = "0s"
[events."api.calls"]
op = "sum"
[[webhooks]]
id = "stripe"
url = "{url}"
secret = "{secret}"
allow_private = ["127.0.0.0/8"]
"""


def text(moment: dt.datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.000Z")


async def delivered(http: httpx.AsyncClient, clock: FakeClock) -> None:
    """Once the six that close are. What failed is tried again when its time has come, which comes
    fast, and stays within the five minutes that a signature is good for.
    """
    with trio.fail_after(60):
        for quarters in itertools.count():
            found = (await http.get("/aggregations", params={"limit": "1000"})).json()
            statuses = [one["webhookStatus"] for one in found if one["status"] == "closed"]
            assert len(statuses) <= 6
            if len(statuses) == 6 and all(status["delivered"] for status in statuses):
                return
            if quarters < 60 and any("lastError" in status for status in statuses):
                clock.advance(seconds=4)
            await trio.sleep(0.25)


async def test_a_month_that_ends_is_invoiced_once(tmp_path: Path) -> None:
    """Of all that was used, though answers get lost and Stripe has too many requests."""
    now = dt.datetime.now(dt.UTC)
    ends = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    key = (ends - dt.timedelta(days=1)).strftime("%Y%m")
    clock = FakeClock(text(ends - dt.timedelta(minutes=2)))
    with Stripe() as stripe, running(tmp_path, stripe.url) as example:
        stripe.faults = [Fault(INVOICES), Fault(INVOICES), Fault(ITEMS, 429), Fault(ITEMS)]
        earliest = ends + dt.timedelta(seconds=1)
        after = max(now - dt.timedelta(seconds=200), earliest)
        await month_that_ends(tmp_path, clock, example, after)
        assert stripe.made() == {
            (f"customer_1_monthly_{key}", 1): {"api.calls": 124},  # 123.5 cents
            (f"customer_2_monthly_{key}", 1): {"api.calls": 1},
        }
        assert {one["customer"] for one in stripe.invoices} == {"cus_A", "cus_B"}
        assert stripe.faults == []
        said = example.stop()
    assert "✅ ignored: customer_1 daily " in said
    assert "✅ ignored: customer_2 daily " in said
    assert "❌ 503 Stripe: " in said


async def month_that_ends(
    folder: Path, clock: FakeClock, example: Example, now: dt.datetime
) -> None:
    environ = {
        "METERD_API_KEY": KEY,
        "METERD_BIND": "127.0.0.1:0",
        "METERD_DATA_DIR": str(folder / "data"),
    }
    config = decode(
        CONFIG.format(url=example.url, secret=SECRET).encode(), form="toml", environ=environ
    )
    async with (
        meterd_running(config, clock) as daemon,
        httpx.AsyncClient(base_url=daemon.urls[0], headers={"x-apikey": KEY}, timeout=30) as http,
    ):
        for customer, value in USAGE:
            usage = {"customerId": customer, "value": value}
            answer = await http.post("/usage/api.calls", json=usage)
            assert answer.status_code == 201, answer.text
        clock.set(text(now))
        await http.post("/aggregations/trigger")
        await delivered(http, clock)
