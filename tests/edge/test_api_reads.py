"""Reading over HTTP: filters, order, long answers, and pages that give everything exactly once."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from trio.testing import wait_all_tasks_blocked

from meterd.domain.events import UsageEvent
from meterd.edge.pages import PAGE
from tests.edge.api_bench import NOW, Api, serving
from tests.edge.loopback import GET
from tests.fake_clock import ms
from tests.model_ledger import ModelLedger

if TYPE_CHECKING:
    from meterd.domain.stored_events import StoredEvent
    from meterd.ledger import EventQuery

LINK = re.compile(r'<(/[a-z]+\?[!-;=?-~]+)>; rel="next"')


async def pages(api: Api, path: str) -> list[list[dict[str, Any]]]:
    """The answer and those that its links lead to."""
    found = []
    while True:
        answer = await api.ask("GET", path)
        assert answer.status_code == 200, answer.text
        found.append(answer.json())
        if "Link" not in answer.headers:
            return found
        matched = LINK.fullmatch(answer.headers["Link"])
        assert matched, answer.headers["Link"]
        path = matched[1]


def values(page: list[dict[str, Any]]) -> list[int]:
    return [event["value"] for event in page]


# -- events ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "sizes"),
    [
        (1200, [1200, 300]),
        (1500, [1500]),
        (1499, [1499, 1]),
        (PAGE, [PAGE] * 7 + [1500 - 7 * PAGE]),
        (750, [750, 750]),
        (100_000, [1500]),
    ],
)
async def test_pages_give_each_event_exactly_once(limit: int, sizes: list[int]) -> None:
    """Newest first, also where an answer is longer than what is read at once."""
    async with serving() as api:
        await api.store(*["c"] * 1500)
        found = await pages(api, f"/events?limit={limit}")
        assert [len(page) for page in found] == sizes
        assert values([event for page in found for event in page]) == list(range(1499, -1, -1))
        assert len({event["_id"] for page in found for event in page}) == 1500


async def test_a_hundred_events_unless_told() -> None:
    """And a link to more."""
    async with serving() as api:
        await api.store(*["c"] * 101)
        assert [len(page) for page in await pages(api, "/events")] == [100, 1]


async def test_what_comes_after_a_page_was_read_does_not_shift_the_next() -> None:
    """A cursor is a place, not a number of events."""
    async with serving() as api:
        await api.store(*["c"] * 5)
        first = await api.ask("GET", "/events?limit=3")
        await api.store(*["new"] * 5)
        matched = LINK.fullmatch(first.headers["Link"])
        assert matched
        second = await api.ask("GET", matched[1])
        assert values(first.json() + second.json()) == [4, 3, 2, 1, 0]


async def test_no_events_are_an_empty_array() -> None:
    """Of an unknown customer or event type as well; never a refusal."""
    async with serving() as api:
        await api.store("c")
        for query in ("?customerId=d", "?eventType=unknown", "?customerId=c&eventType=a/b"):
            answer = await api.ask("GET", f"/events{query}")
            assert (answer.status_code, answer.content) == (200, b"[]")
            assert "Link" not in answer.headers


async def test_filters_of_events() -> None:
    """Customer and type; both bounds on the time of receipt, both inclusive; empty is none."""
    async with serving() as api:
        for second in range(4):
            await api.store("a", "b", event_type="api.calls" if second % 2 else "a/b")
            api.clock.advance(seconds=1)
        asked = {
            "customerId=a": 4,
            "eventType=a/b": 4,
            "customerId=a&eventType=a%2Fb": 2,
            "from=2026-03-10T09:58:01Z&to=2026-03-10T09:58:02Z": 4,
            "from=2026-03-10T10:58:01%2B01:00&to=2026-03-10T10:58:02+01:00": 4,
            "from=2026-03-10T09:58:03.001Z": 0,
            "to=2026-03-10T09:57:59.999Z": 0,
            "from=2026-03-10&to=": 8,
            "to=2026-03-10": 0,
            "customerId=&eventType=&from=&to=&limit=&cursor=": 8,
            "unknown=1": 8,
        }
        for query, count in asked.items():
            answer = await api.ask("GET", f"/events?{query}")
            assert len(answer.json()) == count, query


async def test_an_event_as_it_is_shown() -> None:
    """Keys in the contract's order, as edge/documents.py writes them."""
    async with serving() as api:
        body = b'{"customerId":"c","value":0.10,"metadata":{"b":1,"a":[]}}'
        await api.ask("POST", "/usage/api.calls", content=body)
        answer = await api.ask("GET", "/events")
        [event] = answer.json()
        assert list(event) == [
            "_id", "eventType", "customerId", "value", "metadata", "receivedAt",
            "minute", "hour", "day", "week", "month", "year",
        ]  # fmt: skip
        assert event["receivedAt"] == "2026-03-10T09:58:00.000Z"
        assert b'"value":0.1,"metadata":{"b":1,"a":[]}' in answer.content


@pytest.mark.parametrize("customer", ["c", "a b&c=d", "kunde é/+%", "x" * 256, "?#"])
async def test_a_link_keeps_what_was_asked(customer: str) -> None:
    """Encoded as a URL must be, so that it can be requested as it stands."""
    async with serving() as api:
        await api.store(*[customer, "other"] * 3)
        asked = {
            "customerId": customer,
            "limit": "2",
            "from": "2026-03-10T10:00:00+02:00",
            "eventType": "api.calls",
        }
        answer = await api.ask("GET", "/events", params=asked)
        matched = LINK.fullmatch(answer.headers["Link"])
        assert matched, answer.headers["Link"]
        parts = urlsplit(matched[1])
        query = dict(parse_qsl(parts.query, strict_parsing=True))
        assert parts.path == "/events"
        assert {name: text for name, text in query.items() if name != "cursor"} == asked
        assert (await pages(api, matched[1])) == [
            (await api.ask("GET", "/events", params={**asked, "limit": "9"})).json()[2:]
        ]


async def test_a_plus_sent_as_it_stands_survives_the_link() -> None:
    """A server decodes it to a space; the next page is asked with the same bound."""
    async with serving() as api:
        await api.store(*["c"] * 4)
        found = await pages(api, "/events?limit=1&from=2026-03-10T11:58:00+02:00")
        assert values([event for page in found for event in page]) == [3, 2, 1, 0]


# -- unfit parameters -----------------------------------------------------------------------------

INSTANT = (
    "must be an ISO 8601 date (2026-01-14) or an instant with its offset (2026-01-14T00:00:00.000Z)"
)
CURSOR = "cursor must be taken from the Link header of an earlier answer"


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ("limit=0", "limit must be a whole number from 1 to 100000"),
        ("limit=100001", "limit must be a whole number from 1 to 100000"),
        ("from=yesterday", f"from {INSTANT}"),
        ("to=2026-02-30", f"to {INSTANT}"),
        ("from=2026-01-14T00:00:00", f"from {INSTANT}"),
        ("cursor=!", CURSOR),
        ("cursor=AAAA", CURSOR),
        ("cursor=%00", CURSOR),
        ("limit=%FF", "limit must be a whole number from 1 to 100000"),
    ],
)
@pytest.mark.parametrize("path", ["/events", "/aggregations"])
async def test_an_unfit_parameter_is_named(path: str, query: str, error: str) -> None:
    """400, with what it takes."""
    async with serving() as api:
        answer = await api.ask("GET", f"{path}?{query}")
        assert (answer.status_code, answer.json()) == (400, {"error": error})


async def test_an_unfit_period() -> None:
    """The five are named."""
    async with serving() as api:
        answer = await api.ask("GET", "/aggregations?period=fortnightly")
        expected = "period must be one of: hourly, daily, weekly, monthly, yearly"
        assert (answer.status_code, answer.json()) == (400, {"error": expected})


# -- aggregations ---------------------------------------------------------------------------------


async def test_aggregations_newest_first_and_filtered() -> None:
    """By start of period, then customer; both bounds on the start, inclusive."""
    async with serving() as api:
        for _ in range(2):
            await api.store("b", "a")
            await api.close_hour()
        found = (await api.ask("GET", "/aggregations")).json()
        assert [one["_id"] for one in found] == [
            "a_hourly_2026031010",
            "b_hourly_2026031010",
            "a_hourly_2026031009",
            "b_hourly_2026031009",
            "a_daily_20260310",
            "b_daily_20260310",
        ]
        assert list(found[0]) == [
            "_id", "customerId", "period", "periodStart", "periodEnd", "periodKey", "timestamp",
            "events", "eventCounts", "webhookStatus", "eventCount", "createdAt",
            "status", "revision", "exact",
        ]  # fmt: skip
        asked = {
            "customerId=a": 3,
            "period=daily": 2,
            "period=hourly&customerId=b": 2,
            "from=2026-03-10T09:00:00Z&to=2026-03-10T09:00:00.000Z": 2,
            "from=2026-03-10T09:00:00.001Z": 2,
            "to=2026-03-10": 2,
            "from=2026-03-11": 0,
            "period=weekly": 0,
        }
        for query, count in asked.items():
            assert len((await api.ask("GET", f"/aggregations?{query}")).json()) == count, query


@pytest.mark.parametrize(
    ("limit", "sizes"), [(4, [4, 4, 2]), (5, [5, 5]), (10, [10]), (1, [1] * 10)]
)
async def test_pages_give_each_aggregation_exactly_once(limit: int, sizes: list[int]) -> None:
    """Also where a page ends between two customers of one period."""
    async with serving() as api:
        await api.store("a", "kunde é", "c/d", "e&f", "g")
        await api.close_hour()
        whole = (await api.ask("GET", "/aggregations")).json()
        found = await pages(api, f"/aggregations?limit={limit}")
        assert [len(page) for page in found] == sizes
        assert [one for page in found for one in page] == whole


async def test_a_long_answer_of_aggregations() -> None:
    """More than is read at once, in one answer."""
    async with serving() as api:
        await api.store(*(f"c{number:04d}" for number in range(PAGE + 100)))
        await api.close_hour()
        found = await pages(api, f"/aggregations?period=hourly&limit={PAGE + 50}")
        assert [len(page) for page in found] == [PAGE + 50, 50]
        customers = [one["customerId"] for page in found for one in page]
        assert customers == sorted(customers)
        assert len(set(customers)) == PAGE + 100


# -- how it is sent -------------------------------------------------------------------------------


async def test_head_says_what_get_would() -> None:
    """Without a body, so that the connection is good for the next request."""
    async with serving() as api:
        await api.store(*["c"] * 3)
        async with await api.door.connect() as client:
            for path in ("/events?limit=2", "/ping", "/config", "/nothing"):
                head = f"HEAD {path} HTTP/1.1\r\nHost: a\r\nx-apikey: key-all\r\n\r\n"
                await client.send(head.encode())
                answer = await client.answer(body=False)
                assert answer.status == (404 if path == "/nothing" else 200)
                assert answer.fields["content-type"] == "application/json"
                assert ("link" in answer.fields) == path.startswith("/events")
            assert (await client.ask(GET)).json["status"] == "ok"


class CountingLedger(ModelLedger):
    """Counts how much is read at once."""

    def __init__(self) -> None:
        super().__init__(lambda: ms(NOW))
        self.reads: list[int] = []

    async def events(
        self, query: EventQuery, *, limit: int, before: bytes | None = None
    ) -> list[StoredEvent]:
        self.reads.append(limit)
        return await super().events(query, limit=limit, before=before)


async def test_a_client_that_does_not_read_is_not_read_for() -> None:
    """A long answer is made as it is taken: memory does not follow the limit."""
    ledger = CountingLedger()
    async with serving(ledger) as api:
        metadata = json.dumps({"x": "y" * 16_000})
        event = f'{{"eventType":"api.calls","customerId":"c","value":1,"metadata":{metadata}}}'
        batch = f"[{','.join([event] * 15)}]".encode()
        for _ in range(200):
            assert (await api.ask("POST", "/usagebatch", content=batch)).status_code == 201
        async with await api.door.connect() as client:
            await client.send(
                b"GET /events?limit=100000 HTTP/1.1\r\nHost: a\r\nx-apikey: key-all\r\n\r\n"
            )
            await wait_all_tasks_blocked(0.2)
        assert max(ledger.reads) <= PAGE + 1
        assert len(ledger.reads) < 3000 / PAGE


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("", True),
        ("?customerId=c", True),
        ("?from=2026-03-10T09:59:59.999Z", True),
        ("?from=2026-03-10T10:00:00Z", False),
    ],
)
async def test_events_say_from_when_on_all_are_there(asked: str, told: bool) -> None:
    """Where some of those that were asked for may be pruned, and only there."""
    async with serving() as api:
        await api.store("c")
        assert "Meterd-Pruned-Until" not in (await api.ask("GET", f"/events{asked}")).headers
        api.clock.advance(hours=1)
        await api.store("c")
        api.ledger.prune_some(1)
        answer = await api.ask("GET", f"/events{asked}")
        assert len(answer.json()) == 1
        until = "2026-03-10T10:00:00.000Z" if told else None
        assert answer.headers.get("Meterd-Pruned-Until") == until


async def test_groups_of_a_window_with_pruned_events_are_refused() -> None:
    """Rather than made of what is left; its totals are answered."""
    async with serving() as api:
        await api.store("c", "c")
        api.clock.advance(hours=1)
        await api.store("c")
        api.ledger.prune_some(2)
        windows = "/usage?customerId=c&window=hourly"
        assert len((await api.ask("GET", windows)).json()) == 2
        refused = await api.ask("GET", f"{windows}&groupBy=metadata.region")
        assert refused.status_code == 410
        assert refused.headers["Meterd-Pruned-Until"] == "2026-03-10T10:00:00.000Z"
        assert "From then on all are there" in refused.json()["error"]
        behind = f"{windows}&groupBy=metadata.region&from=2026-03-10T10:00:00Z"
        assert len((await api.ask("GET", behind)).json()) == 1


async def test_usage_of_a_type_whose_events_are_all_pruned_is_told() -> None:
    """Though it is configured no more; one that nobody ever sent is still refused."""
    async with serving() as api:
        await api.ledger.append([UsageEvent("c", "sold.once", Decimal(5), b"{}")])
        assert api.ledger.prune_some(1) == 1
        (row,) = (await api.ask("GET", "/usage?customerId=c&eventType=sold.once")).json()
        assert row["sum"] == 5
        refused = await api.ask("GET", "/usage?customerId=c&eventType=sold.twice")
        assert refused.status_code == 400
