"""stripe_invoice_webhook.py in a process of its own, and the webhooks that it is sent."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import httpx

from meterd.domain.aggregations import Aggregation, Figure, completed_body
from meterd.domain.operations import Operation
from meterd.domain.periods import PeriodType
from meterd.domain.signatures import sign
from tests.examples.example import EXAMPLES, SECONDS_MAX, environment
from tests.examples.stripe_stand_in import KEY
from tests.fake_clock import ms

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAME: Final = "stripe_invoice_webhook.py"
SECRET: Final = "whsec_c3RyaXBlLWludm9pY2Utd2ViaG9vay10ZXN0"
CUSTOMERS: Final = {"customer_1": "cus_A", "customer_2": "cus_B", "gone": "cus_gone"}


def body_of(
    totals: dict[str, str],
    customer: str = "customer_1",
    *,
    month: str = "2026-01",
    period_type: PeriodType = PeriodType.MONTHLY,
) -> bytes:
    """The body that meterd freezes when that month closes with those sums."""
    figures = {name: Figure(Operation.SUM, Decimal(total), 1) for name, total in totals.items()}
    start_ms = ms(f"{month}-01T00:00:00Z")
    now_ms = ms("2026-02-01T00:05:00Z")
    return completed_body(
        Aggregation(customer, period_type, start_ms, 1, True, now_ms, now_ms, figures)
    )


def payload_of(totals: dict[str, str], *, revision: int = 1, **options: Any) -> dict[str, Any]:
    """A later revision is an aggregation.revised: meterd's fields, with the new totals."""
    payload: dict[str, Any] = json.loads(body_of(totals, **options))
    payload["data"]["revision"] = revision
    if revision > 1:
        payload["type"] = "aggregation.revised"
    return payload


def batch_of(*payloads: dict[str, Any]) -> dict[str, Any]:
    items = {"items": list(payloads)}
    return {"type": "aggregation.batch", "period": "monthly", "data": items, "created": 1769904300}


class Example:
    """Started at once, on a port of the system's choosing; ``kill`` is a crash."""

    def __init__(self, folder: Path, stripe_url: str, text: str | None = None, **env: str) -> None:
        """``text`` is the program where it is not the one as it stands."""
        path = EXAMPLES / NAME
        if text is not None:
            path = folder / NAME
            path.write_text(text)
        self.customers = folder / "customers.json"
        if not self.customers.exists():
            self.customers.write_text(json.dumps(CUSTOMERS))
        self.process = subprocess.Popen(
            [sys.executable, str(path)],
            env=environment(
                **{
                    "PORT": "0",
                    "STRIPE_API_KEY": KEY,
                    "STRIPE_API_BASE": stripe_url,
                    "WEBHOOK_SECRET": SECRET,
                    **env,
                }
            ),
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
        )
        # So that an example that hangs fails the test instead of stopping it for ever.
        self._watchdog = threading.Timer(SECONDS_MAX, self.process.kill)
        self._watchdog.start()
        assert self.process.stdout
        self.banner = self.process.stdout.readline()
        found = re.fullmatch(r"🧾 Listening on: http://localhost:(\d+)(/.*)\n", self.banner)
        assert found, self.banner + self.process.stdout.read()
        self.url = f"http://127.0.0.1:{found[1]}{found[2]}"

    def post(self, body: bytes, headers: dict[str, str]) -> httpx.Response:
        return httpx.post(
            self.url, content=body, headers=headers, trust_env=False, timeout=SECONDS_MAX
        )

    def deliver(self, webhook: bytes | dict[str, Any]) -> httpx.Response:
        """As meterd does: signed now."""
        body = webhook if isinstance(webhook, bytes) else json.dumps(webhook).encode()
        return self.post(body, signed(body))

    def stop(self) -> str:
        """Ends it, which must succeed, and returns what it has said."""
        if self.process.poll() is None:
            self.process.terminate()
        said, _ = self.process.communicate(timeout=SECONDS_MAX)
        self._watchdog.cancel()
        assert self.process.returncode == 0, said
        said, goodbye, _ = said.rpartition("Shutting down gracefully...\n")
        assert goodbye, said
        assert "Traceback" not in said
        return said

    def kill(self) -> None:
        self._watchdog.cancel()
        self.process.kill()
        self.process.communicate(timeout=SECONDS_MAX)


def signed(body: bytes, *, secret: str = SECRET, age_s: int = 0) -> dict[str, str]:
    return sign(body, message_id="msg_1", timestamp_s=int(time.time()) - age_s, secrets=[secret])


@contextmanager
def running(folder: Path, stripe_url: str, **env: str) -> Iterator[Example]:
    example = Example(folder, stripe_url, **env)
    try:
        yield example
        if example.process.poll() is None:
            example.stop()
    finally:
        if example.process.poll() is None:
            example.kill()
