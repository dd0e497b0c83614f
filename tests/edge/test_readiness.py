"""What is said before meterd can serve: a table of what has happened."""

from __future__ import annotations

import pytest
import trio

from meterd.edge.readiness import Readiness
from tests.edge.api_bench import serving


@pytest.mark.parametrize(
    ("started", "caught_up", "waits_for"),
    [
        (False, False, "counting the events that were not in their totals when meterd ended"),
        (True, False, "closing the periods that ended meanwhile"),
        (True, True, None),
    ],
)
def test_what_it_waits_for(*, started: bool, caught_up: bool, waits_for: str | None) -> None:
    """The ledger may be asked as soon as it has started; ready is who has nothing overdue."""
    events = trio.Event(), trio.Event()
    readiness = Readiness(*events, lambda: False)
    for event, happened in zip(events, (started, caught_up), strict=True):
        if happened:
            event.set()
    assert readiness.waits_for == waits_for
    refused = readiness.refusal()
    assert (refused is None) == started
    if refused is not None:
        assert (refused.status, dict(refused.headers)) == (503, {"Retry-After": "1"})


async def test_a_full_disk_is_named_and_does_not_count() -> None:
    """Whoever looks sees it; nobody else could serve, and reads are served."""
    async with serving() as api:
        api.closer.caught_up.set()
        assert (await api.ask("GET", "/readyz")).json() == {"status": "ready"}
        api.is_full = True
        ready = await api.ask("GET", "/readyz")
        assert (ready.status_code, ready.json()["status"]) == (200, "ready")
        assert ready.json()["disk"].startswith("full: events are refused")
        assert (await api.ask("GET", "/events")).status_code == 200


async def test_a_start_that_waits_for_room_is_read_and_not_ready() -> None:
    """It may wait for long; and what it says of itself is what it does."""
    async with serving(started=False) as api:
        await api.store("c")
        api.is_full = True
        waiting = await api.ask("GET", "/readyz")
        assert (waiting.status_code, waiting.json()["status"]) == (503, "starting")
        assert waiting.json()["reason"].startswith("counting the events")
        assert waiting.json()["disk"].startswith("full: the start waits, and events are refused")
        assert waiting.json()["disk"].endswith("; what is stored is read")
        [found] = (await api.ask("GET", "/events")).json()
        assert found["customerId"] == "c"
        assert (await api.ask("GET", "/aggregations")).json() == []
        event = b'{"customerId":"c","value":1}'
        for refused in (
            await api.ask("POST", "/aggregations/trigger"),
            await api.ask("POST", "/usage/api.calls", content=event),
            await api.ask("POST", "/usagebatch", content=b"["),
        ):
            assert (refused.status_code, refused.headers["Retry-After"]) == (507, "30")
        api.is_full = False
        assert (await api.ask("GET", "/events")).status_code == 503


async def test_a_clock_that_is_behind_is_named_and_does_not_count() -> None:
    """By how much; events are taken all the same."""
    async with serving() as api:
        api.closer.caught_up.set()
        api.ahead_ms = 90_000
        ready = await api.ask("GET", "/readyz")
        assert (ready.status_code, ready.json()["clock"].split(":")[0]) == (
            200,
            "behind what is stored by 1m30s",
        )
        event = {"customerId": "c", "value": 1}
        assert (await api.ask("POST", "/usage/api.calls", json=event)).status_code == 201


async def test_no_event_is_taken_by_a_clock_that_cannot_be_right() -> None:
    """503 that says why; what is stored is read."""
    async with serving() as api:
        api.closer.caught_up.set()
        api.clock_fault = "it stepped"
        ready = await api.ask("GET", "/readyz")
        assert (ready.status_code, ready.json()) == (
            200,
            {"status": "ready", "clock": "it stepped"},
        )
        event = {"eventType": "api.calls", "customerId": "c", "value": 1}
        for path, body in (("/usage/api.calls", event), ("/usagebatch", [event])):
            refused = await api.ask("POST", path, json=body)
            assert (refused.status_code, refused.headers["Retry-After"]) == (503, "30")
            assert refused.json() == {"error": "No event is taken: it stepped"}
        assert (await api.ask("GET", "/events")).json() == []
        api.clock_fault = None
        assert (await api.ask("POST", "/usagebatch", json=[event])).status_code == 201


async def test_while_it_recovers_it_lives_and_is_not_ready() -> None:
    """What asks the ledger is told to come again, behind the check of its key; the rest answers."""
    async with serving(started=False) as api:
        for path in ("/", "/ping", "/healthz", "/config"):
            assert (await api.ask("GET", path)).status_code == 200
        waiting = await api.ask("GET", "/readyz")
        assert (waiting.status_code, waiting.json()["status"]) == (503, "starting")
        assert waiting.json()["reason"].startswith("counting the events")
        event = b'{"customerId":"c","value":1}'
        asked = [
            await api.ask("GET", "/events"),
            await api.ask("GET", "/aggregations"),
            await api.ask("POST", "/aggregations/trigger"),
            await api.ask("POST", "/usage/api.calls", content=event),
            await api.ask("POST", "/usagebatch", content=b"["),
        ]
        for answer in asked:
            assert answer.status_code == 503
            assert answer.headers["Retry-After"] == "1"
            assert answer.json()["error"].startswith("Starting: counting the events")
        assert (await api.ask("GET", "/events", headers={"x-apikey": "no"})).status_code == 401
        api.started.set()
        assert (await api.ask("GET", "/events")).json() == []
        assert (await api.ask("POST", "/usage/api.calls", content=event)).status_code == 201
