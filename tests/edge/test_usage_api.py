"""Customers and usage over HTTP: whole or refused, in pages, as JSON and as CSV."""

from __future__ import annotations

import csv
import io
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from meterd.domain.events import UsageEvent
from meterd.edge import usage_api
from tests.edge.api_bench import Api, serving
from tests.edge.test_api_reads import pages
from tests.edge.test_delivery_api import ok
from tests.model_ledger import ModelLedger

if TYPE_CHECKING:
    from meterd.domain.periods import Period
    from meterd.domain.usage import UsagePortion, UsageQuery

CSV: Final = {"Accept": "text/csv"}


async def use(
    api: Api, value: str, metadata: str = "{}", *, of: str = "c", kind: str = "api.calls"
) -> None:
    await api.ledger.append([UsageEvent(of, kind, Decimal(value), metadata.encode())])


async def three_days(api: Api) -> None:
    """Two events a day, of two plans and types."""
    for day in range(3):
        await use(api, f"{day}.1", '{"plan":"pro"}')
        await use(api, "5", '{"plan":"free"}', kind="a/b" if day == 1 else "api.calls")
        api.clock.advance(days=1)


async def refused(api: Api, path: str) -> str:
    """The error of a 400, which is JSON whatever is accepted."""
    answer = await api.ask("GET", path, headers=CSV)
    assert answer.status_code == 400, answer.text
    error: str = answer.json()["error"]
    return error


# -- customers ------------------------------------------------------------------------------------


async def test_customers_come_in_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """By id, each once, also where more are asked for than are read at once; who comes amid the
    pages is on the page that it belongs to.
    """
    monkeypatch.setattr(usage_api, "CUSTOMERS_AT_ONCE", 3)
    names = sorted([f"c{number}" for number in range(19)] + ["Ærø", "a/b"])
    async with serving() as api:
        assert await pages(api, "/customers") == [[]]
        await api.store(*names[1:])
        found = await pages(api, "/customers?limit=7")
        assert [len(page) for page in found] == [7, 7, 6]
        shown = [one["customerId"] for page in found for one in page]
        assert shown == names[1:]
        first = found[0][0]
        assert first == {"customerId": "c0", "firstSeen": "2026-03-10T09:58:00.000Z"}
        assert len(await ok(api, "GET", "/customers")) == 20
        assert [len(page) for page in await pages(api, "/customers?limit=20")] == [20]


async def test_a_hundred_customers_unless_told() -> None:
    """And a link to more."""
    async with serving() as api:
        await api.store(*(f"c{number}" for number in range(101)))
        assert [len(page) for page in await pages(api, "/customers")] == [100, 1]


# -- running totals -------------------------------------------------------------------------------


async def test_running_totals_of_a_customer() -> None:
    """Of the month unless told, of every type that it has, with the operation configured."""
    async with serving() as api:
        await three_days(api)
        shown = await ok(api, "GET", "/customers/c/usage")
        assert {name: shown[name] for name in shown if name != "usage"} == {
            "customerId": "c",
            "firstSeen": "2026-03-10T09:58:00.000Z",
            "period": "monthly",
            "periodStart": "2026-03-01T00:00:00.000Z",
            "periodEnd": "2026-03-31T23:59:59.999Z",
            "periodKey": "202603",
            "status": "open",
        }
        calls, other = shown["usage"]["api.calls"], shown["usage"]["a/b"]
        assert (calls["operation"], calls["value"], calls["count"]) == ("sum", 13.3, 5)
        assert (other["operation"], other["exact"]["value"]) == ("max", "5")


async def test_another_period_at_another_time() -> None:
    """An instant, or a date's midnight."""
    async with serving() as api:
        await three_days(api)
        for query, key, value in (
            ("period=daily&at=2026-03-11T23:59:59.999Z", "20260311", "1.1"),
            ("period=daily&at=2026-03-12", "20260312", "7.1"),
            ("period=yearly", "2026", "13.3"),
        ):
            shown = await ok(api, "GET", f"/customers/c/usage?{query}")
            assert shown["periodKey"] == key
            assert shown["usage"]["api.calls"]["exact"]["value"] == value
        assert (await ok(api, "GET", "/customers/c/usage?period=daily"))["usage"] == {}


async def test_who_never_came_has_used_nothing() -> None:
    """No error: a customer is whoever events come of, and a quota is checked before the first."""
    async with serving() as api:
        shown = await ok(api, "GET", "/customers/nobody/usage")
        assert (shown["customerId"], shown["firstSeen"], shown["usage"]) == ("nobody", None, {})


@pytest.mark.parametrize(
    ("path", "name"),
    [("a%2Fb", "a/b"), ("%C3%A6%20x", "æ x"), ("x%2Fusage", "x/usage"), ("%3F", "?")],
)
async def test_a_customer_is_named_in_the_path(path: str, name: str) -> None:
    """Percent-encoded, also with a slash in it."""
    async with serving() as api:
        await use(api, "7", of=name)
        status, shown = await api.raw(f"GET /customers/{path}/usage")
        assert (status, shown["customerId"]) == (200, name)
        assert shown["usage"]["api.calls"]["value"] == 7


async def test_a_slash_is_another_path() -> None:
    """As for event types."""
    async with serving() as api:
        for path in ("/customers/a/b/usage", "/customers//usage", "/customers/usage"):
            status, _ = await api.raw(f"GET {path}")
            assert status == 404, path


# -- windows --------------------------------------------------------------------------------------


async def test_windows_of_a_customer() -> None:
    """A row for each window and type, the earliest first; of others nothing."""
    async with serving() as api:
        await use(api, "1000", of="d")
        await three_days(api)
        rows = await ok(api, "GET", "/usage?customerId=c")
        assert [(one["periodKey"], one["eventType"], one["exact"]["value"]) for one in rows] == [
            ("20260310", "api.calls", "5.1"),
            ("20260311", "a/b", "5"),
            ("20260311", "api.calls", "1.1"),
            ("20260312", "api.calls", "7.1"),
        ]
        assert {one["status"] for one in rows} == {"open"}
        [month] = await ok(api, "GET", "/usage?customerId=c&window=monthly&eventType=api.calls")
        assert (month["sum"], month["count"], month["first"], month["last"]) == (13.3, 5, 0.1, 5)
        assert await ok(api, "GET", "/usage?customerId=nobody") == []
        assert await ok(api, "GET", "/usage?customerId=c&eventType=é") == []
        some = await ok(api, "GET", "/usage?customerId=c&from=2026-03-11&to=2026-03-12")
        assert [one["periodKey"] for one in some] == ["20260311", "20260311"]


async def test_groups_of_a_customer() -> None:
    """Rows of each group; those that a filter lets through."""
    async with serving() as api:
        await three_days(api)
        asked = "/usage?customerId=c&window=monthly&eventType=api.calls"
        rows = await ok(api, "GET", f"{asked}&groupBy=metadata.plan")
        assert [(one["group"], one["exact"]["sum"]) for one in rows] == [
            ({"metadata.plan": "free"}, "10"),
            ({"metadata.plan": "pro"}, "3.3"),
        ]
        [one] = await ok(api, "GET", f"{asked}&filter.metadata.plan=pro")
        assert ("group" in one, one["exact"]["sum"]) == (False, "3.3")
        both = f"{asked}&filter.metadata.plan=pro&filter.metadata.plan=free"
        assert (await ok(api, "GET", both))[0]["count"] == 5
        assert await ok(api, "GET", f"{asked}&filter.metadata.plan=none") == []


async def test_pages_give_each_window_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """``limit`` counts windows; also where more are asked for than are read at once."""
    monkeypatch.setattr(usage_api, "WINDOWS_AT_ONCE", 2)
    monkeypatch.setattr(usage_api, "ROWS_AT_ONCE", 2)
    async with serving() as api:
        await three_days(api)
        await three_days(api)
        whole = await ok(api, "GET", "/usage?customerId=c")
        assert len(whole) == 8
        for limit, sizes in {1: [1, 2, 1, 1, 2, 1], 4: [5, 3], 5: [7, 1], 6: [8], 7: [8]}.items():
            for groups in ("", "&groupBy=metadata.none"):
                found = await pages(api, f"/usage?customerId=c&limit={limit}{groups}")
                assert [len(page) for page in found] == sizes
                rows = [row for page in found for row in page]
                assert [row["sum"] for row in rows] == [row["sum"] for row in whole]


async def test_an_answer_is_whole_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Never cut off unseen: without pages what is too long says so; pages end where they must."""
    monkeypatch.setattr(usage_api, "ROWS_MAX", 3)
    async with serving() as api:
        await three_days(api)
        assert await refused(api, "/usage?customerId=c") == (
            "limit must be given: the answer has more than 3 rows, one for each window, event type"
            " and group; with limit, 1 to 10000, it comes in pages of so many windows"
        )
        assert len(await ok(api, "GET", "/usage?customerId=c&eventType=api.calls")) == 3
        found = await pages(api, "/usage?customerId=c&limit=10000")
        assert [len(page) for page in found] == [3, 1]


async def test_too_many_groups_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As soon as they are too many, or their texts too long; with the window that has them."""
    monkeypatch.setattr(usage_api, "EVENTS_AT_ONCE", 2)
    monkeypatch.setattr(usage_api, "ROWS_MAX", 4)
    asked = "/usage?customerId=c&groupBy=metadata.id&limit=1"
    error = (
        "groupBy must be what has few values: in the window 20260310 (daily) there are more than 4"
        " groups, or too long ones; ask for shorter windows, one eventType, a"
        " filter.metadata.<name> or another groupBy"
    )
    async with serving() as api:
        for number in range(4):
            await use(api, "1", f'{{"id":{number}}}')
        assert len(await ok(api, "GET", asked)) == 4
        await use(api, "1", '{"id":"other"}')
        assert await refused(api, asked) == error
        assert await refused(api, asked.replace("&limit=1", "")) == error
        monkeypatch.setattr(usage_api, "ROWS_MAX", 5)
        monkeypatch.setattr(usage_api, "GROUP_TEXTS_MAX", 8)
        assert await refused(api, asked) == error.replace("than 4", "than 5")
        monkeypatch.setattr(usage_api, "GROUP_TEXTS_MAX", 9)
        assert len(await ok(api, "GET", asked)) == 5


async def test_too_many_types_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing is grouped one window's rows are its types."""
    monkeypatch.setattr(usage_api, "ROWS_MAX", 1)
    async with serving() as api:
        await three_days(api)
        error = "eventType must be given: there are more than 1 in one window"
        assert await refused(api, "/usage?customerId=c&window=monthly") == error
        assert await refused(api, "/usage?customerId=c&window=monthly&limit=5") == error
        asked = "/usage?customerId=c&window=monthly&filter.metadata.plan=pro&filter.metadata.plan="
        assert await refused(api, f"{asked}free") == error


async def test_what_is_wrong_is_named() -> None:
    """With what the parameter takes; nothing is passed over."""
    async with serving() as api:
        for path, error in (
            ("/usage", "customerId must be given: usage is of one customer"),
            ("/usage?customerId=c&limit=0", "limit must be a whole number from 1 to 10000"),
            ("/customers?x=1", '"x" is no parameter; there are limit, cursor'),
            ("/customers/c/usage?at=x&period=daily", "at must be an ISO 8601 date"),
        ):
            assert (await refused(api, path)).startswith(error)


async def test_an_event_type_that_nobody_knows_is_named() -> None:
    """Misspelled, it would look like no usage. One that is configured may have no events, and one
    that is configured no more has those of before.
    """
    async with serving() as api:
        await use(api, "5", kind="of.old")
        error = 'eventType must be one of: api.calls, a/b, é; of "api.call" nothing is'
        asked = "/usage?customerId=c&eventType="
        assert (await refused(api, asked + "api.call")).startswith(error)
        assert await ok(api, "GET", asked + "a/b") == []
        assert [row["count"] for row in await ok(api, "GET", asked + "of.old")] == [1]
        assert await ok(api, "GET", "/usage?customerId=nobody&eventType=of.old") == []


# -- CSV ------------------------------------------------------------------------------------------


async def csv_of(api: Api, path: str, accept: str = "text/csv") -> list[dict[str, str]]:
    answer = await api.http.get(path, headers={"Accept": accept})
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8; header=present"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.text.endswith("\r\n")
    return list(csv.DictReader(io.StringIO(answer.text, newline=""), strict=True))


async def test_usage_as_csv(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same rows, with the exact numbers; however many are written at once."""
    monkeypatch.setattr(usage_api, "ROWS_AT_ONCE", 2)
    async with serving() as api:
        await three_days(api)
        for groups in ("", "&groupBy=metadata.plan&groupBy=metadata.none"):
            path = f"/usage?customerId=c{groups}"
            rows = await ok(api, "GET", path)
            lines = await csv_of(api, path)
            assert len(lines) == len(rows) >= 4
            for row, line in zip(rows, lines, strict=True):
                exact = row.pop("exact")
                group = row.pop("group", {})
                expected = {**row, **exact, **group, "count": str(row["count"])}
                assert line == {name: text or "" for name, text in expected.items()}
        assert await csv_of(api, "/usage?customerId=nobody") == []
        head = (await api.http.get("/usage?customerId=nobody", headers=CSV)).text
        assert head.startswith("customerId,window,")


@pytest.mark.parametrize(
    ("accept", "is_csv"),
    [
        ("text/csv", True),
        ("text/csv;q=0.9, */*;q=0.1", True),
        ("application/json;q=0.5, text/csv", True),
        ("text/*", True),
        ("*/*", False),
        ("application/json, text/csv", False),
        ("text/csv;q=0.5, application/json", False),
        ("text/html", False),
        ("", False),
        ("text/csv;q=0", False),
    ],
)
async def test_who_asks_for_csv_gets_it(accept: str, is_csv: bool) -> None:
    """JSON unless CSV is liked better."""
    async with serving() as api:
        await use(api, "1")
        answer = await api.http.get("/usage?customerId=c", headers={"Accept": accept})
        assert answer.headers["Content-Type"].startswith("text/csv" if is_csv else "application")


async def test_csv_comes_in_pages_too() -> None:
    """Each with a head; the link is in the same header."""
    async with serving() as api:
        await three_days(api)
        path, sizes = "/usage?customerId=c&limit=2", []
        while path:
            answer = await api.http.get(path, headers=CSV)
            sizes.append(len(answer.text.splitlines()))
            path = answer.headers.get("Link", "<>").split(">")[0][1:]
        assert sizes == [4, 2]


# -- how it is read -------------------------------------------------------------------------------


class SlowLedger(ModelLedger):
    """Each portion of groups waits to be let through; the most that were read at once."""

    def __init__(self, clock_ms: Any) -> None:
        super().__init__(clock_ms)
        self.let_through = trio.Semaphore(0)
        self.limits: list[int] = []
        self.reading = self.most = 0

    async def usage_groups(
        self, query: UsageQuery, period: Period, *, limit: int, before: bytes | None = None
    ) -> UsagePortion:
        self.reading += 1
        self.most = max(self.most, self.reading)
        self.limits.append(limit)
        await self.let_through.acquire()
        self.reading -= 1
        return await super().usage_groups(query, period, limit=limit, before=before)


async def test_events_are_read_a_portion_at_a_time_in_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However many ask: one portion at once, and everybody goes on behind every other."""
    monkeypatch.setattr(usage_api, "EVENTS_AT_ONCE", 2)
    ledger = SlowLedger(lambda: 1_773_140_280_000)
    async with serving(ledger) as api:
        for _ in range(7):
            await use(api, "1")
        found: list[Any] = []

        async def ask() -> None:
            found.append(await ok(api, "GET", "/usage?customerId=c&groupBy=metadata.x"))

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(ask)
            for _ in range(3 * 4):
                await wait_all_tasks_blocked()
                ledger.let_through.release()
        assert [rows[0]["count"] for rows in found] == [7, 7, 7]
        assert (ledger.most, ledger.limits) == (1, [2] * 12)
