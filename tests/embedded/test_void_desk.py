"""What comes while an hour is read again counts; who does not wait for a void leaves nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import msgspec
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from meterd.domain.admission import Late
from meterd.domain.errors import DiskFullError, UnavailableError
from meterd.domain.periods import HOUR_MS, PeriodType
from meterd.domain.voids import VoidOutcome
from meterd.embedded import void_desk
from meterd.embedded.committer import FULL_SECONDS
from meterd.embedded.verification import verify
from meterd.ledger import AggregationQuery
from tests.embedded.engine_bench import EngineBench, running
from tests.embedded.test_engine_full_disk import Disk
from tests.ledger_bench import START_MS, close_ended, event, rules, stored

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from trio.testing import MockClock

    from meterd.domain.stored_events import Voided

T = TypeVar("T")


class Reader:
    """The hop of readers; ``may_pass`` holds them back until it is set."""

    def __init__(self) -> None:
        self.may_pass = trio.Event()
        self.may_pass.set()
        self.passed = 0

    async def __call__(self, work: Callable[[], T]) -> T:
        await trio.lowlevel.checkpoint()
        await self.may_pass.wait()
        self.passed += 1
        return work()


@pytest.fixture
def reader() -> Reader:
    return Reader()


@pytest.fixture
async def bench(tmp_path: Path, reader: Reader) -> AsyncIterator[EngineBench]:
    async with trio.open_nursery() as nursery:
        bench = EngineBench(tmp_path / "data", nursery, read_hop=reader)
        await bench.start()
        yield bench
        reader.may_pass.set()
        await bench.stop()
    assert [str(found) for found in verify(tmp_path / "data")] == []


async def left(bench: EngineBench, kind: PeriodType = PeriodType.HOURLY) -> tuple[int, int]:
    """Count and sum of acme's events, live."""
    usage = await bench.ledger.customer_usage("acme", kind, at_ms=START_MS)
    found = usage.window.by_type.get("sum")
    return (0, 0) if found is None else (found.count, int(found.sum))


async def begun(bench: EngineBench, reader: Reader, nursery: trio.Nursery) -> list[Voided | None]:
    """A void of the last event whose hour is about to be read again; takes what is answered."""
    (event_id, *_) = [one.id for one in await stored(bench)]
    answers: list[Voided | None] = []

    async def void() -> None:
        answers.append(await bench.ledger.void(event_id, "amid"))

    passed = reader.passed
    nursery.start_soon(void)
    while reader.passed < passed + 2:  # it was found, and found again when it had its turn
        await trio.lowlevel.checkpoint()
    reader.may_pass = trio.Event()
    await wait_all_tasks_blocked()
    return answers


async def test_what_comes_meanwhile_counts_once(bench: EngineBench, reader: Reader) -> None:
    """Of the same hour and type, of others, and of a closed hour that is late; nobody waits."""
    await bench.ledger.append([event(value=value) for value in (1, 2, 4)])
    async with trio.open_nursery() as nursery:
        answers = await begun(bench, reader, nursery)
        late = msgspec.structs.replace(event(value=8), timestamp_ms=START_MS - 1)
        for one in (late, event(value=16), event(event_type="max", value=99), event("b")):
            await bench.ledger.append([one])
        assert not answers
        reader.may_pass.set()
    (voided,) = answers
    assert voided is not None
    assert voided.outcome is VoidOutcome.VOIDED
    assert await left(bench) == (4, 1 + 2 + 8 + 16)


async def test_a_close_amid_a_void(bench: EngineBench, reader: Reader) -> None:
    """The hour closes with the event, and is late when that is void, or without it."""
    await bench.ledger.append([event(value=value) for value in (1, 2, 4)])
    by = rules(PeriodType.HOURLY, PeriodType.DAILY)
    async with trio.open_nursery() as nursery:
        await begun(bench, reader, nursery)
        committed = trio.Event()
        nursery.start_soon(close_all, bench, by, committed)
        await wait_all_tasks_blocked()
        reader.may_pass.set()
        await committed.wait()
    assert await left(bench, PeriodType.DAILY) == (2, 3)
    assert await bench.ledger.next_to_close() is not None  # of the year
    await bench.ledger.revise(by, until_ms=bench.clock.now_ms)


async def close_all(bench: EngineBench, by: object, done: trio.Event) -> None:
    await close_ended(bench, by, clock_ms=START_MS + 24 * HOUR_MS)  # type: ignore[arg-type]
    done.set()


async def test_what_came_late_and_went_is_revised_once(bench: EngineBench) -> None:
    """The figures are as they were and the events are not: whoever proves the newest revision comes
    to them.
    """
    by = rules(PeriodType.HOURLY)
    await bench.ledger.append([event()])
    await close_ended(bench, by, clock_ms=START_MS + HOUR_MS)
    await bench.ledger.append([msgspec.structs.replace(event(), timestamp_ms=START_MS)])
    await bench.ledger.void((await stored(bench))[0].id, "a slip")
    assert await bench.ledger.revise(by, until_ms=bench.clock.now_ms) == 1
    assert await bench.ledger.revise(by, until_ms=bench.clock.now_ms) == 0
    query = AggregationQuery(period_type=PeriodType.HOURLY, revisions=True)
    (found,) = await bench.ledger.aggregations(query, limit=9)
    earlier, newest = (found.superseded[0].aggregation, found.aggregation)
    assert (earlier.figures, newest.revision) == (newest.figures, 2)
    assert earlier.contents != newest.contents


async def test_who_goes_leaves_nothing(bench: EngineBench, reader: Reader) -> None:
    """The event counts, the actor may retire, and whoever comes next finds all as it was."""
    await bench.ledger.append([event(value=value) for value in (1, 2, 4)])
    async with trio.open_nursery() as nursery:
        await begun(bench, reader, nursery)
        assert not bench.ledger._registry.at_rest("acme")
        nursery.cancel_scope.cancel()
    reader.may_pass.set()
    assert await left(bench) == (3, 7)
    assert bench.ledger._registry.at_rest("acme")
    (last, *_) = await stored(bench)
    await bench.ledger.void(last.id, "now")
    assert await left(bench) == (2, 3)


async def test_one_hour_is_read_in_portions(
    bench: EngineBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However they fall, also at the event itself and at the last one."""
    await bench.ledger.append([event(value=2**number) for number in range(7)])
    for portion in range(1, 8):
        monkeypatch.setattr(void_desk, "READ_AT_ONCE", portion)
        before = await left(bench)
        counting = [one for one in await stored(bench) if one.void is None]
        one = counting[portion % len(counting)]
        await bench.ledger.void(one.id, f"in portions of {portion}")
        assert await left(bench) == (before[0] - 1, before[1] - int(one.event.value))
    assert await left(bench) == (0, 0)


async def test_an_actor_that_slept_is_let_go(bench: EngineBench) -> None:
    """It was woken for that only."""
    await bench.ledger.append([event(value=value) for value in (1, 2)])
    await bench.restart()
    (last, *_) = await stored(bench)
    await bench.ledger.void(last.id, "asleep")
    assert len(bench.ledger._registry) == 0
    assert await left(bench) == (1, 1)


async def test_nobody_waits_for_the_hour_of_another(bench: EngineBench, reader: Reader) -> None:
    """Of two customers one is done while the other's hour is read, and no lock is left behind."""
    await bench.ledger.append([event("b", value=value) for value in (1, 2)])
    (other, *_) = await stored(bench)
    await bench.ledger.append([event(value=value) for value in (1, 2, 4)])
    async with trio.open_nursery() as nursery:
        answers = await begun(bench, reader, nursery)
        held, reader.may_pass = reader.may_pass, trio.Event()
        reader.may_pass.set()
        with trio.fail_after(10):
            voided = await bench.ledger.void(other.id, "at once")
        assert voided is not None
        assert (voided.outcome, answers) == (VoidOutcome.VOIDED, [])
        held.set()
    assert len(answers) == 1
    assert len(bench.ledger._voiding) == 0
    assert await left(bench) == (2, 3)


async def test_the_same_customer_s_go_one_after_another(bench: EngineBench, reader: Reader) -> None:
    """Two of one hour, and the same one twice: no event is counted again in between."""
    await bench.ledger.append([event(value=value) for value in (1, 2, 4)])
    (last, middle, _) = await stored(bench)
    outcomes: list[VoidOutcome] = []

    async def void(event_id: bytes) -> None:
        voided = await bench.ledger.void(event_id, "as well")
        assert voided is not None
        outcomes.append(voided.outcome)

    async with trio.open_nursery() as nursery:
        await begun(bench, reader, nursery)
        held, reader.may_pass = reader.may_pass, trio.Event()
        reader.may_pass.set()
        nursery.start_soon(void, middle.id)
        nursery.start_soon(void, last.id)
        await wait_all_tasks_blocked()
        assert outcomes == []
        held.set()
    assert sorted(outcome.name for outcome in outcomes) == ["VOIDED", "VOID_BEFORE"]
    assert await left(bench) == (1, 1)


async def test_a_refused_void_is_over(bench: EngineBench) -> None:
    """What is late is refused, and nothing of it stays with the actor."""
    await bench.ledger.append([event()])
    await close_ended(bench, rules(), clock_ms=START_MS + HOUR_MS)
    (one,) = await stored(bench)
    transactions = bench.hop.transactions
    voided = await bench.ledger.void(one.id, "no", late=Late.REJECT)
    assert voided is not None
    assert voided.outcome is VoidOutcome.TOO_LATE
    assert bench.hop.transactions == transactions
    assert bench.ledger._registry.at_rest("acme")


async def test_on_a_full_disk(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Who comes is refused, nothing is void; who waits does not know, and asks again."""
    async with running(tmp_path) as bench:
        bench.hop.hop = disk = Disk()
        await bench.ledger.append([event(value=value) for value in (1, 2, 4)])
        (last, middle, _) = await stored(bench)
        disk.is_full = True
        with pytest.raises(DiskFullError):
            await bench.ledger.void(last.id, "before it began")
        disk.is_full = False
        await trio.sleep(2 * FULL_SECONDS)
        assert await left(bench) == (3, 7)
        disk.is_full = True
        with pytest.raises(UnavailableError):
            await bench.ledger.void(last.id, "when it was decided")
        with pytest.raises(DiskFullError):
            await bench.ledger.void(middle.id, "while it is full")
        disk.is_full = False
        await trio.sleep(2 * FULL_SECONDS)
        again = await bench.ledger.void(last.id, "again")
        assert again is not None
        assert again.outcome is VoidOutcome.VOID_BEFORE
        assert again.event.void is not None
        assert again.event.void.reason == "when it was decided"
        assert await left(bench) == (2, 3)


async def test_where_nothing_is_left_a_start_counts_nothing_again(bench: EngineBench) -> None:
    """Empty totals say through which event they count, open and closed, and are no difference."""
    await bench.ledger.append([event(), event("b")])
    for one in await stored(bench):
        if one.event.customer_id == "acme":
            await bench.ledger.void(one.id, "open")
    assert await left(bench) == (0, 0)
    await bench.stop()
    assert [str(found) for found in verify(bench.folder)] == []
    await bench.start()
    await close_ended(bench, rules(), clock_ms=START_MS + 400 * 24 * HOUR_MS)
    for one in await stored(bench):
        await bench.ledger.void(one.id, "closed")
    assert await bench.ledger.revise(rules(), until_ms=bench.clock.now_ms) == len(PeriodType)
    assert await left(bench) == (0, 0)
