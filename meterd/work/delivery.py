"""Sends what the outbox holds: one worker for each enabled endpoint.

Actors because endpoints fail each on its own, and a dead one must hold up nobody. Workers know
nothing of each other; all of a delivery's state is in the ledger, so a restart goes on where the
last process stopped.
"""

from __future__ import annotations

import secrets
from collections import Counter
from typing import TYPE_CHECKING, Final

import structlog
import trio

from meterd.domain.counts import AttemptCounts
from meterd.work.endpoint_worker import EndpointWorker
from meterd.work.surroundings import Surroundings

if TYPE_CHECKING:
    from collections.abc import Callable

    from meterd.domain.config import Config
    from meterd.ledger import Ledger
    from meterd.work.clock import Clock
    from meterd.work.surroundings import OpenSender


# How often the log of attempts is held against its limits: an idle daemon sleeps, a busy one makes
# a few MB of log until then.
_FORGET_SECONDS: Final = 3600.0
_FORGET_EACH: Final = 1000
_CATCH_UP_TIMES: Final = 4
# A portion takes some 10 ms, but an hour where the disk was full for one.
_MADE_S_MAX: Final = 0.25
# For so many portions: a close then takes a quarter longer.
_LEFT_OUT: Final = 16
_log = structlog.get_logger("delivery")
# Whoever switches one on is to learn what does not come by itself.
_ON: Final = (
    "endpoint is on: it gets what closes from now on; what closed before is sent by meterd"
    " deliveries replay --endpoint ID --since INSTANT"
)


class DeliveryActor:
    """The workers of all enabled endpoints; ``reconfigure`` starts and ends them."""

    def __init__(
        self,
        ledger: Ledger,
        clock: Clock,
        config: Callable[[], Config],
        open_sender: OpenSender,
        user_agent: str,
        below: Callable[[int], int] = secrets.randbelow,
    ) -> None:
        """``below`` gives a random number less than that one."""
        self.counts = AttemptCounts()
        self._around = Surroundings(
            ledger, clock, config, user_agent, below, self._settled, {}, self.counts
        )
        self._open_sender = open_sender
        self._workers: dict[str, EndpointWorker] = {}
        self._nursery: trio.Nursery | None = None
        self._has_begun = False
        self._shutting_down = trio.Event()
        self._forgetting = trio.CancelScope()
        self._settled_since = 0
        self._has_grown = trio.Event()
        self._lagging = trio.lowlevel.ParkingLot()
        self._left_out = Counter[EndpointWorker]()

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Until ``begin_shutdown``, and then until the attempts in the air are settled.

        Cancelled, it gives them up; the next start makes them again.
        """
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self.reconfigure()
            nursery.start_soon(self._forget_attempts)
            task_status.started()
            await self._shutting_down.wait()
            self._forgetting.cancel()
            for worker in self._workers.values():
                worker.retire()

    def _settled(self, endpoint_id: str, attempts: int) -> None:
        """Perhaps by a worker that has retired meanwhile."""
        self._settled_since += attempts
        if self._settled_since >= _FORGET_EACH:
            self._has_grown.set()
        self._lagging.unpark_all()
        if (worker := self._workers.get(endpoint_id)) is not None:
            worker.wake()

    async def catch_up(self, made: int, made_s: float) -> None:
        """Lets single posts keep step with who makes them: the last for so many customers, in that
        time.

        Returns when none waits but where receivers take longer than that, or after four times as
        long. Made all at once, the first would wait behind the making of the last, and all would
        come later: whoever makes them and whoever sends them are on one core. Where it is a
        receiver that takes its time, not half as many arrive by then, and it is left out a while.
        """
        made_s = min(made_s, _MADE_S_MAX)
        waited_for = [worker for worker in self._workers.values() if not self._left_out[worker]]
        self._left_out -= Counter(dict.fromkeys(self._workers.values(), 1))
        before = {worker: worker.statistics.attempts for worker in waited_for}
        until_s = trio.current_time() + _CATCH_UP_TIMES * made_s
        while lagging := [worker for worker in waited_for if worker.lags(made_s)]:
            wait_s = min(made_s, until_s - trio.current_time())
            if wait_s <= 0:
                for worker in lagging:
                    if 2 * (worker.statistics.attempts - before[worker]) < made:
                        self._left_out[worker] = _LEFT_OUT
                return
            with trio.move_on_after(wait_s):
                await self._lagging.park()

    async def _forget_attempts(self) -> None:
        """Keeps the log of attempts within its limits."""
        ledger, clock = self._around.ledger, self._around.clock
        with self._forgetting:
            while True:
                storage = self._around.config().storage
                while await ledger.prune_attempts(
                    before_ms=clock.now_ms() - storage.attempts_kept_ms,
                    bytes_max=storage.attempts_mib << 20,
                ):
                    pass
                self._settled_since, self._has_grown = 0, trio.Event()
                with trio.move_on_after(_FORGET_SECONDS):
                    await self._has_grown.wait()

    def begin_shutdown(self) -> None:
        """Begins no more attempts."""
        self._shutting_down.set()

    def reconfigure(self) -> None:
        """Brings the workers in line with the configuration. Attempts in the air end in peace."""
        if self._nursery is None:
            return  # it does so when it begins
        endpoints = {e.id: e for e in self._around.config().webhooks if e.enabled}
        if self._has_begun:
            for endpoint_id in endpoints.keys() - self._workers.keys():
                _log.info(_ON, endpoint=endpoint_id)
        self._has_begun = True
        for endpoint_id, worker in list(self._workers.items()):
            endpoint = endpoints.get(endpoint_id)
            if endpoint is None or endpoint.slots != worker.endpoint.slots:
                self._workers.pop(endpoint_id).retire()
        for endpoint_id, endpoint in endpoints.items():
            if endpoint_id in self._workers:
                self._workers[endpoint_id].reconfigure(endpoint)
            else:
                worker = self._workers[endpoint_id] = EndpointWorker(endpoint, self._around)
                self._nursery.start_soon(worker.run, self._open_sender)

    def reconsider(self, endpoint_id: str) -> None:
        """The endpoint's state was changed in the ledger."""
        if (worker := self.worker(endpoint_id)) is not None:
            worker.reconsider()

    def worker(self, endpoint_id: str) -> EndpointWorker | None:
        """Who sends to the endpoint now; None where nobody does."""
        return self._workers.get(endpoint_id)
