"""Routes, keys and what every answer carries; reading is in test_api_reads.py."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import msgspec
import pytest
import trio
from structlog.testing import capture_logs

from meterd import __version__
from meterd.domain.config import Config
from meterd.domain.errors import CorruptRecordError
from meterd.ledger import EventQuery
from tests.edge.api_bench import CONFIG, GUARDED, KEYS, Api, catch_up, error_of, serving
from tests.fake_clock import FakeClock
from tests.model_ledger import ModelLedger

if TYPE_CHECKING:
    import httpx

    from meterd.domain.stored_events import StoredEvent

EVENT = {"customerId": "c", "value": 1}
OPEN = ["/", "/ping", "/healthz", "/readyz"]


# -- keys -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "path", "scope"), GUARDED)
async def test_each_route_needs_its_scope(method: str, path: str, scope: str) -> None:
    """No key or a wrong one: 401. One without the scope: 403. Nothing else is looked at before."""
    async with serving() as api:
        for unknown in ("", "wrong", "key-al", "key-allx", "x" * 10_000, "schl\u00fcssel"):
            wrong = {b"x-apikey": unknown.encode()}
            answer = await api.ask(method, path, headers=wrong, content=b"{")
            assert error_of(answer) == (401, "Unauthorized")
        del api.http.headers["x-apikey"]
        assert error_of(await api.ask(method, path, content=b"{")) == (401, "Unauthorized")
        for key in KEYS:
            allowed = key in (scope, "all")
            for headers in ({"x-apikey": f"key-{key}"}, {"Authorization": f"Bearer key-{key}"}):
                answer = await api.ask(method, path, headers=headers, content=b"[]")
                assert (answer.status_code not in (401, 403)) == allowed
                assert allowed or error_of(answer) == (403, "Forbidden")
                named = answer.headers.get("WWW-Authenticate", "")
                assert allowed or f'scope="{scope}"' in named


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        ("Bearer key-all", 200),
        ("bearer key-all", 200),
        ("BEARER   key-all", 200),
        ("Basic key-all", 401),
        ("key-all", 401),
        ("Bearer", 401),
        ("Bearer key-all key-all", 401),
    ],
)
async def test_a_bearer_key(authorization: str, status: int) -> None:
    """RFC 9110, 11.1: the name of the scheme has no case."""
    async with serving() as api:
        del api.http.headers["x-apikey"]
        answer = await api.ask("GET", "/config", headers={"Authorization": authorization})
        assert answer.status_code == status


async def test_the_keys_of_the_moment_let_in() -> None:
    """A key that a reload takes away opens nothing any more."""
    async with serving() as api:
        api.config = msgspec.structs.replace(CONFIG, keys=())
        assert (await api.ask("GET", "/config")).status_code == 401


@pytest.mark.parametrize("path", OPEN)
async def test_what_needs_no_key(path: str) -> None:
    """And is not refused for a wrong one."""
    async with serving() as api:
        api.http.headers["x-apikey"] = "wrong"
        assert (await api.ask("GET", path)).status_code in (200, 503)
        del api.http.headers["x-apikey"]
        assert (await api.ask("GET", path)).status_code in (200, 503)


# -- routes ---------------------------------------------------------------------------------------


async def test_about() -> None:
    """The contract's keys; every endpoint that it names is there."""
    async with serving() as api:
        about = (await api.ask("GET", "/")).json()
        assert list(about) == [
            "status",
            "service",
            "version",
            "description",
            "features",
            "endpoints",
            "configuration",
            "documentation",
        ]
        assert (about["status"], about["service"], about["version"]) == (
            "ok",
            "meterd",
            __version__,
        )
        named = about["endpoints"]
        for endpoint in [
            *(one for one in named.values() if isinstance(one, str)),
            *named["management"].values(),
            *named["deliveries"].values(),
            *named["webhooks"].values(),
            *named["health"].values(),
        ]:
            method, path = endpoint.split()
            answer = await api.ask(method, path.replace("{eventType}", "api.calls"))
            assert answer.status_code not in (401, 403, 405), endpoint
            assert b"Not found" not in answer.content, endpoint


async def test_ping_and_health() -> None:
    """The time is that of the daemon."""
    async with serving() as api:
        ping = await api.ask("GET", "/ping")
        assert ping.content == b'{"status":"ok","timestamp":"2026-03-10T09:58:00.000Z"}'
        assert (await api.ask("GET", "/healthz")).content == b'{"status":"ok"}'


async def test_it_is_ready_when_the_closer_has_caught_up() -> None:
    """Before, totals that are about to become final would be read as open."""
    async with serving() as api, trio.open_nursery() as nursery:
        starting = await api.ask("GET", "/readyz")
        assert (starting.status_code, starting.json()["status"]) == (503, "starting")
        await catch_up(api, nursery)
        ready = await api.ask("GET", "/readyz")
        assert (ready.status_code, ready.content) == (200, b'{"status":"ready"}')
        nursery.cancel_scope.cancel()


async def test_the_configuration_without_secrets() -> None:
    """Periods, events by name, webhooks; no key, and no secret but its last four characters."""
    async with serving() as api:
        answer = await api.ask("GET", "/config")
        shown = answer.json()
        assert shown["periods"] == ["hourly", "daily"]
        assert list(shown["events"]) == ["api.calls", "a/b", "é"]
        assert shown["events"]["a/b"] == {"op": "max"}
        assert shown["webhooks"][0]["secret"] == "***ngth"
        assert "t0ps3cret" not in answer.text
        assert "whsec_of" not in answer.text
        assert CONFIG.keys[0].hash not in answer.text


@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        "/customers/",
        "/customers/a/usage/",
        "/usage/",
        "/usage//api.calls",
        "/usage/api.calls/",
        "/usage/a/b",
        "//usage/api.calls",
        "//",
        "/ping/",
        "/events/",
        "//events",
        "/usagebatch/",
        "/static/x",
        "/Events",
        "/aggregations//trigger",
        "/events%2F",
        "/%2Fevents",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_unknown_paths(method: str, path: str) -> None:
    """404, without a redirect to what the path might have meant. GET of /usage/... is 405."""
    async with serving() as api:
        status, content = await api.raw(f"{method} {path}")
        if method == "GET" and path.startswith("/usage/") and path != "/usage/":
            assert status in (404, 405)
        else:
            assert (status, content) == (404, {"error": "Not found"})


@pytest.mark.parametrize(
    ("path", "right"),
    [
        ("/", {"GET", "HEAD"}),
        ("/ping", {"GET", "HEAD"}),
        ("/events", {"GET", "HEAD"}),
        ("/aggregations", {"GET", "HEAD"}),
        ("/config", {"GET", "HEAD"}),
        ("/customers", {"GET", "HEAD"}),
        ("/customers/a%2Fb/usage", {"GET", "HEAD"}),
        ("/usage", {"GET", "HEAD"}),
        ("/usagebatch", {"POST"}),
        ("/usage/api.calls", {"POST"}),
        ("/aggregations/trigger", {"POST"}),
    ],
)
async def test_wrong_methods(path: str, right: set[str]) -> None:
    """405, and Allow says which are right (RFC 9110, 15.5.6)."""
    async with serving() as api:
        for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} - right:
            answer = await api.ask(method, path)
            assert error_of(answer) == (405, "Method not allowed")
            assert set(answer.headers["Allow"].split(", ")) == right


# -- events in ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "event_type"),
    [
        ("/usage/api.calls", "api.calls"),
        ("/usage/api%2Ecalls", "api.calls"),
        ("/usage/%61pi.calls", "api.calls"),
        ("/usage/a%2Fb", "a/b"),
        ("/usage/a%2fb", "a/b"),
        ("/usage/%C3%A9", "é"),
        ("/usage/api.calls?x=/y/z", "api.calls"),
    ],
)
async def test_event_types_are_percent_decoded(path: str, event_type: str) -> None:
    """A slash in one is sent as %2F; what stands behind a question mark is no path."""
    async with serving() as api:
        status, content = await api.raw(f"POST {path}", body=json.dumps(EVENT).encode())
        assert (status, content["eventType"]) == (201, event_type)
        [stored] = await api.ledger.events(EventQuery(), limit=9)
        assert stored.event.event_type == event_type


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/usage/API.CALLS", "API.CALLS"),
        ("/usage/api.calls%20", "api.calls "),
        ("/usage/api%252Ecalls", "api%2Ecalls"),
        ("/usage/%FF", "\ufffd"),
        ("/usage/a%2Fb%2F", "a/b/"),
        ("/usage/.", "."),
    ],
)
async def test_event_types_are_decoded_once_and_have_a_case(path: str, shown: str) -> None:
    """What is not configured is refused by the name that was asked for."""
    async with serving() as api:
        status, content = await api.raw(f"POST {path}", body=json.dumps(EVENT).encode())
        expected = f"Invalid event type: {shown}. Must be one of: api.calls, a/b, é"
        assert (status, content) == (400, {"error": expected})


# -- trigger --------------------------------------------------------------------------------------


async def test_a_trigger_says_what_it_did() -> None:
    """Keys of the contract, in its order; the result is there when it answers."""
    async with serving() as api:
        answer = await api.ask("POST", "/aggregations/trigger")
        assert answer.status_code == 200
        assert answer.content == b'{"message":"No events to aggregate","jobsQueued":0}'
        await api.store("a", "b", "a")
        headers = {"Content-Type": "application/json"}
        answer = await api.ask("POST", "/aggregations/trigger", headers=headers)
        assert answer.status_code == 202
        assert answer.content == (
            b'{"message":"Aggregation jobs queued for processing","jobsCreated":4,"jobsUpdated":0,'
            b'"jobsQueued":4,"customersFound":2,"periodsConfigured":2,"eventsScanned":3}'
        )
        assert len((await api.ask("GET", "/aggregations")).json()) == 4


async def test_a_trigger_without_periods() -> None:
    """503, events or not."""
    async with serving() as api:
        api.config = Config(keys=CONFIG.keys, events=CONFIG.events)
        await api.store("a")
        answer = await api.ask("POST", "/aggregations/trigger")
        assert error_of(answer) == (503, "No periods configured in systemconfig.toml")


# -- our own mistakes -----------------------------------------------------------------------------


class BrokenLedger(ModelLedger):
    fault: Exception = AssertionError("a secret of the house")

    async def events(self, *_: object, **__: object) -> list[StoredEvent]:
        raise self.fault

    append = page_end = events  # type: ignore[assignment]


async def test_a_fault_costs_its_request_only() -> None:
    """500 without a word of what broke; the log has it, and the next request is served."""
    async with serving(BrokenLedger(FakeClock("2026-03-10T09:58:00Z").now_ms)) as api:
        with capture_logs() as logged:
            answer = await api.ask("GET", "/events")
        assert error_of(answer) == (500, "Internal server error")
        [entry] = [entry for entry in logged if entry["event"] == "request failed"]
        assert (entry["method"], entry["path"]) == ("GET", "/events")
        assert "a secret of the house" in repr(entry["exc_info"])
        assert (await api.ask("GET", "/ping")).status_code == 200
        api.ledger.fault = CorruptRecordError("which")  # type: ignore[attr-defined]
        for method, path in (("GET", "/events"), ("POST", "/usage/api.calls")):
            with capture_logs() as logged:
                answer = await api.ask(method, path, json=EVENT)
            assert error_of(answer) == (500, "Internal server error: a stored record is damaged")
            assert [entry["error"] for entry in logged] == ["which"]


async def test_an_api_is_served_by_the_configuration_of_the_moment() -> None:
    """An event type that a reload brings is taken at once."""
    async with serving() as api:
        api.config = Config(keys=CONFIG.keys)
        assert (await new_event(api)).status_code == 503
        api.config = CONFIG
        assert (await new_event(api)).status_code == 201


async def new_event(api: Api) -> httpx.Response:
    return await api.ask("POST", "/usage/api.calls", json=EVENT)
