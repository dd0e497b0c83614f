"""What the model test draws from, few enough to meet again, and asks of both."""

from __future__ import annotations

import re
from decimal import Decimal
from itertools import cycle
from typing import TYPE_CHECKING, Any, TypeVar, cast

import hypothesis.strategies as st
import msgspec
import trio

from meterd.domain.admission import USUAL, Admission, Late
from meterd.domain.aggregations import Aggregation, ClosingRules
from meterd.domain.deliveries import Attempt, batch_id
from meterd.domain.endpoints import SCHEDULE_MS
from meterd.domain.events import UsageEvent
from meterd.domain.operations import Operation
from meterd.domain.outcomes import Outcome
from meterd.domain.periods import DAY_MS, HOUR_MS, PeriodType
from meterd.domain.voids import Void
from meterd.ledger import DeliveryQuery
from tests.ledger_bench import ALL

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from meterd.domain.deliveries import Delivery
    from meterd.domain.periods import Period
    from meterd.domain.stored_events import StoredEvent
    from meterd.ledger import Closed, Ledger
    from tests.embedded.engine_bench import EngineBench
    from tests.ledger_bench import SettableClock
    from tests.model_ledger import ModelLedger

T = TypeVar("T")

_DIGEST = re.compile(rb',"digest":"[0-9a-f]{64}"')

CUSTOMERS = st.sampled_from(["acme", "acme2", "b", "Ærø", "c1", "c2", "c3"])
TYPES = ("api.calls", "api", "Größe", "x")
VALUES = st.one_of(
    st.integers(-1000, 1000).map(Decimal),
    st.decimals(-10, 10, places=3),
    st.sampled_from(["1e308", "-1e308", "1E-400", "9007199254740993", "0.10", "-0"]).map(Decimal),
)
EVENT = st.builds(
    UsageEvent, CUSTOMERS, st.sampled_from(TYPES), VALUES, st.sampled_from([b"{}", b'{"a":1}'])
)
# Few customers, keys and contents, so that most are repeats or conflicts.
KEYED_EVENT = st.builds(
    UsageEvent,
    st.sampled_from(["acme", "b", "Ærø"]),
    st.sampled_from(["api", "x"]),
    st.sampled_from(["1", "1.0", "2"]).map(Decimal),
    st.sampled_from([b"{}", b'{"a":1,"b":2}', b'{"b":2,"a":1}']),
    st.sampled_from(["1", "2", "order-4711", "k" * 255, "é" * 255]),
)
EVENTS = st.lists(EVENT | KEYED_EVENT, min_size=1, max_size=8)
# How long ago events say that they happened, if they do: also ahead, at the bounds of what is
# taken, and beyond.
EVENT_AGES = st.lists(
    st.none()
    | st.sampled_from([-300_001, -300_000, 0, 1, 60_000, HOUR_MS, 3 * HOUR_MS])
    | st.sampled_from([DAY_MS, 8 * DAY_MS, 35 * DAY_MS, 35 * DAY_MS + 1]),
    min_size=1,
    max_size=3,
)
ADMISSIONS = st.sampled_from([USUAL, USUAL, Admission(2 * DAY_MS, 300_000, Late.REJECT)])
RULES = st.builds(
    ClosingRules,
    st.dictionaries(st.sampled_from(TYPES), st.sampled_from(Operation), min_size=1),
    st.one_of(st.just(frozenset(PeriodType)), st.frozensets(st.sampled_from(PeriodType))),
    st.sampled_from([("billing",), ("billing", "crm"), ()]),
)
# Around the present of the machine, in steps that fall on and beside the bounds of periods.
AGES = st.none() | st.sampled_from([-1, 0, 1, 60_000, HOUR_MS, DAY_MS, 40 * DAY_MS, 800 * DAY_MS])
LIMITS = st.integers(1, 12)
ENDPOINTS = st.sampled_from(["billing", "crm"])
# Small, so that some are full and others are not.
BATCHES = st.sampled_from([1, 1, 2, 3, 100])
REPEATS = st.none() | st.integers(0, 3)
# What fails is also parked soon.
SCHEDULES = st.sampled_from([SCHEDULE_MS, (60_000,), ()])
OUTCOMES = st.sampled_from([Outcome(), Outcome(dry_run=True), Outcome("Request timeout")])


def dated(
    events: list[UsageEvent], ages: list[int | None], clock: SettableClock
) -> list[UsageEvent]:
    """The events, each with one of these ages."""
    return [
        event
        if age_ms is None
        else msgspec.structs.replace(event, timestamp_ms=clock.now_ms - age_ms)
        for event, age_ms in zip(events, cycle(ages), strict=False)
    ]


def closed_hours(model: ModelLedger) -> list[Period]:
    """Those that had events, in order."""
    return sorted(one for one in model._closed if one.type is PeriodType.HOURLY)


async def revise_late(
    ledger: Ledger, until_ms: int, by: ClosingRules
) -> tuple[Period | None, int | None, int]:
    """What the closer does; asking for what is next to close posts what is late."""
    following = await ledger.next_to_close()
    since_ms = await ledger.late_since_ms()
    return following, since_ms, await ledger.revise(by, until_ms=until_ms)


async def close_due(ledger: Ledger, clock: SettableClock, by: ClosingRules) -> list[object]:
    """What the closer does; every period with its counts."""
    closed: list[tuple[Period, Closed]] = []
    while (period := await ledger.next_to_close()) and period.end_ms <= clock.now_ms:
        closed.append((period, await ledger.close(period, by)))
    return list(closed)


async def run_until_cut(
    bench: EngineBench, work: Callable[[], Awaitable[object]], transactions: int, commits: bool
) -> None:
    """Until the power goes off, or the work is done because it took fewer transactions."""
    bench.hop.cut_after, bench.hop.commits_unheard = transactions, commits
    async with trio.open_nursery() as nursery:

        async def run() -> None:
            await work()
            nursery.cancel_scope.cancel()

        nursery.start_soon(run)
        await bench.stopped.wait()
        nursery.cancel_scope.cancel()


async def forget_all(ledger: Ledger, before_ms: int) -> None:
    """All idempotency keys of before that moment."""
    while await ledger.forget_keys(before_ms=before_ms):
        pass


async def ask_for_earliest(
    ledger: Ledger, endpoint_id: str, customers: list[str], times: int
) -> list[object]:
    """Has each customer's earliest sent again, so often; what is answered and shown then."""
    answers: list[object] = []
    for customer_id in customers:
        query = DeliveryQuery(endpoint_id, customer_id)
        earliest = (await ledger.deliveries(query, limit=ALL))[-1]
        answers += [await ledger.retry(earliest.id) for _ in range(times)]
        answers.append(await ledger.delivery(earliest.id))
    return answers


async def names_at(ledger: Ledger, place: int, *, with_others: bool) -> list[str]:
    """The id of a delivery, or of a batch that one was last in; none where there is none."""
    found = await ledger.deliveries(DeliveryQuery(), limit=ALL)
    if not with_others:
        names = [one.id for one in found]
    else:
        names = [batch_id(one.endpoint_id, one.batches[-1].number) for one in found if one.batches]
    return names[place % len(names) :][:1] if names else []


def attempt_of(begun: Delivery, outcome: Outcome, now_ms: int) -> Attempt:
    began_ms = begun.begun_ms or 0
    return Attempt(begun.endpoint_id, begun.sequence, begun.attempts, began_ms, now_ms, outcome)


def undigested(answer: T) -> T:
    """Without digests, which are of ids too: the model has none, and the check of the store holds
    them against the log.
    """
    found: Any = answer
    if isinstance(found, bytes):
        found = _DIGEST.sub(b"", found)
    elif isinstance(found, Aggregation):
        found = msgspec.structs.replace(found, contents=b"", previous=b"")
    elif isinstance(found, Void):
        found = msgspec.structs.replace(found, behind=b"")
    elif isinstance(found, msgspec.Struct):
        fields = {name: undigested(getattr(found, name)) for name in found.__struct_fields__}
        found = type(found)(**fields)
    elif isinstance(found, list | tuple):
        found = type(found)(map(undigested, found))
    return cast("T", found)


def shown(found: list[StoredEvent]) -> list[object]:
    """Events without their ids, which every engine makes for itself."""
    assert len({one.id for one in found}) == len(found)
    return [(one.event, one.received_ms, one.void) for one in found]
