"""The one way in: from bytes to an answer, given when the events are stored and not before."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from meterd.domain.config import Config, EventType
from meterd.domain.errors import OverloadedError, UnavailableError
from meterd.domain.operations import Operation
from meterd.edge.ingest import Ingest, is_lenient
from meterd.ledger import EventQuery
from tests.edge.loopback import ready
from tests.fake_clock import FakeClock
from tests.model_ledger import ModelLedger

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meterd.domain.events import UsageEvent
    from meterd.domain.idempotency import Recorded
    from meterd.edge.problems import Answer

TWO_TYPES = Config(events={"api.calls": EventType(Operation.SUM), "a/b": EventType(Operation.MAX)})
VALID: dict[str, Any] = {"eventType": "api.calls", "customerId": "c", "value": 1}


def model() -> ModelLedger:
    return ModelLedger(FakeClock("2026-03-10T09:58:00Z").now_ms)


def over(ledger: ModelLedger, config: Config = TWO_TYPES) -> Ingest:
    return Ingest(ledger, lambda: config, ready())


def batch(*items: Any) -> bytes:
    return json.dumps(items).encode()


async def customers(ledger: ModelLedger) -> list[str]:
    """Oldest first."""
    found = await ledger.events(EventQuery(), limit=10_000)
    return [stored.event.customer_id for stored in reversed(found)]


def said(given: Answer) -> tuple[int, Any]:
    return int(given.status), json.loads(given.body)


async def test_an_event_is_stored_and_said_so() -> None:
    """To the byte."""
    ledger = model()
    given = await over(ledger).event("a/b", b'{"customerId":"\xc3\xa9","value":1}')
    assert given.status == 201
    assert given.body == (
        '{"message":"Event captured","eventType":"a/b","customerId":"é"}'.encode()
    )
    assert await customers(ledger) == ["é"]


@pytest.mark.parametrize(
    ("event_type", "body", "status", "answer"),
    [
        ("api.calls", b"{", 400, {"error": "Malformed JSON"}),
        ("api.calls", b"", 400, {"error": "Request body must be a JSON object"}),
        (
            "x",
            b"{}",
            400,
            {"error": "Invalid event type: x. Must be one of: api.calls, a/b"},
        ),
        (
            "api.calls",
            b"{}",
            422,
            {
                "error": "Validation failed",
                "details": ["customerId is required", "value is required"],
            },
        ),
    ],
)
async def test_a_refused_event_is_not_stored(
    event_type: str, body: bytes, status: int, answer: Any
) -> None:
    """The contract's answer, and an empty ledger."""
    ledger = model()
    assert said(await over(ledger).event(event_type, body)) == (status, answer)
    assert await customers(ledger) == []


async def test_without_event_types_nothing_is_taken() -> None:
    """503, for one and for many."""
    ingest = over(model(), Config())
    missing = {"error": "Service misconfigured: no event types available"}
    assert said(await ingest.event("x", b"{}")) == (503, missing)
    assert said(await ingest.batch(batch({}), lenient=True)) == (503, missing)


async def test_a_batch_is_stored_in_its_order() -> None:
    """201 and how many."""
    ledger = model()
    items = [{**VALID, "customerId": f"c{number}"} for number in range(1000)]
    given = await over(ledger).batch(batch(*items), lenient=False)
    assert (given.status, given.body) == (201, b'{"message":"Events captured","count":1000}')
    assert await customers(ledger) == [f"c{number}" for number in range(1000)]


UNFIT = {"eventType": "api.calls", "customerId": "", "value": 1}
REPEATED = {
    "message": "Event already captured",
    "eventType": "api.calls",
    "customerId": "c",
    "duplicate": True,
}
SENT_TWICE = {"error": "Validation failed", "details": ["Idempotency-Key must be sent once"]}
IN_CONFLICT = {"error": "idempotencyKey was used before for an event with other content"}


def single(**fields: Any) -> bytes:
    return json.dumps({"customerId": "c", "value": 1, **fields}).encode()


async def test_an_event_that_is_sent_again_is_said_to_be() -> None:
    """200; with other content 409. The key stands in the body or in the head."""
    ledger = model()
    ingest = over(ledger)
    assert (await ingest.event("api.calls", single(idempotencyKey="k"))).status == 201
    assert said(await ingest.event("api.calls", single(), ["k"])) == (200, REPEATED)
    assert said(await ingest.event("api.calls", single(), ['"k"'])) == (200, REPEATED)
    assert said(await ingest.event("api.calls", single(value=2), ["k"])) == (409, IN_CONFLICT)
    assert said(await ingest.event("a/b", single(), ["k"])) == (409, IN_CONFLICT)
    assert (await ingest.event("api.calls", single(idempotencyKey="K"), ["K"])).status == 201
    assert len(await customers(ledger)) == 2


@pytest.mark.parametrize(
    ("body", "header_keys", "status", "answer"),
    [
        (single(), ["a", "b"], 422, SENT_TWICE),
        (
            single(),
            [""],
            422,
            {
                "error": "Validation failed",
                "details": ["Idempotency-Key must be a string of 1 to 255 characters"],
            },
        ),
        (
            single(idempotencyKey="a"),
            ["b"],
            422,
            {
                "error": "Validation failed",
                "details": [
                    "idempotencyKey must be that of the header Idempotency-Key, or left out"
                ],
            },
        ),
        (
            single(idempotencyKey=7),
            [],
            422,
            {
                "error": "Validation failed",
                "details": ["idempotencyKey must be a string of 1 to 255 characters"],
            },
        ),
    ],
)
async def test_an_unfit_key_stores_nothing(
    body: bytes, header_keys: list[str], status: int, answer: dict[str, Any]
) -> None:
    """It is named, so that nobody believes an event protected that is not."""
    ledger = model()
    assert said(await over(ledger).event("api.calls", body, header_keys)) == (status, answer)
    assert await customers(ledger) == []


async def test_a_batch_counts_what_it_repeats() -> None:
    """201, captured are all of them; also where an item repeats another of the batch."""
    ledger = model()
    ingest = over(ledger)
    first = [{**VALID, "idempotencyKey": key} for key in ("a", "b", "a")]
    given = await ingest.batch(batch(*first, VALID), lenient=False)
    assert given.body == b'{"message":"Events captured","count":4,"duplicates":1}'
    given = await ingest.batch(batch(*first), lenient=False)
    assert (given.status, given.body) == (
        201,
        b'{"message":"Events captured","count":3,"duplicates":3}',
    )
    assert len(await customers(ledger)) == 3


async def test_a_batch_sent_again_under_the_heads_key_counts_once() -> None:
    """Each item by its place, but for those with a key of their own."""
    ledger = model()
    ingest = over(ledger)
    body = batch(VALID, VALID, {**VALID, "idempotencyKey": "own"})
    for duplicates in ({}, {"duplicates": 3}):
        given = await ingest.batch(body, lenient=False, header_keys=["b1"])
        assert said(given) == (201, {"message": "Events captured", "count": 3, **duplicates})
    assert len(await customers(ledger)) == 3
    unfit = await ingest.batch(body, lenient=False, header_keys=["a", "b"])
    assert said(unfit) == (422, SENT_TWICE)


async def test_a_conflict_in_a_batch_is_an_items_fault() -> None:
    """By its index in the request. Nothing is stored, or with lenient handling the rest."""
    ledger = model()
    ingest = over(ledger)
    await ingest.event("api.calls", single(idempotencyKey="k"))
    used = {**VALID, "value": 2, "idempotencyKey": "k"}
    error = {"errors": ["idempotencyKey was used before for other content"]}
    given = await ingest.batch(batch(VALID, used), lenient=False)
    assert said(given) == (
        422,
        {
            "error": "Validation failed for some events",
            "validationErrors": [{"index": 1, **error}],
            "validCount": 1,
            "invalidCount": 1,
        },
    )
    assert len(await customers(ledger)) == 1
    again = {**VALID, "idempotencyKey": "k"}
    given = await ingest.batch(batch(UNFIT, used, VALID, None, again), lenient=True)
    assert said(given) == (
        207,
        {
            "message": "Events partially captured",
            "successCount": 2,
            "failedCount": 3,
            "duplicates": 1,
            "failures": [
                {"index": 0, "errors": ["customerId is required"]},
                {"index": 1, **error},
                {"index": 3, "errors": ["Event must be an object"]},
            ],
        },
    )
    assert len(await customers(ledger)) == 2
    assert (await ingest.batch(batch(used, UNFIT), lenient=True)).status == 422


async def test_a_batch_is_all_or_nothing() -> None:
    """One invalid item and nothing is stored."""
    ledger = model()
    given = await over(ledger).batch(batch(VALID, UNFIT, VALID), lenient=False)
    assert said(given) == (
        422,
        {
            "error": "Validation failed for some events",
            "validationErrors": [{"index": 1, "errors": ["customerId is required"]}],
            "validCount": 2,
            "invalidCount": 1,
        },
    )
    assert await customers(ledger) == []


async def test_a_lenient_batch_stores_what_is_valid() -> None:
    """207 and what failed; 201 if nothing did, 422 if all did."""
    ledger = model()
    ingest = over(ledger)
    given = await ingest.batch(batch(VALID, UNFIT, VALID, None), lenient=True)
    assert given.status == 207
    assert given.body == (
        b'{"message":"Events partially captured","successCount":2,"failedCount":2,"failures":['
        b'{"index":1,"errors":["customerId is required"]},'
        b'{"index":3,"errors":["Event must be an object"]}]}'
    )
    assert await customers(ledger) == ["c", "c"]
    assert (await ingest.batch(batch(VALID), lenient=True)).status == 201
    assert (await ingest.batch(batch(UNFIT), lenient=True)).status == 422
    assert len(await customers(ledger)) == 3


async def test_too_many_events_for_a_batch() -> None:
    """413, valid or not, lenient or not."""
    given = await over(model()).batch(batch(*[None] * 1001), lenient=True)
    assert said(given) == (
        413,
        {
            "error": "Batch size exceeds maximum limit of 1000 events",
            "received": 1001,
            "maxAllowed": 1000,
        },
    )


class TroubledLedger(ModelLedger):
    def __init__(self, trouble: Exception) -> None:
        super().__init__(FakeClock("2026-03-10T09:58:00Z").now_ms)
        self._trouble = trouble

    async def append(self, *_: Any, **__: Any) -> list[Recorded]:
        raise self._trouble


@pytest.mark.parametrize(
    ("trouble", "error"),
    [
        (OverloadedError("the queue is full"), "Overloaded: the queue is full"),
        (
            UnavailableError(),
            "The outcome is not known: repeat the request; events without a key may count twice",
        ),
    ],
)
async def test_who_cannot_be_served_now_is_told_to_come_again(
    trouble: Exception, error: str
) -> None:
    """503 with Retry-After; one event and many."""
    ingest = over(TroubledLedger(trouble))
    for given in (
        await ingest.event("api.calls", batch(VALID)[1:-1]),
        await ingest.batch(batch(VALID), lenient=False),
        await ingest.batch(batch(VALID, UNFIT), lenient=True),
    ):
        assert said(given) == (503, {"error": error})
        assert given.headers == (("Retry-After", "1"),)


class SlowLedger(ModelLedger):
    synced = trio.Event()

    async def append(self, events: Sequence[UsageEvent], **_: Any) -> list[Recorded]:
        await self.synced.wait()
        return await super().append(events)


async def test_nothing_is_acknowledged_before_it_is_stored() -> None:
    """Save, then speak."""
    ledger = SlowLedger(FakeClock("2026-03-10T09:58:00Z").now_ms)
    answers = []

    async def send() -> None:
        answers.append(await over(ledger).event("api.calls", batch(VALID)[1:-1]))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await wait_all_tasks_blocked()
        assert answers == []
        ledger.synced.set()
    assert [given.status for given in answers] == [201]


async def test_the_configuration_of_the_moment_decides() -> None:
    """A reload that adds an event type needs no new Ingest."""
    config = Config()
    ingest = Ingest(model(), lambda: config, ready())
    assert (await ingest.event("api.calls", batch(VALID)[1:-1])).status == 503
    config = TWO_TYPES
    assert (await ingest.event("api.calls", batch(VALID)[1:-1])).status == 201


# RFC 7240, section 2: a list of token [= word] *(; parameter), names without case, quoted or not,
# and of a preference that is given twice the first counts.
PREFERENCES = {
    "handling=lenient": True,
    "Handling=Lenient": True,
    'handling="lenient"': True,
    "handling = lenient": True,
    "  handling=lenient  ": True,
    "respond-async, handling=lenient": True,
    "respond-async,,handling=lenient": True,
    "respond-async; wait=10, handling=lenient; level=1": True,
    "handling=lenient, handling=strict": True,
    'note="a, b", handling=lenient': True,
    'note="a \\", b", handling=lenient': True,
    "handling=strict, handling=lenient": False,
    "handling=strict": False,
    "handling": False,
    'handling=""': False,
    "handling=lenients": False,
    "xhandling=lenient": False,
    "lenient": False,
    "lenient=handling": False,
    "return=minimal; handling=lenient": False,
    'note="x, handling=lenient"': False,
    'note="x; y, handling=lenient", handling=strict': False,
    'note="unfinished, handling=lenient': False,
    "": False,
}


@pytest.mark.parametrize("prefer", PREFERENCES)
def test_who_is_lenient(prefer: str) -> None:
    """Only who says so: whoever does not gets all or nothing."""
    assert is_lenient(prefer) is PREFERENCES[prefer]
