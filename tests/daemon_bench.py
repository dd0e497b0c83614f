"""A daemon in this process, over a folder of the test's own."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import httpx

from meterd.domain.config import Config, decode
from meterd.source import ConfigSource
from tests.edge.receivers import TRUSTING_NOBODY
from tests.fake_clock import FakeClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from meterd.daemon import Daemon

KEY = "test-key-of-a-length-that-nobody-guesses-0123456789"
TEXT = """
periods = ["hourly"]
grace = "{grace}"
log_level = "warning"
[events."api.calls"]
op = "sum"
{more}
"""
WEBHOOK = """
[[webhooks]]
id = "billing"
url = "http://127.0.0.1:{port}/"
secret = "whsec_test_secret_of_some_length"
allow_private = ["127.0.0.0/8"]
"""


def environ(folder: Path) -> dict[str, str]:
    return {
        "METERD_API_KEY": KEY,
        "METERD_BIND": "127.0.0.1:0",
        "METERD_DATA_DIR": str(folder / "data"),
    }


def configured(folder: Path, *, grace: str = "0s", more: str = "") -> Config:
    text = TEXT.format(grace=grace, more=more)
    return decode(text.encode(), form="toml", environ=environ(folder))


@asynccontextmanager
async def client_of(daemon: Daemon) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(
        base_url=daemon.urls[0], headers={"x-apikey": KEY}, verify=TRUSTING_NOBODY
    ) as http:
        yield http


async def post(http: httpx.AsyncClient, event_type: str = "api.calls") -> int:
    answer = await http.post(f"/usage/{event_type}", json={"customerId": "c", "value": 1})
    return answer.status_code


def clock() -> FakeClock:
    return FakeClock("2026-03-10T09:58:00Z")


def source_in(folder: Path, more: str = "") -> ConfigSource:
    path = folder / "systemconfig.toml"
    path.write_text(TEXT.format(grace="0s", more=more))
    return ConfigSource(path, environ(folder))


def no_disk(*_: object) -> None:
    """Stands for what writes to the disk."""
    raise OSError("no space left on device")
