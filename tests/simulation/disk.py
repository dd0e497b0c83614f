"""A store that fails on command, and tells what each of its transactions has written.

It is the real one, over a folder in memory. Faults come where they really come: within a
transaction, which then never was; or behind it, when it is on disk and nobody hears of it.
"""

from __future__ import annotations

import errno
from enum import Enum, auto
from typing import TYPE_CHECKING, TypeVar

import trio

from meterd.domain.errors import CommitFailedError
from meterd.embedded.store import Store
from meterd.embedded.transaction import Transaction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path
    from random import Random

T = TypeVar("T")

MAP_SIZE = 4 << 30
# Of how many transactions and reads.
_TAKES_A_TURN = 0.25
_TAKES_TIME = 0.03
_SLOW_S = 0.1


class PowerCutError(Exception):
    """The machine has gone off."""


class Fault(Enum):
    """What happens to a transaction."""

    POWER_CUT_WITHIN = auto()
    POWER_CUT_BEHIND = auto()
    FAILS_WITHIN = auto()
    # Reported as failed, and on disk: an fsync that failed, and was done all the same.
    FAILS_BEHIND = auto()


class Written(Transaction):
    """A transaction that remembers what was put into it, and what was taken out."""

    def __init__(self, txn: Transaction) -> None:
        super().__init__(txn._txn, txn._tables)
        self.puts: list[tuple[str, bytes, bytes]] = []
        self.deletes: list[tuple[str, bytes]] = []

    def put(self, table: str, key: bytes, payload: bytes) -> None:
        super().put(table, key, payload)
        self.puts.append((table, key, payload))

    def put_new(self, table: str, key: bytes, payload: bytes) -> bool:
        is_new = super().put_new(table, key, payload)
        if is_new:
            self.puts.append((table, key, payload))
        return is_new

    def put_all(self, table: str, found: Iterable[tuple[bytes, bytes]]) -> None:
        together = list(found)
        super().put_all(table, together)
        self.puts.extend((table, key, payload) for key, payload in together)

    def delete(self, table: str, key: bytes) -> bool:
        self.deletes.append((table, key))
        return super().delete(table, key)


class Disk:
    """What becomes of transactions; outlives the daemons over it.

    ``committed`` is told of each that is on disk, before anybody who waits for it can hear.
    """

    def __init__(self, random: Random, committed: Callable[[Written], None]) -> None:
        self.committed = committed
        self.is_full = False
        self.has_power = True
        # Since somebody set this back.
        self.was_bad = False
        # Seconds that a transaction takes at most.
        self.slowest_s = 0.002
        self.transactions = 0
        self.went_off = trio.lowlevel.ParkingLot()
        self.cut_power: Callable[[], None] = lambda: None
        self.happened: Callable[[str], None] = lambda _: None
        self._random = random
        self._fault: Fault | None = None
        self._fault_in = 0

    def arm(self, fault: Fault, transactions: int) -> None:
        """The fault comes with the transaction behind so many others, unless others come first."""
        self._fault, self._fault_in = fault, transactions

    def go_off(self) -> None:
        """With the machine; who waits for that hears of it."""
        self.cut_power()
        self.went_off.unpark_all()

    def disarm(self) -> None:
        self._fault = None

    def store(self, folder: Path) -> Store:
        return _FailingStore(folder, self)

    async def hop(self, work: Callable[[], T]) -> T:
        """Where transactions run, as a worker thread: once begun it is finished.

        Mostly at once, within the caller's turn: not every race needs to be run each time.
        """
        chance = self._random.random()
        if chance > _TAKES_A_TURN:
            await trio.lowlevel.checkpoint_if_cancelled()
            return work()
        await trio.lowlevel.checkpoint()
        if chance > _TAKES_TIME and self.slowest_s < _SLOW_S:
            return work()
        takes_s = self._random.uniform(0, self.slowest_s)
        before_s = self._random.choice((0, takes_s))
        with trio.CancelScope(shield=True):
            await trio.sleep(before_s)
        result = work()
        with trio.CancelScope(shield=True):
            await trio.sleep(takes_s - before_s)
        return result

    def next_fault(self) -> Fault | None:
        """Whether something happens to the transaction that begins now."""
        if self._fault is None:
            return None
        if self._fault_in:
            self._fault_in -= 1
            return None
        fault, self._fault = self._fault, None
        self.was_bad = True
        self.happened(fault.name.lower().replace("_", " "))
        return fault


class _FailingStore(Store):
    def __init__(self, folder: Path, disk: Disk) -> None:
        self._disk = disk
        super().__init__(folder, map_size=MAP_SIZE)

    def write(self, work: Callable[[Transaction], T]) -> T:
        disk = self._disk
        if not disk.has_power:
            raise PowerCutError
        fault = disk.next_fault()
        written: list[Written] = []

        def within(txn: Transaction) -> T:
            noted = Written(txn)
            written[:] = [noted]
            result = work(noted)
            if disk.is_full and noted.puts:
                disk.was_bad = True
                raise OSError(errno.ENOSPC, "no space left on the simulated disk")
            if fault is Fault.FAILS_WITHIN:
                raise OSError(errno.EIO, "the simulated disk fails")
            if fault is Fault.POWER_CUT_WITHIN:
                disk.go_off()
                raise PowerCutError
            return result

        result = super().write(within)
        disk.transactions += 1
        disk.committed(written[0])
        if fault is Fault.POWER_CUT_BEHIND:
            disk.go_off()
            raise PowerCutError
        if fault is Fault.FAILS_BEHIND:
            raise CommitFailedError("the simulated disk reports a failure")
        return result
