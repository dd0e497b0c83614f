"""A bit of the store's file flips, as disks and memory do it: it is found, or it changes nothing.

Most anywhere, and one in four where it sends LMDB astray: in meta pages, and in the headers and
pointers of pages. After each, in a child of its own, the store is verified. Where nothing is found
everything is read, in the ways in which the API reads: it must be what it was before the flip.
Now and then an engine goes on working on such a store, and it must still be sound then.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any, Final

import lmdb
import msgspec
import trio

from meterd.domain.errors import StoreError
from meterd.domain.periods import HOUR_MS, PeriodType
from meterd.embedded import journal, outbox, queries
from meterd.embedded.pages import DamagedError
from meterd.embedded.snapshot import open_snapshot
from meterd.embedded.store import PARTS
from meterd.embedded.transaction import TABLES
from meterd.embedded.verification import verify
from meterd.ledger import AggregationQuery, EventQuery
from tests.embedded.engine_bench import running
from tests.embedded.sample_store import CUSTOMERS, TYPES, event_of, make_sample
from tests.ledger_bench import START_MS, close_ended, rules
from tests.system.torture import mutants
from tests.system.torture.children import Voice, fork
from tests.system.torture.engine_torture import freeze
from tests.system.torture.harness import Harness, Run, Tally

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from meterd.embedded.transaction import Transaction

_HOURS: Final = 14
_PAGE: Final = 4096
_ALL: Final = 100_000
# What a child ends with.
_FOUND, _HARMLESS, _WRONG = range(3)
_RIGHT: Final = {_FOUND: "found by verify", _HARMLESS: "harmless"}
# One of so many aims; of so many harmless ones, one is worked on.
_AIMED: Final = 4
_WORKED_ON: Final = 20


def torture(run: Run) -> Tally:
    """Flips bits, one at a time, and puts each back."""
    tally, chance = Tally(), random.Random(run.seed)
    data = make_sample(run.folder, hours=_HOURS)
    (data / "store" / "lock.mdb").unlink()  # no process has it open, and each child is the first
    file = data / "store" / "data.mdb"
    content, before = file.read_bytes(), _everything(data)
    mutants.load()
    freeze()
    harmless = 0
    with file.open("r+b", buffering=0) as store:
        while run.left(tally):
            at, bit = _place(chance, content), chance.randrange(8)
            flipped = bytes([content[at] ^ 1 << bit])
            os.pwrite(store.fileno(), flipped, at)
            ended = fork(partial(_look, data, before, run.mutant))
            where = f"bit {bit} of byte {at % _PAGE} of page {at // _PAGE}"
            # Whoever looks after a store must be told, not killed, by verify and by what it passed.
            is_right = not ended.killed and ended.exit_code in _RIGHT
            tally.seen[_RIGHT[ended.exit_code] if is_right else "wrong"] += 1
            if not is_right:
                tally.find(f"{where}: {ended.said.decode() or ended}", wrong=1)
            harmless += ended.exit_code == _HARMLESS
            if ended.exit_code == _HARMLESS and harmless % _WORKED_ON == 0:
                tally.seen["worked on"] += 1
                ended = fork(partial(_work_on, data, run.folder / "worked-on"), seconds=60)
                if ended.exit_code:
                    tally.find(f"{where}, worked on: {ended.said.decode() or ended}", wrong=1)
            os.pwrite(store.fileno(), content[at : at + 1], at)
            tally.done += 1
            run.done(tally.done)
    return tally


def _place(chance: random.Random, content: bytes) -> int:
    if chance.randrange(_AIMED):
        return chance.randrange(len(content))
    if chance.randrange(8) == 0:
        return chance.choice((0, _PAGE)) + chance.randrange(160)
    page = chance.randrange(2, len(content) // _PAGE) * _PAGE
    lower = int.from_bytes(content[page + 12 : page + 14], "little")
    is_branch = content[page + 10] == 1
    if is_branch:
        upper = int.from_bytes(content[page + 14 : page + 16], "little")
        places: list[int] = [*range(min(lower, _PAGE)), *range(min(upper, _PAGE), _PAGE)]
        return page + chance.choice(places)
    return page + chance.randrange(max(16, min(lower, _PAGE)))


def _look(data: Path, before: str, mutant: str | None, voice: Voice) -> int:
    mutants.apply(mutant)
    try:
        if next(verify(data), None) is not None:
            return _FOUND
    except StoreError:
        return _FOUND
    try:
        after = _everything(data)
    except (StoreError, DamagedError, lmdb.Error) as fault:
        voice.say(f"cannot be read, and verify finds nothing: {fault}")
        return _WRONG
    if after == before:
        return _HARMLESS
    voice.say("reads as something else, and verify finds nothing")
    return _WRONG


def _everything(data: Path) -> str:
    """A digest of all that can be read."""
    digest = hashlib.blake2b()
    with open_snapshot(data) as snapshot:
        for found in _reads(snapshot.transaction()):
            digest.update(msgspec.msgpack.encode(found))
    return digest.hexdigest()


def _reads(txn: Transaction) -> Iterator[Any]:
    for table in TABLES:
        there = list(txn.forward(table, b"", b""))
        yield there
        yield list(txn.backward(table, b"\xff" * 500, b""))
        yield [txn.get(table, key) for key, _ in there]
        yield txn.count(table)
    customers, types = (None, *CUSTOMERS), (None, *TYPES[:3])
    for customer_id, event_type in product(customers, types):
        yield queries.read_events(txn, PARTS, EventQuery(customer_id, event_type), _ALL, None)
    later = EventQuery(None, None, START_MS + HOUR_MS, START_MS + 5 * HOUR_MS)
    yield queries.read_events(txn, PARTS, later, 50, None)
    for customer_id, kind in product(customers, (None, *PeriodType)):
        query = AggregationQuery(customer_id, kind)
        yield queries.read_aggregations(txn, PARTS, query, _ALL, None)
    yield [outbox.next_due_ms(txn, endpoint_id) for endpoint_id in ("billing", "crm")]
    yield journal.next_to_close(txn, PARTS)
    yield journal.open_parts(txn, PARTS)


def _work_on(data: Path, folder: Path, voice: Voice) -> int:
    """What comes later is right, too: pages are taken from the free ones, and given back."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(data, folder / "data")
    trio.run(_work, folder)
    found = next(verify(folder / "data"), None)
    if found is not None:
        voice.say(found.line())
        return _WRONG
    return 0


async def _work(folder: Path) -> None:
    async with running(folder) as bench:
        bench.clock.now_ms = START_MS + 60 * HOUR_MS
        for number in range(12):
            first = 100_000 + 100 * number
            await bench.ledger.append([event_of(first + offset) for offset in range(40)])
            bench.clock.now_ms += HOUR_MS
            await close_ended(bench, rules())


HARNESS = Harness(
    name="bit_flips",
    unit="flips",
    promise="A flipped bit is found, or changes nothing that can be read.",
    short=200,
    long=20_000,
    run=torture,
    mutants=("no_checksum", "no_page_check"),
)
