"""The life of one data folder: daemons are started over it and killed, one after another, while
clients send, hours, a day and a month end, and webhooks go out.
"""

from __future__ import annotations

import random
import signal
import threading
import time
from itertools import count
from typing import TYPE_CHECKING, Final

from meterd.domain.deliveries import DeliveryStatus
from meterd.domain.instants import parse_instant
from meterd.domain.periods import HOUR_MS
from tests.system.torture.daemons.checks import (
    Checks,
    is_delivered,
    read_offline,
    read_online,
)
from tests.system.torture.daemons.clients import CUSTOMERS, Books, Crowd
from tests.system.torture.daemons.configuration import GRACE_MS, configuration
from tests.system.torture.daemons.history import BEFORE_MS, History
from tests.system.torture.daemons.operators import Operator
from tests.system.torture.daemons.process import Daemon, Forks
from tests.system.torture.daemons.sink import Sink
from tests.system.torture.daemons.threshold_checks import reached

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.system.torture.daemons.checks import Contents
    from tests.system.torture.harness import Tally

_MINUTE_MS: Final = 60_000
# The ends of months, one of them of a year as well, one of a leap year's February, one of a week.
MONTH_ENDS: Final = (
    "2026-02-01T00:00:00Z",
    "2028-03-01T00:00:00Z",
    "2027-01-01T00:00:00Z",
    "2026-06-01T00:00:00Z",
)
# Some 15 of 50 kills are at the end of an hour, so a life crosses its month's end in the middle.
HOURS_BEFORE: Final = 8
# How many kills go by between two looks at all that is stored; the first comes soon, for mutants.
CHECK_FIRST: Final = 10
CHECK_EVERY: Final = 25
# How often it ends while it starts, under load, as a period closes, as it posts, as it delivers,
# and as it is to send again.
ANY_MOMENT: Final = (15, 25, 30, 10, 15, 5)
# What was in the air is put back while it starts.
WHILE_DELIVERING: Final = (10, 0, 0, 0, 50, 40)
# A daemon that nobody forked: Python reads all of its code.
COLD_EVERY: Final = 40
STOP_S: Final = 10.0
# Further than any period reaches, and any wait for another attempt.
LONG_AFTER_MS: Final = 400 * 24 * HOUR_MS
DELIVERED_S: Final = 30.0
# From the fork until it serves.
_START_S: Final = 0.1


class Life:
    """From the folder's making to the check of all that came of it."""

    def __init__(
        self,
        seed: str,
        folder: Path,
        forks: Forks,
        mutant: str | None,
        tally: Tally,
        odds: tuple[int, ...] = ANY_MOMENT,
    ) -> None:
        self._random = random.Random(seed)
        self._odds = odds
        start_ms = parse_instant(self._random.choice(MONTH_ENDS))
        assert start_ms is not None
        begins_ms = start_ms - HOURS_BEFORE * HOUR_MS - 60_000
        self._daemon = Daemon(forks, folder, begins_ms - BEFORE_MS, mutant)
        self._sink = Sink(f"{seed} sink", lambda: self._daemon.starts)
        self._books = Books()
        self._crowd = Crowd(seed, self._daemon, self._books)
        self._tally = tally
        self._asking = threading.Thread()
        self._operator = Operator(self._daemon, self._sink, random.Random(f"{seed} operator"))
        self._checks = Checks(self._books, self._sink, tally, self._operator)
        self._history = History(f"{seed} history", self._daemon, self._books, self._checks)
        self._seed = seed
        self._kills = 0
        self._starts = 0

    def run(self, kills: int, done: Callable[[int], None]) -> None:
        """That many kills; stops early where a promise was found broken."""
        self._daemon.config.write_text(configuration(self._sink))
        try:
            with self._sink:
                self._history.lay()
                self._crowd.start()
                serves = False
                try:
                    self._kill(kills, done)
                    self._start()
                    serves = self._serves()
                finally:
                    self._crowd.stop(give_up=not serves)
                self._checks.clients(self._where())
                if not self._tally.broken:
                    self._check_at_rest()
        finally:
            self._daemon.close()
        self._count()

    def _kill(self, kills: int, done: Callable[[int], None]) -> None:
        check_at = CHECK_FIRST
        while self._kills < kills and not self._tally.broken:
            self._start()
            self._end()
            done(self._kills)
            if self._kills >= min(kills, check_at) or self._books.wrong:
                check_at = self._kills + CHECK_EVERY
                self._check_offline()
        if self._tally.broken:
            return
        self._start()
        if self._serves():
            self._check_online()
            self._end_by(signal.SIGKILL)

    # One daemon

    def _start(self) -> None:
        self._sink.drain()
        self._starts += 1
        cold = self._starts % COLD_EVERY == 0
        self._daemon.start(
            post_s=self._random.choice((0.05, 0.3, 10.0)),
            disk_s=self._random.choice((0.0, 0.002, 0.01)),
            cold=cold,
        )

    def _end(self) -> None:
        """Waits for the moment, and ends the daemon then."""
        moments: tuple[Callable[[], bool], ...] = (
            self._while_it_starts,
            self._under_load,
            self._as_a_period_closes,
            self._as_it_posts,
            self._as_it_delivers,
            self._as_it_sends_again,
        )
        [moment] = self._random.choices(moments, self._odds)
        if moment != self._while_it_starts:
            if not self._serves():
                return
            if self._random.random() < 0.15:
                self._reload()
            if self._random.random() < 0.3:
                self._daemon.step_to(self._daemon.now_ms() + 6 * _MINUTE_MS)
        self._tally.seen[moment.__name__.strip("_").replace("_", " ")] += 1
        if not moment():
            self._stop()

    def _serves(self) -> bool:
        """Whether it came to be ready; what did not has been seen to."""
        if self._daemon.wait_ready():
            return True
        self._checks.wrong(f"{self._where()}: it does not start: {self._daemon.tail()}")
        self._daemon.kill()
        return False

    def _stop(self) -> None:
        """By SIGKILL mostly; by SIGTERM; by SIGKILL while it obeys a SIGTERM."""
        [kind] = self._random.choices(("kill", "stop", "stop and kill"), (85, 8, 7))
        # A process that has not come to its signal handlers yet dies of any signal.
        is_early = self._daemon.ready != self._daemon.generation
        began = time.monotonic()
        self._daemon.send(signal.SIGKILL if kind == "kill" else signal.SIGTERM)
        if kind == "stop and kill":
            self._sleep(0.06)
            self._daemon.send(signal.SIGKILL)
        code = self._daemon.wait()
        if code == -signal.SIGKILL:
            self._kills += 1
            return
        self._tally.seen["stops while it starts" if is_early else "stops"] += 1
        if kind == "kill" or not (code == 0 or (is_early and code == -signal.SIGTERM)):
            self._checks.wrong(f"{self._where()}: it ended with {code}: {self._daemon.tail()}")
        if time.monotonic() - began > STOP_S:
            self._checks.wrong(f"{self._where()}: a stop took over {STOP_S} s")

    def _reload(self) -> None:
        before = self._daemon.said("configuration reloaded")
        self._daemon.send(signal.SIGHUP)
        deadline = time.monotonic() + 10
        while self._daemon.said("configuration reloaded") == before:
            if time.monotonic() > deadline:
                self._checks.wrong(f"{self._where()}: SIGHUP was not heard: {self._daemon.tail()}")
                return
            time.sleep(0.002)
        self._tally.seen["SIGHUP"] += 1

    # When it ends; True where it has been killed already.

    def _while_it_starts(self) -> bool:
        self._sleep(_START_S)
        return False

    def _under_load(self) -> bool:
        self._sleep(0.3)
        return False

    def _as_a_period_closes(self) -> bool:
        lead_ms = self._random.randrange(60)
        self._daemon.step_to(self._daemon.next_hour_ms() + GRACE_MS - lead_ms)
        self._sleep(0.12)
        return False

    def _as_it_posts(self) -> bool:
        if self._random.random() < 0.5:
            method, path = "POST", "/aggregations/trigger"
        else:
            method, path = "GET", f"/events?limit=1&customerId={self._random.choice(CUSTOMERS)}"
        threading.Thread(target=self._daemon.ask, args=(method, path), daemon=True).start()
        self._sleep(0.02)
        return False

    def _as_it_delivers(self) -> bool:
        """While the receiver has a request and has not answered it, or just after."""
        return self._at_an_arrival(
            lambda: self._daemon.step_to(self._daemon.next_hour_ms() + GRACE_MS)
        )

    def _as_it_sends_again(self) -> bool:
        """While an operator asks for it, or a receiver has what was asked for; perhaps beside what
        closes.
        """
        if self._random.random() < 0.5:
            self._daemon.step_to(self._daemon.next_hour_ms() + GRACE_MS)
        if self._asking.ident is not None:
            self._asking.join()
        self._asking = threading.Thread(target=self._ask_some, args=(self._random.randrange(1, 5),))
        if self._random.random() < 0.6:
            return self._at_an_arrival(self._asking.start)
        self._asking.start()
        self._sleep(0.05)
        return False

    def _ask_some(self, times: int) -> None:
        for _ in range(times):
            self._operator.ask()

    def _at_an_arrival(self, begin: Callable[[], object]) -> bool:
        at, before_answer = self._random.randrange(1, 8), self._random.random() < 0.5
        reached = threading.Event()
        numbers = count(1)

        def arrived() -> None:
            if next(numbers) == at:
                if before_answer:
                    self._daemon.send(signal.SIGKILL)
                reached.set()

        self._sink.tell(arrived)
        begin()
        reached.wait(1.0)
        self._sink.tell(None)
        if not (reached.is_set() and before_answer):
            return False
        assert self._daemon.wait() == -signal.SIGKILL
        self._kills += 1
        return True

    def _sleep(self, at_most_s: float) -> None:
        time.sleep(self._random.random() * at_most_s)

    # What came of it

    def _check_offline(self, *, at_end: bool = False) -> None:
        acknowledged, voided = self._books.acknowledged.copy(), self._books.voided.copy()
        where = f"{self._where()}, offline"
        contents = self._history.completed(read_offline(self._daemon.data), where)
        self._history.prove(where)
        self._checks.events(contents.events, acknowledged, where)
        self._checks.voids(contents.events, voided, where)
        self._checks.aggregations(contents, where, all_closed=at_end)
        self._checks.webhooks(contents, where, all_arrived=at_end)
        self._checks.thresholds(contents, where, all_told=at_end)
        self._checks.clients(where)
        if at_end:
            self._checks.verify(self._daemon.data, where)
            if not self._history.gone:
                self._checks.wrong(f"{where}: nothing was pruned")
            outbox = contents.outbox
            self._tally.seen["webhooks"] += len(outbox.deliveries)
            self._tally.seen["batches"] += len(outbox.batches)
            self._tally.seen["revisions"] += len(contents.superseded)
            self._tally.seen["thresholds"] += sum(
                delivery.threshold is not None for delivery in outbox.deliveries.values()
            )
            self._tally.seen["parked"] += sum(
                delivery.status is DeliveryStatus.PARKED for delivery in outbox.deliveries.values()
            )

    def _check_online(self, *, at_rest: bool = False, all_closed: bool = False) -> Contents:
        acknowledged, voided = self._books.acknowledged.copy(), self._books.voided.copy()
        where = f"{self._where()}, online"
        contents = self._history.completed(read_online(self._daemon), where)
        self._checks.events(contents.events, acknowledged, where)
        self._checks.voids(contents.events, voided, where)
        self._checks.clients(where)
        if at_rest:  # while events come, the two listings are of two moments
            self._checks.aggregations(contents, where, all_closed=all_closed, snapshots=True)
        return contents

    def _check_at_rest(self) -> None:
        """Nobody sends any more: what runs is shown, then everything ends and is delivered."""
        if self._asking.ident is not None:
            self._asking.join()
        self._daemon.trigger()
        contents = self._check_online(at_rest=True)
        ended = {
            (document["period"], document["periodKey"])
            for document in contents.aggregations
            if document["status"] == "closed"
        }
        self._tally.seen.update(f"{period} ends" for period, _ in ended)
        self._sink.is_well = True
        self._daemon.step_to(self._daemon.now_ms() + LONG_AFTER_MS)
        self._daemon.trigger()
        to_tell = set(reached(contents.events))
        deadline = time.monotonic() + DELIVERED_S
        while not is_delivered(self._daemon, self._sink, to_tell) and time.monotonic() < deadline:
            time.sleep(0.05)
        self._check_online(at_rest=True, all_closed=True)
        self._end_by(signal.SIGTERM)
        self._check_offline(at_end=True)

    def _end_by(self, number: signal.Signals) -> None:
        self._daemon.send(number)
        code = self._daemon.wait()
        if code != (0 if number == signal.SIGTERM else -number):
            self._checks.wrong(f"{self._where()}: it ended with {code}: {self._daemon.tail()}")

    def _count(self) -> None:
        seen = self._tally.seen
        self._tally.done += self._kills
        self._tally.acknowledged += len(self._books.acknowledged)
        seen["starts"] += self._starts
        seen["pruned"] += self._history.gone
        seen["proofs of what is pruned"] += self._history.proved
        for what in (
            "unanswered or 5xx",
            "found stored when repeated",
            "conflicts",
            "voids",
            "found void when repeated",
        ):
            seen[what] += self._books.total(what)
        seen["arrivals"] += sum(map(len, self._sink.arrivals.values()))
        seen["repeated webhooks"] += sum(len(came) > 1 for came in self._sink.arrivals.values())
        seen.update(self._operator.counts)
        seen["arrivals cut short"] += self._sink.cut_short

    def _where(self) -> str:
        return f"life {self._seed}, {self._kills} kills"
