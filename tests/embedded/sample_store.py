"""A data folder with something of everything, as a crash left it, and ways to make it wrong."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections import Counter
from contextlib import closing
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec
import trio

from meterd.domain.alerts import Alert
from meterd.domain.deliveries import Attempt, settle_attempt
from meterd.domain.endpoints import SCHEDULE_MS
from meterd.domain.events import UsageEvent
from meterd.domain.outcomes import Outcome
from meterd.domain.periods import HOUR_MS, PeriodType
from meterd.domain.thresholds import Watched
from meterd.domain.voids import VoidOutcome
from meterd.embedded import journal, keys, records
from meterd.embedded.differences import MISTAKES, Checking
from meterd.embedded.log_check import LogCheck
from meterd.embedded.marks import read_marks
from meterd.embedded.snapshot import open_snapshot
from meterd.embedded.store import PARTS, Store
from meterd.embedded.verification import verify
from meterd.keyfile import KEY_FILE
from tests.embedded.engine_bench import EngineBench, running
from tests.ledger_bench import ALL, EVERY_EVENT, OPERATIONS, close_ended, rules

if TYPE_CHECKING:
    from collections.abc import Callable

    from meterd.domain.periods import Period
    from meterd.domain.totals import PeriodTotals
    from meterd.embedded.differences import Difference
    from meterd.embedded.transaction import Transaction

T = TypeVar("T")

CUSTOMERS: Final = ("acme", "b", "Ærø", "d" * 40, "e", "f")
TYPES: Final = tuple(OPERATIONS)
_HOURS: Final = 40
_CLOSING: Final = rules(endpoints=("billing", "crm"))


def make_sample(folder: Path, hours: int = _HOURS) -> Path:
    """The data folder: closed and open periods, snapshots, deliveries in every state, keys in the
    index and not yet, events posted and not yet, and API keys.
    """
    folder.mkdir(parents=True, exist_ok=True)
    trio.run(_make, folder, hours)
    (folder / "data" / KEY_FILE).write_text('{"version": 1, "keys": []}')
    return folder / "data"


@lru_cache(maxsize=1)
def _sample() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="meterd-sample-"))
    atexit.register(shutil.rmtree, folder)
    return make_sample(folder)


def copied_sample(folder: Path) -> Path:
    """A sample to be spoilt, in that folder; made once."""
    return shutil.copytree(_sample(), folder / "data")


async def _make(folder: Path, hours: int) -> None:
    async with running(folder) as bench:
        for hour in range(hours):
            await bench.ledger.append(_events(hour * 100, 30))
            bench.clock.now_ms += HOUR_MS // 2
            for number in range(4):
                await bench.ledger.append(_events(hour * 100 + 50 + number, 1))
            bench.clock.now_ms += HOUR_MS // 2
            if hour % 4 == 0:
                await bench.ledger.snapshot(_CLOSING)
            await close_ended(bench, _CLOSING)
        await _come_late(bench)
        await _take_back(bench)
        await _attempt(bench)
        await _reach(bench)
        await bench.ledger.append(_events(50_000, 200))
        await bench.ledger._posting._used_keys.post_all()
        await bench.ledger._posting.post_all()
        await bench.ledger.append(_events(60_000, 100))
        await _post_one(bench)
        await bench.cut_off(1, lambda: _appends(bench))


def event_of(number: int) -> UsageEvent:
    """Always the same; two of three have a key."""
    return UsageEvent(
        CUSTOMERS[number * 7 % len(CUSTOMERS)],
        TYPES[number * 5 % len(TYPES)],
        Decimal(number % 13) / 8 - 1,
        b'{"n":%d}' % number,
        f"key-{number}" if number % 3 else "",
    )


def _events(first: int, count: int) -> list[UsageEvent]:
    return [event_of(number) for number in range(first, first + count)]


async def _attempt(bench: EngineBench) -> None:
    """Some deliveries arrive, some fail, some are parked, some in the air, and most wait."""
    outcomes = [Outcome(), Outcome("503"), Outcome(dry_run=True), Outcome()]
    now_ms = bench.clock.now_ms
    for number in range(12):
        now_ms = bench.clock.now_ms = bench.clock.now_ms + 5_000
        for begun in (await bench.ledger.claim("billing", limit=9)).deliveries:
            outcome = outcomes[(number + begun.sequence) % 4]
            waits_ms = () if number == 3 else SCHEDULE_MS
            settled = settle_attempt(begun, outcome, now_ms, Fraction(1, 3), waits_ms)
            attempt = Attempt("billing", begun.sequence, begun.attempts, now_ms, now_ms, outcome)
            await bench.ledger.settle([settled], [attempt])
    arrived, in_air = (await bench.ledger.claim("crm", limit=2, batch=3)).deliveries
    assert arrived.is_batch
    assert in_air.is_batch
    await bench.ledger.settle([settle_attempt(arrived, Outcome(), now_ms, Fraction(0))])
    assert len((await bench.ledger.claim("billing", limit=2)).deliveries) == 2


async def _come_late(bench: EngineBench) -> None:
    """Two revisions of some periods, and others that wait for theirs."""
    for number in range(3):
        happened_ms = bench.clock.now_ms - (5 + 7 * number) * HOUR_MS
        late = [
            msgspec.structs.replace(one, timestamp_ms=happened_ms + one.value.as_tuple().digits[0])
            for one in _events(80_000 + 100 * number, 20)
        ]
        await bench.ledger.append(late)
        await bench.ledger.next_to_close()
        if number < 2:
            await bench.ledger.revise(_CLOSING, until_ms=bench.clock.now_ms)


async def _take_back(bench: EngineBench) -> None:
    """Events of closed hours and of the one that runs, for several reasons, in several ways."""
    await bench.ledger.append(_events(90_000, 12))
    stored = await bench.ledger.events(EVERY_EVENT, limit=ALL)
    for number, one in enumerate([*stored[:3], *stored[20:400:60]]):
        voided = await bench.ledger.void(one.id, f"case {number}")
        assert voided is not None
        assert voided.outcome is VoidOutcome.VOIDED


async def _reach(bench: EngineBench) -> None:
    """Thresholds, each to be told to an endpoint that has other deliveries before and behind."""
    alert = Alert("some", "count", PeriodType.WEEKLY, (Decimal(1), Decimal(5)))
    watched = Watched([alert], OPERATIONS)
    since_ms, after, told = bench.ledger.watch(None), None, 0
    while looks := await bench.ledger.users(watched, since_ms, limit=4, after=after):
        after = looks[-1].customer_id
        told += len(await bench.ledger.tell(watched, looks, ("billing",)))
    assert told > len(CUSTOMERS)


async def _post_one(bench: EngineBench) -> None:
    """One customer's totals are ahead of the mark, as if someone had asked for its events."""
    await bench.ledger._posting.post_customers([CUSTOMERS[1]])


async def _appends(bench: EngineBench) -> None:
    for number in range(2):
        await bench.ledger.append(_events(70_000 + number * 100, 70))


def spoil(data: Path, work: Callable[[Transaction], T]) -> T:
    """Writes to the store as nothing in meterd does, with right checksums."""
    with closing(Store(data)) as store:
        return store.write(work)


def damage(txn: Transaction, table: str) -> None:
    """Flips a bit of each of the table's records, and leaves their checksums as they are."""
    raw, place = txn._txn, txn._tables[table]
    with raw.cursor(place) as cursor:
        for key, record in list(cursor):
            flipped = bytes(record[:-1]) + bytes([record[-1] ^ 1])
            raw.put(bytes(key), flipped, db=place)


def differences(data: Path) -> list[Difference]:
    return list(verify(data))


def differences_in_spans(data: Path) -> list[Difference]:
    """The same; of the log they are alike, in one go and in spans of an hour each."""
    found = differences(data)
    if all(one.what for one in found):  # else LMDB might not find its way
        with open_snapshot(data) as snapshot:
            txn = snapshot.transaction()
            assert _of_log(txn, spans_max=1) == _of_log(txn, spans_max=1000)
    return found


def _of_log(txn: Transaction, spans_max: int) -> Counter[Difference] | type[Exception]:
    check = LogCheck(txn, PARTS, read_marks(txn), Checking(), spans_max=spans_max)
    try:
        return Counter(check.run())
    except MISTAKES as fault:
        return type(fault)


def lines(data: Path) -> list[str]:
    return [difference.line() for difference in differences(data)]


def checked(data: Path) -> Counter[str]:
    """What a clean store holds."""
    checking = Checking()
    assert list(verify(data, checking)) == []
    return checking.counts


def first_of(txn: Transaction, table: str, behind: int = 0) -> bytes:
    """The table's first key, or one so many further on."""
    for number, key in enumerate(txn.keys_forward(table, b"", b"")):
        if number == behind:
            return key
    raise AssertionError(f"{table} has too few records")


def totals_of(txn: Transaction, period: Period, customer_id: str) -> PeriodTotals:
    found = journal.read_totals(txn, keys.part_of(customer_id, PARTS), period, customer_id)
    assert found is not None
    return found


def put_totals(txn: Transaction, period: Period, customer_id: str, totals: PeriodTotals) -> None:
    key = keys.totals_key(keys.part_of(customer_id, PARTS), period, customer_id)
    txn.put("totals", key, records.encode(totals))
