"""Events of years before: sent and closed in front of the first kill, pruned during all others.

What is gone is known here, and whoever counts again is given it. It goes from its beginning, in the
order of storing, and never comes back; how many are gone the store says itself. What was published
of them stays provable: with the digests of before, down to the hours.
"""

from __future__ import annotations

import signal
from contextlib import closing
from typing import TYPE_CHECKING, Final

import msgspec

from meterd.domain.aggregations import aggregation_id
from meterd.domain.errors import MeterdError
from meterd.domain.periods import DAY_MS, PeriodType, period_at
from meterd.domain.proofs import check
from meterd.embedded.proving import Proving, find
from meterd.embedded.store import Store
from tests.system.torture.daemons.checks import read_online
from tests.system.torture.daemons.clients import CUSTOMERS, Client

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meterd.domain.proofs import Proved
    from tests.system.torture.daemons.checks import Checks, Contents
    from tests.system.torture.daemons.clients import Books
    from tests.system.torture.daemons.process import Daemon
    from tests.system.torture.daemons.recount import Stored

# Two years, and the months that events are kept behind the end of theirs.
BEFORE_MS: Final = 800 * DAY_MS
# Batches, each a record of the log; every so many events one is taken back.
_BATCHES: Final = 80
_BATCH: Final = 4
_TAKEN_BACK: Final = 9
_CREATED: Final = 201


class History:
    """``gone`` are the events that are pruned, ``proved`` how often something of them was."""

    def __init__(self, seed: str, daemon: Daemon, books: Books, checks: Checks) -> None:
        self._client = Client("history", seed, daemon, books)
        self._daemon = daemon
        self._books = books
        self._checks = checks
        self._events: list[Stored] = []
        self._proofs: dict[str, list[bytes]] = {}
        self.gone = self.proved = 0

    def lay(self) -> None:
        """They are sent, their periods closed and proved; it is ``BEFORE_MS`` later then."""
        later_ms = self._daemon.now_ms() + BEFORE_MS
        self._start()
        for _ in range(_BATCHES):
            self._send()
        for event in read_online(self._daemon).events[::_TAKEN_BACK]:
            self._take_back(event)
        self._events = read_online(self._daemon).events
        self._client.close()
        self._stop()
        self._daemon.step_to(later_ms)
        # It closes what is over, and prunes nothing: its clock is too far ahead of the last event.
        self._start()
        self._stop()
        self._proofs = dict(self._proofs_now("in front of all kills"))

    def completed(self, contents: Contents, where: str) -> Contents:
        """With the events that are pruned."""
        there = {event.tag for event in contents.events}
        gone = [event for event in self._events if event.tag not in there]
        if gone != self._events[: len(gone)]:
            self._checks.wrong(f"{where}: what is pruned is not what came first")
        if len(gone) < self.gone:
            self._checks.wrong(f"{where}: events that were pruned are there")
        if contents.pruned not in (None, len(gone)):
            self._checks.wrong(f"{where}: the store says {contents.pruned} are pruned: {len(gone)}")
        self.gone = len(gone)
        return msgspec.structs.replace(contents, events=[*gone, *contents.events])

    def prove(self, where: str) -> None:
        """No daemon may run. What was proved before leads to what is proved now."""
        gone = {event.customer_id for event in self._events[: self.gone]}
        for customer_id, lines in self._proofs_now(where):
            before, now = _checked(self._proofs[customer_id]), _checked(lines)
            if before.digest != now.digest or bool(now.pruned) != (customer_id in gone):
                self._checks.wrong(f"{where}: {now} is proved, and before {before}")
            self.proved += bool(now.pruned)

    def _start(self) -> None:
        self._daemon.start(post_s=0.05, disk_s=0.0)
        assert self._daemon.wait_ready(), self._daemon.tail()

    def _stop(self) -> None:
        self._daemon.send(signal.SIGTERM)
        assert self._daemon.wait() == 0, self._daemon.tail()

    def _send(self) -> None:
        events = [self._client.event(keyed=True) for _ in range(_BATCH)]
        self._books.send(events)
        answer = self._client.post_batch(events)
        assert answer is not None, self._daemon.tail()
        assert answer.status == _CREATED, answer
        self._books.acknowledge(events)

    def _take_back(self, event: Stored) -> None:
        self._books.voiding[event.tag] = True
        answer = self._client.ask("POST", f"/events/{event.place}/void", {"reason": "long ago"})
        assert answer is not None, self._daemon.tail()
        assert answer.status == _CREATED, answer
        self._books.voided[event.tag] = True

    def _proofs_now(self, where: str) -> Iterator[tuple[str, list[bytes]]]:
        """Of each customer's year, as the store proves it."""
        year = period_at(PeriodType.YEARLY, self._events[0].received_ms)
        with closing(Store(self._daemon.data)) as store, store.read() as txn:
            for customer_id in CUSTOMERS:
                try:
                    found = find(txn, store.parts, aggregation_id(customer_id, year))
                    yield customer_id, list(Proving(txn, store.parts, customer_id).lines(found))
                except MeterdError as fault:
                    self._checks.wrong(f"{where}: the year of {customer_id}: {fault}")


def _checked(lines: list[bytes]) -> Proved:
    return check(lambda: lines)
