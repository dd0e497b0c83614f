"""What a team would write instead: FastAPI on uvicorn, over whichever database.

Prints its URL and serves until stdin ends; BENCHMARK_KEY is its API key. Each request is one
transaction, which inserts its events and adds them to the totals of four periods. Totals are
doubles, as such services keep them: exact ones would cost them more.
"""

import hashlib
import hmac
import os
import socket
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Protocol

import uvicorn
from fastapi import Depends, FastAPI, Header, HTTPException
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from tests.benchmarks.plan import EVENT_TYPES

BATCH_MAX = 1000


class Usage(BaseModel):
    """The body of POST /usage/{eventType}."""

    customerId: str = Field(min_length=1, max_length=256)  # noqa: N815 - the wire's name
    value: float = Field(allow_inf_nan=False)
    metadata: dict[str, Any] = {}


class Event(Usage):
    """An item of POST /usagebatch."""

    eventType: str  # noqa: N815 - the wire's name


class Database(Protocol):
    """Where the events go."""

    async def store(self, events: Sequence[Event], received: datetime) -> None:
        """Returns when they are durable, and counted in their totals."""


def period_starts(received: datetime) -> tuple[tuple[str, datetime], ...]:
    """The four periods that contain the moment."""
    hour = received.replace(minute=0, second=0, microsecond=0)
    day = hour.replace(hour=0)
    return (
        ("hourly", hour),
        ("daily", day),
        ("weekly", day - timedelta(days=day.weekday())),
        ("monthly", day.replace(day=1)),
    )


Batch = Annotated[list[Event], Field(min_length=1, max_length=BATCH_MAX)]


def make_app(database: AbstractAsyncContextManager[Database]) -> FastAPI:
    """The two routes over a database that is open as long as the service."""
    key_hash = hashlib.sha256(os.environ["BENCHMARK_KEY"].encode()).digest()
    opened: list[Database] = []

    async def authenticate(x_apikey: Annotated[str, Header(alias="x-apikey")] = "") -> None:
        if not hmac.compare_digest(hashlib.sha256(x_apikey.encode()).digest(), key_hash):
            raise HTTPException(401, "Unauthorized")

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with database as ready:
            opened.append(ready)
            yield

    app = FastAPI(lifespan=lifespan, dependencies=[Depends(authenticate)])

    def require_known(*event_types: str) -> None:
        for event_type in event_types:
            if event_type not in EVENT_TYPES:
                raise HTTPException(400, f"Invalid event type: {event_type}")

    @app.post("/usage/{event_type}")
    async def usage(event_type: str, body: Usage) -> JSONResponse:
        require_known(event_type)
        event = Event(
            customerId=body.customerId,
            value=body.value,
            metadata=body.metadata,
            eventType=event_type,
        )
        await opened[0].store([event], datetime.now(UTC))
        answer = {
            "message": "Event captured",
            "eventType": event_type,
            "customerId": body.customerId,
        }
        return JSONResponse(answer, 201)

    @app.post("/usagebatch")
    async def usagebatch(events: Batch) -> JSONResponse:
        require_known(*{event.eventType for event in events})
        await opened[0].store(events, datetime.now(UTC))
        return JSONResponse({"message": "Events captured", "count": len(events)}, 201)

    return app


def serve(database: AbstractAsyncContextManager[Database]) -> None:
    """Prints the URL and serves until stdin ends."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
    config = uvicorn.Config(make_app(database), log_level="warning", access_log=False)
    server = uvicorn.Server(config)

    def stop_with_stdin() -> None:
        sys.stdin.read()
        server.should_exit = True

    threading.Thread(target=stop_with_stdin, daemon=True).start()
    print(f"http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
    server.run(sockets=[listening])
