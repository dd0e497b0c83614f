"""What is told of a request, in either lane, and under which name."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
from structlog.testing import capture_logs

from meterd.domain.errors import DiskFullError
from meterd.edge.limits import Limits
from meterd.edge.request_log import PATH_MAX, UNSERVED_S, Asked, RequestLog, current_id
from meterd.log_lines import _name_request
from tests.edge import lane_bench, loopback
from tests.edge.lane_bench import BATCH, EVENT, ITEM, SERVED, lane, request
from tests.edge.loopback import Http2Client, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

MADE = "0000000000000007"
GIVEN = b"X-Request-Id: web-1"
LANES = pytest.mark.parametrize("fast", [True, False])


@pytest.fixture
def tells_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """As at log level debug."""
    tell_by(monkeypatch, RequestLog(lambda _: 7, lambda: True, key_id))


@pytest.fixture(autouse=True)
def tells_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """As at any other level, with nothing told yet."""
    tell_by(monkeypatch, RequestLog(lambda _: 7, lambda: False, key_id))


def key_id(apikey: str | None, _authorization: str) -> str | None:
    return apikey and f"id-of-{apikey}"


def tell_by(monkeypatch: pytest.MonkeyPatch, told: RequestLog) -> None:
    for module in (lane_bench, loopback):
        monkeypatch.setattr(module, "REQUESTS", told)


@contextmanager
def logged() -> Iterator[list[dict[str, Any]]]:
    """Entries with the name of the request that each was made in."""
    with capture_logs(processors=[_name_request]) as entries:
        yield entries  # type: ignore[misc]


async def until(entries: list[dict[str, Any]], count: int) -> None:
    """A line is written behind the answer."""
    await wait_until(lambda: len(entries) == count)


def fields(answered: bytes) -> dict[bytes, bytes]:
    head, _, _ = answered.partition(b"\r\n\r\n")
    return dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:])


@LANES
@pytest.mark.usefixtures("tells_all")
async def test_each_request_is_a_line_at_debug(fast: bool) -> None:
    """With what tells it from others, and neither a query nor a body nor a key."""
    async with lane(fast=fast) as opened:
        with logged() as entries:
            await opened.exchange(request(EVENT, GIVEN))
            await opened.exchange(request(b"[" + ITEM + b",5]", line=BATCH))
            await opened.exchange(request(EVENT, key=b"x-apikey: no"))
            await until(entries, 3)
    ours = "plain" if fast else "full"
    for entry in entries:
        assert 0 <= entry.pop("ms") < 10_000
    common = {"event": "request", "log_level": "debug", "method": "POST", "lane": ours}
    common |= {"peer": "127.0.0.1"}
    assert entries == [
        {
            **common,
            "path": "/usage/api.calls",
            "status": 201,
            "received": len(EVENT),
            "sent": 69,
            "key": "id-of-k",
            "request_id": "web-1",
        },
        {
            **common,
            "path": "/usagebatch",
            "status": 422,
            "received": len(ITEM) + 4,
            "sent": entries[1]["sent"],
            "key": "id-of-k",
            "request_id": MADE,
        },
        {
            **common,
            "path": "/usage/api.calls",
            "status": 401,
            "received": len(EVENT),
            "sent": 24,
            "key": "id-of-no",
            "request_id": MADE,
        },
    ]


@pytest.mark.usefixtures("tells_all")
async def test_a_query_is_not_told() -> None:
    """It may hold a key of whoever did not read the manual; a long path is cut."""
    long = b"/" + b"x" * 500
    async with lane(fast=True) as opened:
        with logged() as entries:
            for count, target in enumerate(
                (b"/events?apikey=secret", b"http://u:secret@a/ping?secret", long), 1
            ):
                await opened.exchange(b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % target)
                await until(entries, count)
    assert [entry["path"] for entry in entries] == ["/events", "/ping", long.decode()[:PATH_MAX]]
    assert "secret" not in str(entries)


@LANES
async def test_nothing_is_told_else(fast: bool) -> None:
    """Of no request that was served or refused for a fault of its own."""
    async with lane(fast=fast) as opened:
        with logged() as entries:
            for raw in SERVED.values():
                await opened.exchange(raw)
            await opened.exchange(b"GET / HTTP/9.9\r\nHost: a\r\n\r\n")
    assert [entry["event"] for entry in entries if entry["log_level"] != "debug"] == []
    assert [entry["event"] for entry in entries] == ["request refused"]


@LANES
async def test_what_was_not_served_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, fast: bool
) -> None:
    """Whatever the log level; the client has the name that it is logged under."""

    async def append(*_: object, **__: object) -> None:
        raise DiskFullError("full")

    async with lane(fast=fast) as opened:
        monkeypatch.setattr(type(opened.ledger), "append", append)
        with logged() as entries:
            answered = await opened.exchange(request(EVENT))
            await until(entries, 1)
    assert fields(answered)[b"x-request-id"] == MADE.encode()
    [entry] = entries
    shown = entry["event"], entry["log_level"], entry["status"], entry["request_id"]
    assert shown == ("request not served", "warning", 507, MADE)
    assert entry["others"] == 0


@LANES
async def test_a_failure_is_logged_under_its_requests_name(
    monkeypatch: pytest.MonkeyPatch, fast: bool
) -> None:
    """Which the answer has: our own mistake can be looked up."""

    async def fail(*_: object, **__: object) -> None:
        raise ValueError("ours")

    async with lane(fast=fast) as opened:
        monkeypatch.setattr(type(opened.ledger), "append", fail)
        with logged() as entries:
            answered = await opened.exchange(request(EVENT, GIVEN) + request(EVENT))
    assert [line for line in answered.split(b"\r\n") if line.startswith(b"x-request-id")] == [
        b"x-request-id: web-1",
        b"x-request-id: " + MADE.encode(),
    ]
    assert [(entry["event"], entry["request_id"]) for entry in entries] == [
        ("request failed", "web-1"),
        ("request failed", MADE),
    ]


@LANES
@pytest.mark.parametrize("given", [b"", b"X-Request-Id: a b", b"X-Request-Id: " + b"x" * 129])
async def test_what_was_taken_is_named_for_who_named_it(fast: bool, given: bytes) -> None:
    """A name that cannot be taken is none, and no fault."""
    more = [given] if given else []
    async with lane(fast=fast) as opened:
        taken = await opened.exchange(request(EVENT, *more))
        refused = await opened.exchange(request(b"{", *more))
        named = await opened.exchange(request(EVENT, b"x-ReQuest-ID:" + b"y" * 128))
    assert taken.startswith(b"HTTP/1.1 201 ")
    assert b"x-request-id" not in fields(taken)
    assert fields(refused)[b"x-request-id"] == MADE.encode()
    assert fields(named)[b"x-request-id"] == b"y" * 128


@pytest.mark.parametrize("at_debug", [True, False])
async def test_those_refused_at_once_are_told_of(
    monkeypatch: pytest.MonkeyPatch, at_debug: bool
) -> None:
    """Who sent too much ahead: each has its name in its answer, and all are counted."""
    tell_by(monkeypatch, RequestLog(lambda _: 7, lambda: at_debug, key_id))
    async with lane(fast=True, limits=Limits(sent_ahead_s=0.0)) as opened:
        with logged() as entries:
            sent = request(EVENT) * 3 + request(EVENT, GIVEN) + request(EVENT)
            answered = await opened.exchange(sent)
    named = [line for line in answered.split(b"\r\n") if line.startswith(b"x-request-id: ")]
    assert named == [b"x-request-id: " + name for name in (MADE.encode(),) * 2] + [
        b"x-request-id: web-1",
        b"x-request-id: " + MADE.encode(),
    ]
    [warning] = [entry for entry in entries if entry["log_level"] == "warning"]
    assert warning["status"] == 503
    assert warning["others"] == (0 if at_debug else 3)
    assert len(entries) == (5 if at_debug else 1)


async def test_a_refused_request_is_named_too() -> None:
    """What no lane could read, in the answer and in the log."""
    async with lane(fast=True) as opened:
        with logged() as entries:
            answered = await opened.exchange(b"GET / HTTP/9.9\r\nHost: a\r\n\r\n")
    assert fields(answered)[b"x-request-id"] == MADE.encode()
    [entry] = entries
    shown = entry["event"], entry["status"], entry["peer"], entry["request_id"]
    assert shown == ("request refused", 400, "127.0.0.1", MADE)


@pytest.mark.usefixtures("tells_all")
async def test_streams_are_named_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests of one HTTP/2 connection, at once."""
    async with lane(fast=True) as opened, await Http2Client.connect(opened.door) as client:
        with logged() as entries:
            streams = [await client.request(b"/ping") for _ in range(3)]
            for stream in streams:
                await client.until_answered(stream)
            await until(entries, 3)
    assert [(entry["path"], entry["status"]) for entry in entries] == [("/ping", 200)] * 3


async def test_a_connection_is_no_request_behind_one() -> None:
    """What is logged when it ends is not logged under the last request's name."""
    requests = RequestLog(lambda _: 7, lambda: False, lambda _apikey, _authorization: None)
    assert current_id() is None
    asked = requests.asked("a")
    assert current_id() == "a"
    asked.begin(None)
    assert current_id() == MADE
    requests.forget()
    assert current_id() is None


def test_a_name_is_made_once_and_only_if_asked_for() -> None:
    """The plain lane does not pay for names that nobody reads."""
    numbers = iter(range(3))
    asked = Asked(lambda _: next(numbers), None)
    asked.begin("given")
    assert asked.id == "given"
    asked.begin(None)
    asked.begin(None)
    assert [asked.id, asked.id] == ["0" * 16] * 2
    asked.begin(None)
    assert asked.id == "0" * 15 + "1"


def answered(told: RequestLog, status: int | None, path: str = "/usagebatch") -> None:
    told.answered(
        told.asked(),
        lane="full",
        method="POST",
        path=path,
        status=status,
        began_at=trio.current_time(),
        peer="::1",
        received=0,
        sent=0,
        apikey=None,
        authorization="",
    )
    told.forget()


@pytest.mark.parametrize("at_debug", [True, False])
async def test_a_flood_of_refusals_is_a_line_now_and_then(
    autojump_clock: object, at_debug: bool
) -> None:
    """Of each status, with how many there were beside it; at debug each is a line as any other."""
    told = RequestLog(lambda _: 7, lambda: at_debug, lambda _apikey, _authorization: None)
    with capture_logs() as entries:
        for _ in range(3):
            for status in (503, 503, 507, 503):
                answered(told, status)
            await trio.sleep(UNSERVED_S)
    warnings = [(e["status"], e["others"]) for e in entries if e["log_level"] == "warning"]
    assert warnings == [(503, 0), (507, 0), (503, 2), (507, 0), (503, 2), (507, 0)]
    assert len(entries) == (12 if at_debug else 6)


async def test_who_leaves_before_its_answer_has_no_status() -> None:
    """Told all the same."""
    told = RequestLog(lambda _: 7, lambda: True, lambda _apikey, _authorization: None)
    with capture_logs() as entries:
        answered(told, None, "*")
    assert [(entry["status"], entry["path"], entry["key"]) for entry in entries] == [
        (None, None, None)
    ]
