"""A full disk: nothing more is taken in, all that was acknowledged is read, and when it has room
again nothing was lost or counted twice.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, TypeVar

import msgspec
import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import wait_all_tasks_blocked

from meterd.domain.errors import DiskFullError, UnavailableError
from meterd.domain.idempotency import Recorded
from meterd.domain.periods import PeriodType
from meterd.embedded.committer import FULL_SECONDS
from meterd.embedded.store import Store
from meterd.ledger import DeliveryQuery, EventQuery, Replay
from tests.embedded.engine_bench import EngineBench, inline, running
from tests.idempotency_conformance import keyed
from tests.ledger_bench import event, figures, rules, stored

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from trio.testing import MockClock

    from meterd.domain.endpoint_states import EndpointState

T = TypeVar("T")


class Disk:
    """Where the transactions go; ``is_full`` lets none of them pass but those that are thrown away,
    since they need no disk.
    """

    def __init__(self) -> None:
        self.is_full = False
        self.refused = 0

    async def __call__(self, work: Callable[[], T]) -> T:
        assert isinstance(work, partial)
        if self.is_full and work.func.__func__ is not Store.try_out:  # type: ignore[attr-defined]
            self.refused += 1
            raise DiskFullError("no space left on device")
        return await inline(work)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[EngineBench]:
    async with running(tmp_path) as bench:
        bench.hop.hop = Disk()
        yield bench


@pytest.fixture
def disk(bench: EngineBench) -> Disk:
    assert isinstance(bench.hop.hop, Disk)
    return bench.hop.hop


async def unanswered(bench: EngineBench, customer_id: str) -> None:
    with pytest.raises(UnavailableError):
        await bench.ledger.append([event(customer_id)])


async def test_who_is_waiting_is_let_go_and_who_comes_is_refused(
    bench: EngineBench, disk: Disk
) -> None:
    """The first does not know whether it is stored; the others know that they are not."""
    disk.is_full = True
    await unanswered(bench, "first")
    for _ in range(3):
        with pytest.raises(DiskFullError):
            await bench.ledger.append([event("later")])
    for call in (
        bench.ledger.next_to_close,
        partial(bench.ledger.snapshot, rules()),
        partial(bench.ledger.retry, "msg_" + "0" * 32),
        partial(bench.ledger.replay, Replay("billing", 0, 1), limit=9),
    ):
        with pytest.raises(DiskFullError):
            await call()
    assert await stored(bench) == []
    assert (await bench.ledger.replay(Replay("billing", 0, 1), limit=9, dry_run=True)).again == 0


async def test_who_came_while_it_was_found_full_is_let_go_too(
    bench: EngineBench, disk: Disk
) -> None:
    """For the next transaction they would wait as long."""
    bench.hop.may_pass = trio.Event()
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(unanswered, bench, "first")
            await wait_all_tasks_blocked()
            nursery.start_soon(unanswered, bench, "gathered")
            await wait_all_tasks_blocked()
            disk.is_full = True
            bench.hop.may_pass.set()


async def test_who_reads_while_it_is_found_full_is_answered(
    bench: EngineBench, disk: Disk, autojump_clock: MockClock
) -> None:
    """What was asked for that would be posted in the next transaction; and a void is refused."""
    await bench.ledger.append([event("a")])
    [counted] = await stored(bench)
    await bench.ledger.append([event("a")])
    seen: list[object] = []

    async def look() -> None:
        live = await bench.ledger.customer_usage("a", PeriodType.HOURLY)
        seen.append(live.window.by_type["sum"].count)

    async def look_around() -> None:
        seen.append([one.id for one in await bench.ledger.customers(limit=9)])

    async def take_back() -> None:
        with pytest.raises(DiskFullError):
            await bench.ledger.void(counted.id, "a mistake")

    bench.hop.may_pass = trio.Event()
    with trio.fail_after(2 * FULL_SECONDS):
        async with trio.open_nursery() as nursery:
            for call in (partial(unanswered, bench, "first"), look, look_around, take_back):
                nursery.start_soon(call)
                await wait_all_tasks_blocked()
            disk.is_full = True
            bench.hop.may_pass.set()
    assert sorted(seen, key=str) == [2, ["a"]]


async def test_what_waited_is_stored_once_when_there_is_room(
    bench: EngineBench, disk: Disk, autojump_clock: MockClock
) -> None:
    """Tried again and again, by itself; then events are taken as before."""
    with capture_logs() as logged:
        await bench.ledger.append([event("a", value=1)])
        disk.is_full = True
        async with trio.open_nursery() as nursery:
            for customer in ("a", "b"):
                nursery.start_soon(unanswered, bench, customer)
        await trio.sleep(10 * FULL_SECONDS)
        assert disk.refused >= 10
        disk.is_full = False
        await trio.sleep(2 * FULL_SECONDS)
        await bench.ledger.append([event("a", value=10)])
    assert [entry["log_level"] for entry in logged] == ["error", "warning"], "once each"
    await bench.ledger.snapshot(rules())
    assert await figures(bench, "a_hourly_2026011411") == {"sum": "12"}
    assert await figures(bench, "b_hourly_2026011411") == {"sum": "1"}
    assert len(await stored(bench)) == 4


async def test_what_is_there_is_read_meanwhile(bench: EngineBench, disk: Disk) -> None:
    """Also by who came before it was known to be full, and would have had to wait for the disk."""
    await bench.ledger.append([event("a")])
    await stored(bench, EventQuery(customer_id="a"))
    await bench.ledger.append([event("a")])
    disk.is_full = True
    with trio.fail_after(5):
        for _ in range(2):
            assert len(await stored(bench, EventQuery(customer_id="a"))) == 2
            assert len(await stored(bench)) == 2


async def test_who_waits_for_a_full_disk_hears_of_it(
    bench: EngineBench, disk: Disk, autojump_clock: MockClock
) -> None:
    """At once, also where it is full already; not where it is not."""
    with trio.move_on_after(60) as waiting:
        await bench.ledger.wait_full()
    assert waiting.cancelled_caught
    disk.is_full = True
    with trio.fail_after(FULL_SECONDS / 2):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.ledger.wait_full)
            await wait_all_tasks_blocked()
            await unanswered(bench, "a")
        await bench.ledger.wait_full()


async def test_what_waits_for_room_is_not_read(
    bench: EngineBench, disk: Disk, autojump_clock: MockClock
) -> None:
    """It is not acknowledged: whoever read it would miss it behind a crash."""
    await bench.ledger.append([event("a")])
    disk.is_full = True
    async with trio.open_nursery() as nursery:
        for customer_id in ("a", "b"):
            nursery.start_soon(unanswered, bench, customer_id)
    for _ in range(2):
        assert len(await stored(bench, EventQuery(customer_id="a"))) == 1
        live = await bench.ledger.customer_usage("a", PeriodType.HOURLY)
        assert live.window.by_type["sum"].count == 1
        assert [one.id for one in await bench.ledger.customers(limit=9)] == ["a"]
    disk.is_full = False
    await trio.sleep(2 * FULL_SECONDS)
    live = await bench.ledger.customer_usage("a", PeriodType.HOURLY)
    assert live.window.by_type["sum"].count == 2


async def test_a_repeat_is_told_what_became_of_the_first(
    bench: EngineBench, disk: Disk, autojump_clock: MockClock
) -> None:
    """Stored, waiting for room, or neither; and an append that is all three is to be repeated."""
    ask = bench.ledger.append
    at_rest, recent, waiting, new = map(keyed, ("at rest", "recent", "waits", "new"))
    clash, keyless = keyed("recent", value=9), event()
    await ask([at_rest])
    await bench.ledger._used_keys.post_all()
    await ask([recent])
    disk.is_full = True
    for _ in range(2):
        with pytest.raises(UnavailableError):
            await ask([waiting])
    for append in ([new], [keyless], [recent, new], [at_rest, keyless]):
        with pytest.raises(DiskFullError):
            await ask(append)
    for append in ([waiting, recent], [new, keyless, waiting]):
        with pytest.raises(UnavailableError):
            await ask(append)
    assert await ask([recent, at_rest]) == [Recorded.DUPLICATE] * 2
    assert await ask([at_rest, clash], partial=True) == [Recorded.DUPLICATE, Recorded.CONFLICT]
    disk.is_full = False
    await trio.sleep(2 * FULL_SECONDS)
    assert await ask([waiting, new]) == [Recorded.DUPLICATE, Recorded.RECORDED]
    assert len(await stored(bench)) == 4


async def test_refusing_events_without_keys_reads_nothing(
    bench: EngineBench, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would take the event loop nine times as long, for each that comes."""
    await bench.ledger.append([event(value=number) for number in range(100)])
    disk.is_full = True
    await unanswered(bench, "first")
    monkeypatch.delattr(Store, "read")
    with pytest.raises(DiskFullError):
        await bench.ledger.append([event(), event()])


async def test_who_asks_for_something_else_is_let_go_too(
    bench: EngineBench, disk: Disk, autojump_clock: MockClock
) -> None:
    """It is done when there is room, and who sends deliveries hears of it; asked for then, it is
    refused.
    """
    await bench.ledger.append([event("a")])
    hour = await bench.ledger.next_to_close()
    assert hour is not None
    bench.clock.now_ms = hour.end_ms
    await bench.ledger.close(hour, rules())
    [delivery] = await bench.ledger.deliveries(DeliveryQuery(), limit=9)
    made = bench.ledger.deliveries_made()
    replay = Replay("billing", hour.start_ms, hour.end_ms)

    def disable(state: EndpointState) -> EndpointState:
        return msgspec.structs.replace(state, disabled_ms=1)

    asked: list[Callable[[], Awaitable[object]]] = [
        partial(bench.ledger.retry, delivery.id),
        partial(bench.ledger.replay, replay, limit=9),
        partial(bench.ledger.change_endpoint, "billing", disable),
    ]
    disk.is_full = True
    bench.hop.may_pass = trio.Event()

    async def let_go(call: Callable[[], Awaitable[object]]) -> None:
        with pytest.raises(UnavailableError):
            await call()

    async with trio.open_nursery() as nursery:
        for call in asked:
            nursery.start_soon(let_go, call)
            await wait_all_tasks_blocked()
        bench.hop.may_pass.set()
    for call in asked:
        with pytest.raises(DiskFullError):
            await call()
    assert bench.ledger.deliveries_made() == made
    disk.is_full = False
    await trio.sleep(2 * FULL_SECONDS)
    assert bench.ledger.deliveries_made() == made + 2
    assert (await bench.ledger.endpoint_state("billing")).disabled_ms == 1


async def test_events_that_wait_are_in_flight(
    bench: EngineBench, disk: Disk, autojump_clock: MockClock
) -> None:
    """Their room is given back when they are stored, once."""
    disk.is_full = True
    await unanswered(bench, "a")
    assert bench.ledger._in_flight.events == 1
    disk.is_full = False
    await trio.sleep(2 * FULL_SECONDS)
    assert bench.ledger._in_flight.events == 0


async def test_the_lease_of_a_claim_begins_when_there_is_room(
    bench: EngineBench, disk: Disk, autojump_clock: MockClock
) -> None:
    """Or it would be over by then, and the delivery be sent twice at once."""
    await bench.ledger.append([event("a")])
    hour = await bench.ledger.next_to_close()
    assert hour is not None
    bench.clock.now_ms = hour.end_ms
    await bench.ledger.close(hour, rules())
    disk.is_full = True
    claims = []

    async def claim() -> None:
        claims.append(await bench.ledger.claim("billing", limit=1))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(claim)
        await trio.sleep(5 * FULL_SECONDS)
        bench.clock.now_ms += 600_000
        disk.is_full = False
    [delivery] = claims[0].deliveries
    assert delivery.begun_ms == bench.clock.now_ms


async def test_a_close_waits_for_room(
    bench: EngineBench, disk: Disk, autojump_clock: MockClock
) -> None:
    """It is nobody's request, and goes on where it stood."""
    await bench.ledger.append([event("a")])
    hour = await bench.ledger.next_to_close()
    assert hour is not None
    bench.clock.now_ms = hour.end_ms
    disk.is_full = True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(bench.ledger.close, hour, rules()))
        await wait_all_tasks_blocked()
        await trio.sleep(5 * FULL_SECONDS)
        disk.is_full = False
    assert await figures(bench, "a_hourly_2026011411") == {"sum": "1"}
