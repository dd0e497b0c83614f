"""A whole daemon and all that is around it, on trio's mock clock and from one seed.

Everything that is left to chance, the order in which trio runs tasks included, comes from the seed:
so the same seed is the same world, to the byte of its trace.
"""

from __future__ import annotations

import gc
import shutil
from contextlib import contextmanager
from random import Random
from typing import TYPE_CHECKING, Any, Final

import structlog
import trio
import trio._core._run
import trio.testing

from meterd.daemon import listening
from meterd.domain.errors import CommitFailedError, DiskFullError, StoreError
from meterd.domain.periods import DAY_MS
from meterd.embedded import queries
from meterd.embedded.store import Store
from meterd.embedded.verification import verify
from meterd.ledger import AggregationQuery, EventQuery
from tests.fake_clock import ms
from tests.simulation.books import BrokenPromiseError
from tests.simulation.clients import Clients
from tests.simulation.clock import VirtualClock
from tests.simulation.disk import MAP_SIZE, Disk, PowerCutError
from tests.simulation.machine import SimulatedMachine
from tests.simulation.network import Network
from tests.simulation.operators import Operators
from tests.simulation.oracle import Oracle
from tests.simulation.receivers import Receivers
from tests.simulation.trace import Trace
from tests.simulation.weather import BILLING, GRACES_MS, KEPT_MS, Weather, first_config

if TYPE_CHECKING:
    from collections.abc import Iterator, MutableMapping
    from pathlib import Path

    from meterd.daemon import Daemon
    from meterd.domain.aggregations import Aggregation
    from meterd.domain.config import Config
    from meterd.domain.periods import Period

# Leap years, years with a week 53, and others.
_YEARS: Final = (2020, 2024, 2026, 2027, 2028, 2032, 2037)
YEAR_DAYS: Final = 366
# How long something may take that is to happen at once, on a daemon that nothing is wrong with.
_AT_ONCE_S: Final = 120.0
# As long as a receiver of the simulated network asks for a rest, and some.
_REST_S: Final = 7200 + 1800.0
# How many times as long those wait who come, from one thing they do to the next.
_EASES: Final = (1, 4, 16)
# A stop may take 10 s.
_STOP_S: Final = 10.5
# Every attempt that a delivery has is made within 4 days.
_DRAINED_S: Final = 5 * 86400
_ALL: Final = 10_000_000


class World:
    """``run`` it once."""

    def __init__(self, seed: int, folder: Path, days: float, *, keep: bool = False) -> None:
        self._seed = seed
        self._folder = folder / "data"
        self._days = days
        random = self._random("start")
        year = random.choice(_YEARS)
        # In the summer before, so that a year of it has its leap day, the end of the one before,
        # and some months behind that in which events of it may go.
        start_ms = ms(f"{year - 1}-07-01T00:00:00Z") + random.randrange(50 * DAY_MS)
        if days < 300:  # or less, around the end of February or of the year
            near = random.choice((f"{year}-02-29T00:00:00Z", f"{year}-12-31T12:00:00Z"))
            start_ms = ms(near.replace("-02-29", "-02-28")) if "-02-" in near else ms(near)
            start_ms -= int(days / 2 * DAY_MS)
        # In a quiet world little comes by to wake up who should have woken up by itself.
        ease = random.choice(_EASES)
        self.trace = Trace(keep=keep)
        self.clock = VirtualClock(start_ms, self._random("clock"))
        self.oracle = Oracle(self.clock, self.trace)
        self.disk = Disk(self._random("disk"), self.oracle.committed)
        self.disk.cut_power = self.cut_power
        self.disk.happened = self.trace.count
        self.network = Network()
        self.receivers = Receivers(
            self.clock, self._random("receivers"), self.oracle.parcels, self.trace
        )
        self.clients = Clients(
            self.clock,
            self.network,
            self._random("clients"),
            self.oracle,
            self.trace,
            ease,
        )
        self.operators = Operators(
            self.clock, self._random("operators"), self.oracle, self.trace, self.clients.ask, ease
        )
        self.machine = SimulatedMachine(
            self.disk, self.network, self._random("machine"), self.receivers.sender
        )
        self.weather = Weather(
            self, self.disk, self.clock, self.receivers, self._random("weather"), self.trace
        )
        self.weather.hurry = self.clients.hurry
        self.config = first_config(self._folder, random.choice(GRACES_MS), random.choice(KEPT_MS))
        self._pauses = self._random("pauses")
        self._daemon: Daemon | None = None
        self._life = trio.CancelScope()
        self._stop = trio.Event()
        self._is_ending = False
        self._well_since = self._configured_at = 0.0

    def _random(self, part: str) -> Random:
        return Random(f"{self._seed} {part}")

    def run(self) -> None:
        """Raises BrokenPromiseError, and whatever breaks in the daemon."""
        core = trio._core._run
        before = core._ALLOW_DETERMINISTIC_SCHEDULING
        core._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
        core._r.seed(self._seed)
        thresholds = gc.get_threshold()
        gc.set_threshold(50_000, 20, 50)  # the books grow, and hold nothing to be collected
        try:
            with self._listening_to_the_log():
                trio.run(self._main, clock=trio.testing.MockClock(autojump_threshold=0))
            self._read_all()
        except BaseExceptionGroup as group:
            raise _first(group) from group
        finally:
            gc.set_threshold(*thresholds)
            core._ALLOW_DETERMINISTIC_SCHEDULING = before  # type: ignore[misc]
            shutil.rmtree(self._folder, ignore_errors=True)

    # What weather does

    def cut_power(self) -> None:
        """See ``weather.Machine``. Nothing that is not on disk is ever heard of again."""
        self.disk.has_power = False
        self.network.cut()
        self._life.cancel()

    def stop(self) -> None:
        """See ``weather.Machine``."""
        self._stop.set()

    def reconfigure(self, config: Config) -> None:
        """See ``weather.Machine``; while the daemon is down it is for the next one."""
        self.config = config
        self._configured_at = trio.current_time()
        if self._daemon is not None:
            self._daemon.reconfigure(config)
            self.oracle.reconfigured(config)

    # How it goes

    async def _main(self) -> None:
        tasks = trio.lowlevel.current_statistics().tasks_living
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._live)
            async with trio.open_nursery() as troubled:
                troubled.start_soon(self.clients.run)
                troubled.start_soon(self.operators.run)
                troubled.start_soon(self.weather.run)
                troubled.start_soon(self._look_regularly)
                await trio.sleep(self._days * 86400)
                troubled.cancel_scope.cancel()
            self.reconfigure(self.weather.clear())
            await self._drain()
            self._is_ending = True
            self._stop.set()
        if (left := trio.lowlevel.current_statistics().tasks_living) != tasks:
            raise BrokenPromiseError("wrong", f"{left - tasks} tasks are left")

    async def _live(self) -> None:
        """One daemon after another."""
        while not self._is_ending:
            self.disk.has_power, self.disk.was_bad = True, False
            self._life, self._stop = trio.CancelScope(), trio.Event()
            try:
                with self._life:
                    await self._serve()
            except* PowerCutError:
                pass
            except* CommitFailedError:
                self.trace.count("exit 70")
            except* (StoreError, DiskFullError) as refused:
                if not self.disk.was_bad:
                    raise
                self.trace.count("start refused")
                del refused
            self._daemon = None
            self.network.cut()
            self.disk.disarm()
            if not self._is_ending:
                await trio.sleep(self._pauses.choice((0.1, 2, 2, 30, 600, 7200, 200_000)))

    async def _serve(self) -> None:
        self.trace.count("start")
        self._well_since = trio.current_time()
        config = self.config
        self.oracle.started(config)
        async with listening(config, self.clock, self.machine) as daemon:
            self._daemon = daemon
            if self.config is not config:
                self.reconfigure(self.config)
            await self._stop.wait()
            self._daemon = None
            stopping_at = trio.current_time()
        took_s = trio.current_time() - stopping_at
        self.trace.add(f"stopped in {took_s:.3f}")
        if took_s > _STOP_S and self._is_well():
            raise BrokenPromiseError("wrong", f"a stop took {took_s} s")

    def _is_well(self, for_s: float = _AT_ONCE_S) -> bool:
        """Nothing has kept it for so long from doing at once what is to be done."""
        daemon = self._daemon
        is_up = daemon is not None and daemon.started.is_set()
        if not is_up or self.disk.is_full or self.disk.slowest_s > 1:
            self._well_since = trio.current_time()
        # A step of the clock makes things due that nobody has noticed yet.
        since = max(self._well_since, self.clock.stepped_at_s)
        return trio.current_time() - since > for_s

    async def _look_regularly(self) -> None:
        """Whether what is to happen by itself happens."""
        while True:
            await trio.sleep(self._pauses.uniform(600, 7200))
            if self._is_well():
                self._require_closed()
                self._require_revised()
                self._require_told()
                self._require_delivered()
            if self._is_well(_REST_S) and trio.current_time() - self._configured_at > _REST_S:
                self._require_tried()

    def _require_closed(self) -> None:
        period = self.oracle.overdue(int(_AT_ONCE_S * 1000))
        if period is not None:
            raise BrokenPromiseError("lost", f"{period.type} {period.key} does not close")

    def _require_revised(self) -> None:
        """What is published of closed periods says what came late, and was taken back."""
        place = self.oracle.publications.overdue(int(_AT_ONCE_S * 1000))
        if place is not None:
            raise BrokenPromiseError("lost", f"{place} is late, and is not revised")

    def _require_told(self) -> None:
        told = self.oracle.tellings.untold(_AT_ONCE_S)
        if told is not None:
            raise BrokenPromiseError("lost", f"{told} is reached, and nobody is told")

    def _require_delivered(self) -> None:
        """The healthy receiver has what is due since two minutes."""
        due_ms = self.clock.now_ms() - int(_AT_ONCE_S * 1000)
        delivery = self.oracle.parcels.unsent(BILLING.id, due_ms)
        if delivery is not None:
            raise BrokenPromiseError("lost", f"{delivery} is not sent")

    def _require_tried(self) -> None:
        """Nobody is forgotten whom something waits for, whether the receiver is well or not."""
        since_ms = self.clock.now_ms() - int(_REST_S * 1000)
        for endpoint in self.config.webhooks:
            neglected = self.oracle.parcels.neglected(endpoint.id, since_ms)
            if neglected is not None:
                raise BrokenPromiseError("lost", f"{neglected} is due, and nobody tries")

    async def _drain(self) -> None:
        """Until all that was closed is delivered or parked."""
        self.trace.add("the weather is fine")
        parcels = self.oracle.parcels
        with trio.move_on_after(_DRAINED_S):
            for endpoint in self.config.webhooks:
                while parcels.is_disabled(endpoint.id):
                    if not await self.operators.enable(endpoint.id):
                        await trio.sleep(600)
            while parcels.pending or self._daemon is None:  # noqa: ASYNC110 - for days
                await trio.sleep(600)
        if parcels.pending:
            name = min(parcels.pending)
            raise BrokenPromiseError("lost", f"{parcels.shown(name)} never arrives")
        self._require_closed()
        self._require_revised()
        self._require_told()
        self.clients.answers.require_refused()

    def _read_all(self) -> None:
        """What a reader finds at the end is what was seen going in, and meterd's own check agrees:
        of digests the books know nothing.
        """
        for difference in verify(self._folder):
            raise BrokenPromiseError("wrong", f"meterd verify: {difference}")
        store = Store(self._folder, map_size=MAP_SIZE)
        try:
            with store.read() as txn:
                log = queries.read_events(txn, store.parts, EventQuery(), _ALL, None)
                made = queries.read_aggregations(txn, store.parts, AggregationQuery(), _ALL, None)
                reached = txn.count("reached")
        finally:
            store.close()
        books = self.oracle.books
        kept = [entry.id for entry in books.log[books.pruned :]]
        if [one.id for one in reversed(log)] != kept:
            raise BrokenPromiseError("lost", f"{len(log)} events are read, {len(kept)} are kept")
        voids = {name: books.voids[name] for name in kept if name in books.voids}
        if {one.id: one.void for one in log if one.void} != voids:
            raise BrokenPromiseError("lost", "what is void is not what it was")
        if reached != len(self.oracle.tellings.told):
            raise BrokenPromiseError("lost", f"{reached} thresholds are not all that were told")
        closed: dict[tuple[str, Period], Aggregation] = {}
        for found in made:
            if found.aggregation.closed:
                closed[found.aggregation.customer_id, found.aggregation.period] = found.aggregation
                if any(self.oracle.parcels.shown(one.id) != one for one in found.deliveries):
                    raise BrokenPromiseError("wrong", f"deliveries of {found.aggregation.id}")
        if closed != self.oracle.publications.closed:
            raise BrokenPromiseError("lost", "closed aggregations are not what they were")

    @contextmanager
    def _listening_to_the_log(self) -> Iterator[None]:
        """What meterd takes for a mistake of its own is one."""
        before = structlog.get_config()
        structlog.configure(
            processors=[self._logged],
            logger_factory=structlog.ReturnLoggerFactory(),
            wrapper_class=structlog.make_filtering_bound_logger(40),
        )
        try:
            yield
        finally:
            structlog.configure(**before)

    def _logged(
        self, logger: object, method: str, entry: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        if entry["event"] in ("request failed", "connection failed"):
            raise BrokenPromiseError("wrong", f"{entry}") from entry.get("exc_info")
        return entry


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The broken promise among what ended together, or any other."""
    leaves = list(_leaves(group))
    broken = [one for one in leaves if isinstance(one, BrokenPromiseError)]
    return (broken or leaves)[0]


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for one in group.exceptions:
        if isinstance(one, BaseExceptionGroup):
            yield from _leaves(one)
        else:
            yield one
