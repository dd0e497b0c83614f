"""Backups of an engine that takes events, closes periods and delivers meanwhile, in a process of
its own.

Each is restored into a folder of its own, verified, opened, recovered and verified again. Clients
number their events, so it is known what may be in it: all that was acknowledged when the backup
began, nothing that was not sent when it was made, and of each client no event without those before.
"""

from __future__ import annotations

import mmap
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections import defaultdict
from contextlib import closing, contextmanager
from decimal import Decimal
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from meterd import copies
from meterd.domain.deliveries import settle_attempt
from meterd.domain.errors import MeterdError
from meterd.domain.events import UsageEvent
from meterd.domain.outcomes import Outcome
from meterd.domain.periods import HOUR_MS
from meterd.embedded import log
from meterd.embedded.differences import Checking
from meterd.embedded.recovery import post_some
from meterd.embedded.store import PARTS, Store
from meterd.embedded.verification import verify
from tests.embedded.engine_bench import running
from tests.embedded.sample_store import CUSTOMERS, TYPES
from tests.ledger_bench import close_ended, rules
from tests.system.torture import mutants
from tests.system.torture.engine_torture import freeze
from tests.system.torture.harness import Harness, Run, Tally

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.embedded.engine_bench import EngineBench

_CLIENTS: Final = 6
_STORE_BYTES_MAX: Final = 1 << 20  # then another engine begins: more would take long to read
_READY_S: Final = 30.0
_PAUSE_S: Final = 0.06  # between two batches of a client
_NUMBER_BYTES: Final = 8
_CLOSING: Final = rules(endpoints=("billing",))


class Numbers:
    """How far each client is, in memory that both processes see: sent, and acknowledged."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 2 * _CLIENTS * _NUMBER_BYTES)

    def sent(self) -> list[int]:
        return [self._get(client) for client in range(_CLIENTS)]

    def acknowledged(self) -> list[int]:
        return [self._get(_CLIENTS + client) for client in range(_CLIENTS)]

    def send(self, client: int, number: int) -> None:
        self._put(client, number)

    def acknowledge(self, client: int, number: int) -> None:
        self._put(_CLIENTS + client, number)

    def _get(self, place: int) -> int:
        at = place * _NUMBER_BYTES
        return int.from_bytes(self._memory[at : at + _NUMBER_BYTES], "little")

    def _put(self, place: int, number: int) -> None:
        at = place * _NUMBER_BYTES
        self._memory[at : at + _NUMBER_BYTES] = number.to_bytes(_NUMBER_BYTES, "little")


def torture(run: Run) -> Tally:
    """Makes backups of one engine after another."""
    tally, chance = Tally(), random.Random(run.seed)
    freeze()
    mutants.apply(run.mutant)
    while run.left(tally):
        shutil.rmtree(run.folder / "live", ignore_errors=True)
        (run.folder / "live").mkdir()
        numbers = Numbers()
        with _engine(run.folder / "live", numbers, chance.randrange(1 << 32)):
            file = run.folder / "live" / "data" / "store" / "data.mdb"
            while run.left(tally) and file.stat().st_size < _STORE_BYTES_MAX:
                _back_up(run.folder, numbers, tally)
                tally.done += 1
                run.done(tally.done)
    return tally


@contextmanager
def _engine(folder: Path, numbers: Numbers, seed: int) -> Iterator[None]:
    """Another process in which it takes events; killed at the end."""
    child = os.fork()
    if child == 0:
        try:
            trio.run(_live, folder, numbers, random.Random(seed))
        except BaseException:  # noqa: BLE001 - nothing may come out of here
            traceback.print_exc(file=sys.stderr)
        finally:
            os._exit(1)
    try:
        until = time.monotonic() + _READY_S
        while not all(numbers.acknowledged()):
            assert time.monotonic() < until, "no engine has taken an event"
            time.sleep(0.01)
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "the engine ended by itself"


async def _live(folder: Path, numbers: Numbers, chance: random.Random) -> None:
    async with running(folder) as bench, trio.open_nursery() as nursery:
        for client in range(_CLIENTS):
            nursery.start_soon(_send, bench, numbers, client, chance)
        nursery.start_soon(_keep_time, bench)


async def _send(bench: EngineBench, numbers: Numbers, client: int, chance: random.Random) -> None:
    number = 0
    while True:
        count = chance.choice((1, 1, 1, 8, 70))
        numbers.send(client, number + count)
        await bench.ledger.append([_event(client, each) for each in range(number, number + count)])
        number += count
        numbers.acknowledge(client, number)
        await trio.sleep(chance.random() * _PAUSE_S)


def _event(client: int, number: int) -> UsageEvent:
    return UsageEvent(
        CUSTOMERS[number * 7 % len(CUSTOMERS)],
        TYPES[number * 5 % len(TYPES)],
        Decimal(number % 13) / 8 - 1,
        msgspec.json.encode([client, number]),
        f"{client}-{number}" if number % 3 else "",
    )


async def _keep_time(bench: EngineBench) -> None:
    """Hours pass, periods close, deliveries arrive or fail, totals are posted."""
    while True:
        await trio.sleep(0.1)
        bench.clock.now_ms += HOUR_MS // 3
        await close_ended(bench, _CLOSING)
        claim = await bench.ledger.claim("billing", limit=20)
        settled = [
            settle_attempt(
                each,
                Outcome(error="503" if number % 3 else None),
                bench.clock.now_ms,
                Fraction(0),
            )
            for number, each in enumerate(claim.deliveries[:15])
        ]
        await bench.ledger.settle(settled)


def _back_up(folder: Path, numbers: Numbers, tally: Tally) -> None:
    saved, restored = folder / "saved", folder / "restored"
    for each in (saved, restored):
        shutil.rmtree(each, ignore_errors=True)
    where = f"backup {tally.done}"
    acknowledged = numbers.acknowledged()
    try:
        copies.backup(folder / "live" / "data", saved, lambda *_: None)
        sent = numbers.sent()
        copies.restore(saved, restored, lambda *_: None)
        stored = _open_and_count(restored)
    except MeterdError as fault:
        tally.find(f"{where}: {fault}", wrong=1)
        return
    tally.acknowledged += sum(acknowledged)
    for client in range(_CLIENTS):
        found = stored[client]
        highest = len(found)
        if sorted(found) != list(range(highest)):
            twice = len(found) - len(set(found))
            tally.find(f"{where}: of client {client} are gaps or repeats", twice=twice, wrong=1)
        if highest < acknowledged[client]:
            lost = acknowledged[client] - highest
            tally.find(f"{where}: {lost} events of client {client} are not in it", lost=lost)
        if highest > sent[client]:
            tally.find(f"{where}: {highest} of client {client}, of {sent[client]} sent", wrong=1)
    _verify(restored, where, tally)


def _open_and_count(data: Path) -> dict[int, list[int]]:
    """Starts as an engine does; the numbers of each client's events, in the order of the log."""
    found: dict[int, list[int]] = defaultdict(list)
    with closing(Store(data)) as store:
        while store.write(partial(post_some, parts=PARTS)).blocks:
            pass
        with store.read() as txn:
            for receipt in log.appends_from(txn, b""):
                for event in receipt.events:
                    client, number = msgspec.json.decode(event.metadata, type=tuple[int, int])
                    found[client].append(number)
    return found


def _verify(data: Path, where: str, tally: Tally) -> None:
    checking = Checking()
    for difference in verify(data, checking):
        tally.find(f"{where}, recovered: {difference.line()}", wrong=1)
    unposted = checking.counts["events not yet in totals"] + checking.counts["keys not yet indexed"]
    if unposted:
        tally.find(f"{where}: {unposted} events or keys are not recovered", wrong=1)
    for name in ("events", "aggregations", "deliveries pending"):
        tally.seen[name] += checking.counts[name]


HARNESS = Harness(
    name="backups",
    unit="backups",
    promise="A backup of a meterd that serves holds what was acknowledged before, and is sound.",
    short=5,
    long=1_000,
    run=torture,
    mutants=("backup_by_file_copy",),
    mutant_count=60,
)
