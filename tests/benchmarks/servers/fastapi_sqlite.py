"""FastAPI over SQLite: ``python -m tests.benchmarks.servers.fastapi_sqlite FILE``.

One connection in one thread, because SQLite has one writer: requests would only wait for its lock.
"""

import asyncio
import json
import sqlite3
import sys
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import datetime

from tests.benchmarks.servers.fastapi_service import Event, period_starts, serve

SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
CREATE TABLE IF NOT EXISTS events (
    id INTEGER PRIMARY KEY, customer_id TEXT NOT NULL, event_type TEXT NOT NULL,
    value REAL NOT NULL, metadata TEXT NOT NULL, received_at TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS events_by_customer ON events (customer_id, received_at);
CREATE TABLE IF NOT EXISTS totals (
    period TEXT NOT NULL, period_start TEXT NOT NULL, customer_id TEXT NOT NULL,
    event_type TEXT NOT NULL, count INTEGER NOT NULL, sum REAL NOT NULL, min REAL NOT NULL,
    max REAL NOT NULL, first REAL NOT NULL, last REAL NOT NULL,
    PRIMARY KEY (period, period_start, customer_id, event_type)
) WITHOUT ROWID;
"""
INSERT = """
INSERT INTO events (customer_id, event_type, value, metadata, received_at) VALUES (?, ?, ?, ?, ?)
"""
COUNT = """
INSERT INTO totals VALUES (?1, ?2, ?3, ?4, 1, ?5, ?5, ?5, ?5, ?5)
ON CONFLICT DO UPDATE SET count = count + 1, sum = sum + excluded.sum,
    min = min(min, excluded.min), max = max(max, excluded.max), last = excluded.last
"""


class SqliteDatabase:
    """Works in its one thread."""

    def __init__(self, thread: ThreadPoolExecutor, connection: sqlite3.Connection) -> None:
        self._thread = thread
        self._connection = connection

    async def store(self, events: Sequence[Event], received: datetime) -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, self._store, events, received)

    def _store(self, events: Sequence[Event], received: datetime) -> None:
        received_at = received.isoformat(timespec="milliseconds")
        starts = [(period, start.isoformat()) for period, start in period_starts(received)]
        with self._connection:
            self._connection.executemany(
                INSERT,
                (
                    (e.customerId, e.eventType, e.value, json.dumps(e.metadata), received_at)
                    for e in events
                ),
            )
            self._connection.executemany(
                COUNT,
                (
                    (period, start, e.customerId, e.eventType, e.value)
                    for e in events
                    for period, start in starts
                ),
            )


@asynccontextmanager
async def opened(path: str) -> AsyncIterator[SqliteDatabase]:
    with ThreadPoolExecutor(1) as thread:
        loop = asyncio.get_running_loop()
        connection = await loop.run_in_executor(thread, sqlite3.connect, path)
        await loop.run_in_executor(thread, connection.executescript, SCHEMA)
        yield SqliteDatabase(thread, connection)
        await loop.run_in_executor(thread, connection.close)


if __name__ == "__main__":
    serve(opened(sys.argv[1]))
