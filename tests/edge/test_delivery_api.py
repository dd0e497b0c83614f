"""Deliveries and webhooks over HTTP: looked up, tried, sent again."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from meterd.domain.endpoints import Endpoint
from meterd.domain.outcomes import ErrorKind, Outcome
from tests.edge.api_bench import CONFIG, Api, all_settled, delivering, serving
from tests.edge.test_api_reads import pages

if TYPE_CHECKING:
    import httpx

REFUSED = Outcome(
    "HTTP 500: Internal Server Error",
    ErrorKind.STATUS,
    500,
    (("Content-Type", "text/plain"), ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")),
    b"no\xff",
    "192.0.2.7:443",
)
BUSY = Outcome("HTTP 429: Too Many Requests", ErrorKind.STATUS, 429, (("Retry-After", "60"),))
GONE = Outcome("HTTP 410: Gone", ErrorKind.STATUS, 410)
CRM = Endpoint("crm", "http://crm.test/?token=t0ps3cret", ("whsec_of_another_length",))
NOBODY = "msg_" + "0" * 32
PARAMETERS = "there are endpoint, customerId, period, status, afterSequence, limit, cursor"


async def ok(api: Api, method: str, path: str, **options: Any) -> Any:
    answer = await api.ask(method, path, **options)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def closed(api: Api, *customers: str) -> list[dict[str, Any]]:
    """An hour with an event of each customer closes; its deliveries."""
    await api.store(*customers)
    await api.close_hour()
    found: list[dict[str, Any]] = await ok(api, "GET", "/deliveries")
    return found


def error_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]


# -- listing --------------------------------------------------------------------------------------


async def test_a_delivery_as_it_is_listed() -> None:
    """Where it goes, what it is of, and how it stands."""
    async with serving() as api:
        [waiting] = await closed(api, "c")
        assert waiting == {
            "id": waiting["id"],
            "endpoint": "billing",
            "type": "aggregation.completed",
            "sequence": 1,
            "customerId": "c",
            "period": "hourly",
            "periodKey": "2026031009",
            "periodStart": "2026-03-10T09:00:00.000Z",
            "periodEnd": "2026-03-10T09:59:59.999Z",
            "revision": 1,
            "status": "pending",
            "attempts": 0,
            "createdAt": "2026-03-10T10:58:00.000Z",
            "nextAttemptAt": "2026-03-10T10:58:00.000Z",
        }
        async with delivering(api):
            [done] = await ok(api, "GET", "/deliveries")
        del waiting["nextAttemptAt"]
        assert done == waiting | {
            "status": "delivered",
            "attempts": 1,
            "deliveredAt": "2026-03-10T10:58:00.000Z",
            "lastAttemptAt": "2026-03-10T10:58:00.000Z",
        }


async def test_filters_of_deliveries() -> None:
    """By endpoint, customer, period and status."""
    async with serving() as api:
        await closed(api, "a", "b")
        async with delivering(api):
            await all_settled()
        api.config = msgspec.structs.replace(CONFIG, webhooks=(*CONFIG.webhooks, CRM))
        await closed(api, "a", "kunde é")
        asked = {
            "": 6,
            "endpoint=crm": 2,
            "customerId=a": 3,
            "customerId=kunde%20%C3%A9&endpoint=billing": 1,
            "period=hourly": 6,
            "period=daily": 0,
            "status=pending": 4,
            "status=delivered&customerId=b": 1,
            "status=parked": 0,
        }
        for query, count in asked.items():
            assert len(await ok(api, "GET", f"/deliveries?{query}")) == count, query


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ("status=lost", "status must be one of: pending, delivered, parked"),
        ("period=x", "period must be one of: hourly, daily, weekly, monthly, yearly"),
        ("endpoint=", "endpoint must not be empty: give it a value, or leave it out"),
        ("customerId=&limit=1", "customerId must not be empty: give it a value, or leave it out"),
        ("limit=0", "limit must be a whole number from 1 to 100000"),
        ("cursor=AAAA", "cursor must be taken from the Link header of an earlier answer"),
        (
            "endpoint=billing&afterSequence=-1",
            "afterSequence must be a whole number: the last sequence received, 0 for none",
        ),
        (
            "endpoint=billing&afterSequence=1234567890123456789",
            "afterSequence must be a whole number: the last sequence received, 0 for none",
        ),
        ("foo=1", f'"foo" is no parameter; {PARAMETERS}'),
        ("status=pending&customer=zzz", f'"customer" is no parameter; {PARAMETERS}'),
        ("afterSequence=1", "afterSequence needs endpoint: each has its own sequences"),
    ],
)
async def test_an_unfit_parameter_is_named(query: str, error: str) -> None:
    """400, with what it takes."""
    async with serving() as api:
        assert error_of(await api.ask("GET", f"/deliveries?{query}")) == (400, error)


@pytest.mark.parametrize("name", ["nope", "%00", "x" * 600, "%FF", "a/b"])
async def test_a_webhook_that_nobody_knows(name: str) -> None:
    """404, in a listing and a stream: an empty answer for ever would look like nothing new."""
    async with serving() as api:
        await closed(api, "a")
        for more in ("", "&afterSequence=0"):
            status, error = error_of(await api.ask("GET", f"/deliveries?endpoint={name}{more}"))
            assert status == 404
            assert error.startswith("No webhook has the id ")
            assert error.endswith(": GET /webhooks lists them")


async def test_a_webhook_without_deliveries_and_one_that_was() -> None:
    """They are known: the one by the configuration, the other by what it was sent."""
    async with serving() as api:
        await closed(api, "a")
        api.config = msgspec.structs.replace(CONFIG, webhooks=(CRM,))
        assert await ok(api, "GET", "/deliveries?endpoint=crm&afterSequence=0") == []
        assert len(await ok(api, "GET", "/deliveries?endpoint=billing&afterSequence=0")) == 1


async def test_what_holds_deliveries_is_listed() -> None:
    """With no next attempt where none is known; for what is delivered nothing is said."""
    async with serving() as api:
        api.posts.outcome = BUSY
        await closed(api, "c")
        async with delivering(api):
            [paused] = await ok(api, "GET", "/deliveries")
            api.posts.outcome = GONE
            api.clock.advance(minutes=2)
            await all_settled()
            [gone] = await ok(api, "GET", "/deliveries")
            api.posts.outcome = Outcome(status=200)
            await ok(api, "POST", "/webhooks/billing/enable")
            await all_settled()
            api.clock.advance(seconds=6)
            await all_settled()
            api.config = msgspec.structs.replace(CONFIG, webhooks=())
            [done] = await ok(api, "GET", "/deliveries")
        assert paused["held"]["reason"] == "paused"
        assert paused["held"]["until"] == paused["nextAttemptAt"] == "2026-03-10T10:59:00.000Z"
        assert gone["held"]["reason"] == "gone"
        assert "nextAttemptAt" not in gone
        assert (done["status"], done.get("held")) == ("delivered", None)


@pytest.mark.parametrize("limit", [1, 2, 5, 100])
async def test_pages_give_each_delivery_once(limit: int) -> None:
    """Newest first, to two endpoints; and an endpoint's stream by sequence."""
    async with serving() as api:
        api.config = msgspec.structs.replace(CONFIG, webhooks=(*CONFIG.webhooks, CRM))
        await closed(api, "a", "b", "c")
        whole = await closed(api, "a")
        found = await pages(api, f"/deliveries?limit={limit}")
        assert [one for page in found for one in page] == whole
        assert len(whole) == 8
        stream = await pages(api, f"/deliveries?endpoint=crm&afterSequence=0&limit={limit}")
        assert [one["sequence"] for page in stream for one in page] == [1, 2, 3, 4]


async def test_the_stream_has_what_was_sent() -> None:
    """Each payload as its POST had it, to be asked for behind the last one that was received."""
    async with serving() as api:
        await closed(api, "a", "b")
        async with delivering(api):
            await all_settled()
        await closed(api, "a")
        stream = await ok(api, "GET", "/deliveries?endpoint=billing&afterSequence=1")
        assert [one["payload"]["sequence"] for one in stream] == [2, 3]
        sent = {name: json.loads(body) for name, body in api.posts.sent}
        assert stream[0]["payload"] == sent[stream[0]["id"]]
        assert "payload" not in (await ok(api, "GET", "/deliveries"))[0]


# -- one delivery ---------------------------------------------------------------------------------


async def test_the_last_attempts_are_left_out_on_demand() -> None:
    """And what is no number of them is named."""
    async with serving() as api:
        [waiting] = await closed(api, "c")
        async with delivering(api):
            path = f"/deliveries/{waiting['id']}"
            found = await ok(api, "GET", f"{path}?skip=1")
            assert (found["attemptsKept"], found["attemptLog"]) == (1, [])
            error = "skip must be a whole number: how many of the last attempts to leave out"
            for unfit in ("-1", "1.5", "ten", "1234567", "\u0661"):
                assert error_of(await api.ask("GET", f"{path}?skip={unfit}")) == (400, error)
            for query, error in (
                ("skip=", "skip must not be empty: give it a value, or leave it out"),
                ("limit=1", '"limit" is no parameter; there are skip'),
            ):
                assert error_of(await api.ask("GET", f"{path}?{query}")) == (400, error)


async def test_a_delivery_with_its_attempts() -> None:
    """What was sent and what came back, without a secret; the body is that which was signed."""
    async with serving() as api:
        [waiting] = await closed(api, "c")
        api.posts.outcome = REFUSED
        async with delivering(api):
            found = await ok(api, "GET", f"/deliveries/{waiting['id']}")
        body = found["body"].encode()
        assert api.posts.sent == [(waiting["id"], body)]
        assert found["bodySha256"] == hashlib.sha256(body).hexdigest()
        assert found["lastError"] == "HTTP 500: Internal Server Error"
        [attempt] = found["attemptLog"]
        assert found["attemptsKept"] == 1
        curl = attempt.pop("curl")
        sent = dict(attempt.pop("requestHeaders"))
        assert attempt == {
            "number": 1,
            "startedAt": "2026-03-10T10:58:00.000Z",
            "endedAt": "2026-03-10T10:58:00.000Z",
            "durationMs": 0,
            "error": "HTTP 500: Internal Server Error",
            "errorClass": "status",
            "url": "http://b.test/?token=***",
            "address": "192.0.2.7:443",
            "bodySha256": found["bodySha256"],
            "status": 500,
            "responseHeaders": [
                ["Content-Type", "text/plain"],
                ["Set-Cookie", "a=1"],
                ["Set-Cookie", "b=2"],
            ],
            "responseBodyBase64": base64.b64encode(b"no\xff").decode(),
        }
        assert sent["webhook-id"] == waiting["id"]
        assert sent["webhook-signature"] in curl
        assert "t0ps3cret" not in json.dumps(found)
        assert "whsec_" not in json.dumps(found)


async def test_an_id_that_nobody_has() -> None:
    """404, and what lists them."""
    async with serving() as api:
        for name, shown in ((NOBODY, NOBODY), ("x", "x"), ("%C3%A9", "é"), ("%00", r"\x00")):
            error = f'No delivery has the id "{shown}": GET /deliveries lists them'
            assert error_of(await api.ask("GET", f"/deliveries/{name}")) == (404, error)
            assert error_of(await api.ask("POST", f"/deliveries/{name}/retry")) == (404, error)


async def test_why_a_delivery_waits() -> None:
    """Its endpoint first, then its customer's earlier one; nothing where only its time is to come.

    The message says what to do.
    """
    async with serving() as api:
        api.posts.outcome = BUSY
        await api.store("c")
        await api.close_hour()
        await api.store("c")
        later, first = await closed(api, "c")
        names = first["id"], later["id"]

        async def held(name: str) -> Any:
            return (await ok(api, "GET", f"/deliveries/{name}")).get("held")

        assert await held(names[0]) is None
        behind = await held(names[1])
        assert (behind["reason"], behind["behind"]) == ("behind", names[0])
        async with delivering(api):
            pause = await held(names[1])
            assert (pause["reason"], pause["until"]) == ("paused", "2026-03-10T11:59:00.000Z")
            api.posts.outcome = GONE
            api.clock.advance(minutes=2)
            await all_settled()
        gone = await held(names[0])
        assert gone["reason"] == "gone"
        assert gone["enable"] == "POST /webhooks/billing/enable"
        off = msgspec.structs.replace(CONFIG.webhooks[0], enabled=False)
        api.config = msgspec.structs.replace(CONFIG, webhooks=(off,))
        assert (await held(names[0]))["reason"] == "off"
        api.config = msgspec.structs.replace(CONFIG, webhooks=())
        assert (await held(names[0]))["reason"] == "removed"


async def test_a_retry_is_sent_at_once() -> None:
    """And shown as it then is."""
    async with serving() as api:
        [one] = await closed(api, "c")
        async with delivering(api):
            again = await ok(api, "POST", f"/deliveries/{one['id']}/retry")
            await all_settled()
            assert (again["id"], again["status"], again["attempts"]) == (one["id"], "pending", 1)
            done = await ok(api, "GET", f"/deliveries/{one['id']}")
        assert (done["status"], done["attempts"]) == ("delivered", 2)
        assert api.posts.sent[0] == api.posts.sent[1]


async def test_a_retry_and_a_replay_say_what_holds_them() -> None:
    """As the delivery does when it is looked up: nothing is under way to who is gone or off."""
    async with serving() as api:
        api.posts.outcome = GONE
        [one] = await closed(api, "c")
        replay = {"endpoint": "billing", "from": "2026-03-10"}
        async with delivering(api):
            again = await ok(api, "POST", f"/deliveries/{one['id']}/retry")
            assert again["held"]["reason"] == "gone"
            assert "nextAttemptAt" not in again
            for dry_run in (True, False):
                asked = {**replay, "dryRun": dry_run}
                told = await ok(api, "POST", "/deliveries/replay", json=asked)
                assert (told["again"], told["held"]) == (1, again["held"])
        shown = await ok(api, "GET", f"/deliveries/{one['id']}")
        assert shown["held"] == again["held"]


async def test_a_retry_that_waits_behind_another_says_so() -> None:
    """Earlier deliveries of its customer still go first."""
    async with serving() as api:
        await api.store("c")
        await api.close_hour()
        await api.store("c")
        later, first = await closed(api, "c")
        again = await ok(api, "POST", f"/deliveries/{later['id']}/retry")
        assert (again["held"]["reason"], again["held"]["behind"]) == ("behind", first["id"])
        assert "held" not in await ok(api, "POST", f"/deliveries/{first['id']}/retry")
