"""Taking an event back over HTTP: once, with a reason, and by whoever may."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from meterd.domain.admission import Late
from meterd.domain.errors import DiskFullError, OverloadedError, UnavailableError
from meterd.edge.void_api import decode_reason
from tests.edge.api_bench import CONFIG, Api, serving
from tests.edge.test_delivery_api import ok

if TYPE_CHECKING:
    import httpx

REASON = {"reason": "a refund"}
NOBODY = "0197f3c0-0000-7000-8000-000000000000"


async def ids(api: Api) -> list[str]:
    """The earliest first."""
    return [one["_id"] for one in reversed(await ok(api, "GET", "/events"))]


async def void(api: Api, event_id: str, body: object = REASON) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return await api.ask("POST", f"/events/{event_id}/void", content=content)


async def test_an_event_is_void_and_said_to_be() -> None:
    """201 with the event as every reader sees it from then on; a repeat is 200 and the same."""
    async with serving() as api:
        await api.store("c", "c", "c")
        first, second, third = await ids(api)
        answer = await void(api, second, {"reason": "sent twice: ticket 4711 \N{MEMO}"})
        assert answer.status_code == 201
        (_, shown, _) = await ok(api, "GET", "/events")
        assert answer.json() == shown
        assert shown["_id"] == second
        assert shown["void"] == {
            "reason": "sent twice: ticket 4711 \N{MEMO}",
            "voidedAt": "2026-03-10T09:58:00.000Z",
        }
        api.clock.advance(minutes=1)
        again = await void(api, second.upper(), {"reason": "another"})
        assert (again.status_code, again.json()) == (200, shown)
        usage = await ok(api, "GET", "/customers/c/usage")
        assert usage["usage"]["api.calls"]["count"] == 2
        assert "void" not in (await ok(api, "GET", "/events"))[0]
        assert (await void(api, first)).status_code == (await void(api, third)).status_code == 201
        assert (await ok(api, "GET", "/customers/c/usage"))["usage"] == {}


async def test_one_event_is_shown_as_among_others() -> None:
    """By its _id, whosoever it is, void or not."""
    async with serving() as api:
        await api.store("c", "d", "c")
        await void(api, (await ids(api))[1])
        shown = await ok(api, "GET", "/events")
        assert ["void" in one for one in shown] == [False, True, False]
        for one in shown:
            assert await ok(api, "GET", f"/events/{one['_id']}") == one
            assert await ok(api, "GET", f"/events/{one['_id'].upper()}") == one
        refused = await api.ask("GET", f"/events/{shown[0]['_id']}?customerId=c")
        assert refused.status_code == 400
        assert refused.json()["error"] == "There are no parameters: the _id is in the path"


async def test_a_closed_period_is_revised() -> None:
    """Or the void refused, where late events are."""
    async with serving() as api:
        await api.store("c", "c")
        await api.close_hour()
        first, second = await ids(api)
        reject = msgspec.structs.replace(CONFIG.admission, late=Late.REJECT)
        api.config = msgspec.structs.replace(CONFIG, admission=reject)
        refused = await void(api, first)
        assert refused.status_code == 422
        assert 'late = "reject"' in refused.json()["error"]
        api.config = CONFIG
        assert (await void(api, second)).status_code == 201
        await api.closer.trigger()
        shown = await ok(api, "GET", "/aggregations?period=hourly&revisions=all")
        assert [(one["revision"], one["eventCount"]) for one in shown] == [(2, 1), (1, 2)]


@pytest.mark.parametrize(
    "event_id",
    [NOBODY, "nothing", "0", NOBODY.replace("-", ""), "{" + NOBODY + "}", NOBODY[:-1] + "%C3%A9"],
)
async def test_what_is_no_event_is_not_found(event_id: str) -> None:
    """Whatever stands in its place; the answer says where ids are."""
    async with serving() as api:
        await api.store("c")
        for answer in (await void(api, event_id), await api.ask("GET", f"/events/{event_id}")):
            assert answer.status_code == 404
            assert "GET /events" in answer.json()["error"]


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", 'Request body is required: {"reason": "sent twice"}'),
        (b" \n", 'Request body is required: {"reason": "sent twice"}'),
        (b'{"reason": "\xff"}', "Malformed JSON: not UTF-8 (byte 12); as it should be: {"),
        (b'{"reason": NaN}', "Malformed JSON: invalid character (byte 11); as it should be: {"),
        (b'{\n"reason" "a"}', "Malformed JSON: expected ':' (line 2, column 10, byte 11); as it"),
        (["a"], 'must be a JSON object: {"reason": "sent twice"}'),
        ({}, "reason is required: reason must be a string of 1 to 500 characters"),
        ({"reason": None}, "reason is required"),
        ({"reason": ""}, "reason must be a string of 1 to 500"),
        ({"reason": " \n"}, "1 to 500 characters, not all of them blank"),
        ({"reason": "x" * 501}, "reason must be a string of 1 to 500"),
        ({"reason": "a\0"}, "must not contain control characters but for line breaks and tabs"),
        ({"reason": "\x1b[2J"}, "reason must not contain control characters"),
        ({"reason": "a\x85b"}, "reason must not contain control characters"),
        ({"reason": 1}, "reason must be a string of 1 to 500"),
        ({"reason": "a", "reasons": []}, '"reasons" is no field'),
    ],
)
async def test_what_is_wrong_is_named(body: object, error: str) -> None:
    """And nothing is void."""
    async with serving() as api:
        await api.store("c")
        (event_id,) = await ids(api)
        answer = await void(api, event_id, body)
        assert answer.status_code == 400
        assert error in answer.json()["error"]
        assert "void" not in (await ok(api, "GET", "/events"))[0]


async def test_parameters_are_refused() -> None:
    """A reason in the query would be in logs, and the one in the body is not there."""
    async with serving() as api:
        answer = await api.ask("POST", f"/events/{NOBODY}/void?reason=a", json=REASON)
        assert answer.status_code == 400
        assert "the body" in answer.json()["error"]


@pytest.mark.parametrize("reason", ["x", "é" * 500, "two\r\n\tlines"])
def test_a_reason_is_taken_as_it_is(reason: str) -> None:
    """Up to 500 characters, in whatever script."""
    assert decode_reason(json.dumps({"reason": reason}).encode()) == reason


@pytest.mark.parametrize(
    ("fault", "status"),
    [(DiskFullError("full"), 507), (OverloadedError("busy"), 503), (UnavailableError("?"), 503)],
)
async def test_what_the_ledger_cannot_do_now(fault: Exception, status: int) -> None:
    """As of events, with when to come again."""
    async with serving() as api:
        await api.store("c")
        (event_id,) = await ids(api)

        async def fail(*_: Any, **__: Any) -> None:
            raise fault

        api.ledger.void = fail  # type: ignore[method-assign]
        answer = await void(api, event_id)
        assert (answer.status_code, "Retry-After" in answer.headers) == (status, True)


async def test_nothing_is_void_by_a_wrong_clock() -> None:
    """It would be dated wrong, as events would."""
    async with serving() as api:
        await api.store("c")
        (event_id,) = await ids(api)
        api.clock_fault = "the clock stepped"
        assert (await void(api, event_id)).status_code == 503
        assert "void" not in (await ok(api, "GET", "/events"))[0]


async def test_an_event_that_is_pruned_is_gone() -> None:
    """410 for whoever asks for it, or takes it or another of its hour back; an id that was never
    given is 404.
    """
    async with serving() as api:
        await api.store("c", "d")
        first, second = await ids(api)
        assert api.ledger.prune_some(1) == 1
        until = "2026-03-10T10:00:00.000Z"
        for answer in (
            await api.ask("GET", f"/events/{first}"),
            await void(api, first),
            await void(api, second),
        ):
            assert answer.status_code == 410
            assert answer.json()["error"].startswith(f"Events of before {until} were pruned")
            assert answer.headers["Meterd-Pruned-Until"] == until
        assert (await api.ask("GET", f"/events/{second}")).status_code == 200
        never = "f197f3c0-0000-7000-8000-000000000000"
        assert (await api.ask("GET", f"/events/{never}")).status_code == 404
