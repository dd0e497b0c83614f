"""FastAPI over PostgreSQL: ``python -m tests.benchmarks.servers.fastapi_postgres URL``.

A pool of connections, and two statements for a request however many events it has: arrays of the
events, and of what they add to each total. Totals are touched in one order, so that no two requests
wait for each other.
"""

import json
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import asyncpg

from tests.benchmarks.servers.fastapi_service import Event, period_starts, serve

CONNECTIONS = 16
SCHEMA = """
CREATE TABLE IF NOT EXISTS events (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, customer_id text NOT NULL,
    event_type text NOT NULL, value double precision NOT NULL, metadata jsonb NOT NULL,
    received_at timestamptz NOT NULL
);
CREATE INDEX IF NOT EXISTS events_by_customer ON events (customer_id, received_at);
CREATE TABLE IF NOT EXISTS totals (
    period text NOT NULL, period_start timestamptz NOT NULL, customer_id text NOT NULL,
    event_type text NOT NULL, count bigint NOT NULL, sum double precision NOT NULL,
    min double precision NOT NULL, max double precision NOT NULL, first double precision NOT NULL,
    last double precision NOT NULL, PRIMARY KEY (period, period_start, customer_id, event_type)
);
"""
INSERT = """
INSERT INTO events (customer_id, event_type, value, metadata, received_at)
SELECT c, t, v, m, $5
FROM unnest($1::text[], $2::text[], $3::float8[], $4::jsonb[]) AS e (c, t, v, m)
"""
COUNT = """
INSERT INTO totals
SELECT * FROM unnest($1::text[], $2::timestamptz[], $3::text[], $4::text[], $5::bigint[],
    $6::float8[], $7::float8[], $8::float8[], $9::float8[], $10::float8[])
ON CONFLICT (period, period_start, customer_id, event_type) DO UPDATE SET
    count = totals.count + excluded.count, sum = totals.sum + excluded.sum,
    min = least(totals.min, excluded.min), max = greatest(totals.max, excluded.max),
    last = excluded.last
"""


class PostgresDatabase:
    """Stores through the pool."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool

    async def store(self, events: Sequence[Event], received: datetime) -> None:
        added: dict[tuple[str, str], list[float]] = {}
        for event in events:
            added.setdefault((event.customerId, event.eventType), []).append(event.value)
        rows = [
            (period, start, *key, len(v), sum(v), min(v), max(v), v[0], v[-1])
            for period, start in period_starts(received)
            for key, v in sorted(added.items())
        ]
        columns = (
            [event.customerId for event in events],
            [event.eventType for event in events],
            [event.value for event in events],
            [json.dumps(event.metadata) for event in events],
        )
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(INSERT, *columns, received)
            await connection.execute(COUNT, *map(list, zip(*rows, strict=True)))


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[PostgresDatabase]:
    settings = {"synchronous_commit": "on"}
    async with asyncpg.create_pool(
        url, min_size=CONNECTIONS, max_size=CONNECTIONS, server_settings=settings
    ) as pool:
        await pool.execute(SCHEMA)
        yield PostgresDatabase(pool)


if __name__ == "__main__":
    serve(opened(sys.argv[1]))
