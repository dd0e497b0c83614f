"""docs/moving.md is followed to the letter, from a stand-in for the old system to meterd."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.docs.reading import DOCS
from tests.docs.shell import BASE_URL, free_address, run
from tests.receiver import Receiver

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOURS = 3
NOW = datetime.now(UTC)


def instant(hours_ago: int) -> str:
    return f"{NOW - timedelta(hours=hours_ago):%Y-%m-%dT%H}:10:00.000Z"


def hour(hours_ago: int) -> str:
    return f"{NOW - timedelta(hours=hours_ago):%Y%m%d%H}"


EVENTS = [
    {
        "_id": f"65a3f0{hours_ago:02}{value:02}",
        "eventType": "api.calls",
        "customerId": "customer_1",
        "value": value,
        "metadata": {"endpoint": "/api/users"},
        "receivedAt": instant(hours_ago),
    }
    for hours_ago in range(2, 2 + HOURS)
    for value in (1, 2)
]
AGGREGATIONS = [
    {"_id": f"customer_1_hourly_{hour(hours_ago)}", "events": {"api.calls": 3}}
    for hours_ago in range(2, 2 + HOURS)
]
# Two of one moment each, the newest first, so that a piece ends between them.
PIECE = 3
ROWS = len(EVENTS) + 2
KEY = "the-key-of-the-old-system"


class OldSystem(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert self.headers["x-apikey"] == KEY
        url = urlsplit(self.path)
        asked = {name: value for name, [value] in parse_qs(url.query).items()}
        found: list[dict[str, Any]] = AGGREGATIONS
        if url.path == "/events":
            bounds = asked["from"], asked["to"]
            found = [one for one in EVENTS if bounds[0] <= str(one["receivedAt"]) <= bounds[1]]
        found = found[: int(asked["limit"])]
        body = json.dumps(found).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def old_url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), OldSystem)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_move_works_as_it_is_written(tmp_path: Path, old_url: str) -> None:
    """The totals are the old ones, what is imported twice counts once, and no receiver hears of
    periods that the old system has billed.
    """
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    bind = free_address()
    with Receiver() as receiver:
        old = {
            "_comment": "as the template has it",
            "periods": ["hourly"],
            "events": {"api.calls": {"op": "sum", "description": "Total API calls"}},
            "webhooks": [{"url": receiver.url, "secret": "whsec_template", "enabled": True}],
        }
        (tmp_path / "old" / "systemconfig.json").write_text(json.dumps(old))
        said = run(
            DOCS / "moving.md",
            tmp_path / "new",
            {
                "https://old.example/dev": old_url,
                BASE_URL: f"http://{bind} METERD_BIND={bind}",
                "PIECE=100000": f"PIECE={PIECE}",
                " 2026-01-01": f" {NOW - timedelta(days=2):%Y-%m-%d}",
            },
        )
        assert "\nthe same\n" in said
        assert f"{ROWS} rows: {len(EVENTS)} new, {ROWS - len(EVENTS)} stored before" in said
        assert f"{ROWS} rows: 0 new, {ROWS} stored before" in said
        assert "+ meterd deliveries list\nnone\n" in said
        assert f"{ROWS} history.jsonl" in said
        assert receiver.received == []
    assert len((tmp_path / "new" / "new.txt").read_text().splitlines()) == HOURS
    assert (tmp_path / "new" / "first-backup").is_dir()
