"""Sends what the outbox holds: one worker for each endpoint, with its own queue, slots and client.

Actors because endpoints fail each on its own, and a dead one must hold up nobody. A worker claims
due deliveries (from then on the disk says that an attempt has begun), sends each in a slot, and
settles it. Workers know nothing of each other; all of a delivery's state is in the ledger, so a
restart goes on where the last process stopped.
"""

from __future__ import annotations

import secrets
from fractions import Fraction
from typing import TYPE_CHECKING, Final, Protocol

import structlog
import trio

from meterd.domain.deliveries import DeliveryStatus, settle_attempt
from meterd.domain.endpoints import masked_url
from meterd.domain.instants import format_instant
from meterd.domain.outcomes import Outcome
from meterd.domain.signatures import sign

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractAsyncContextManager

    from meterd.domain.config import Config
    from meterd.domain.deliveries import Delivery
    from meterd.domain.endpoints import Endpoint
    from meterd.ledger import Ledger
    from meterd.work.clock import Clock

_log = structlog.get_logger("delivery")

# Attempts in the air to one endpoint: httpx slows down with many, and few receivers take more.
SLOTS: Final = 4
# A jitter's steps; only its spread matters.
_JITTER_STEPS: Final = 1000


class Sender(Protocol):
    """One endpoint's connections."""

    def update(self, endpoint: Endpoint) -> None:
        """The endpoint has been configured anew."""

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Outcome:
        """Posts the body. Every failure of the receiver or the way to it is an Outcome, none
        raises.
        """


class OpenSender(Protocol):
    """Opens an endpoint's connections, and closes them at the end of the ``async with``."""

    def __call__(
        self, endpoint: Endpoint, *, connections_max: int
    ) -> AbstractAsyncContextManager[Sender]: ...


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
        self._ledger = ledger
        self._clock = clock
        self._config = config
        self._open_sender = open_sender
        self._user_agent = user_agent
        self._below = below
        self._workers: dict[str, _Worker] = {}
        self._nursery: trio.Nursery | None = None
        self._shutting_down = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Until ``begin_shutdown``, and then until the attempts in the air are settled.

        Cancelled, it gives them up; they are made again when their lease is over.
        """
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self.reconfigure()
            task_status.started()
            await self._shutting_down.wait()
            for worker in self._workers.values():
                worker.retire()

    def begin_shutdown(self) -> None:
        """Begins no more attempts."""
        self._shutting_down.set()

    def reconfigure(self) -> None:
        """Brings the workers in line with the configuration. Attempts in the air end in peace."""
        if self._nursery is None:
            return  # it does so when it begins
        endpoints = {e.id: e for e in self._config().webhooks if e.enabled}
        for endpoint_id in self._workers.keys() - endpoints.keys():
            self._workers.pop(endpoint_id).retire()
        for endpoint_id, endpoint in endpoints.items():
            worker = self._workers.get(endpoint_id)
            if worker is None:
                self._workers[endpoint_id] = worker = _Worker(
                    self._ledger,
                    self._clock,
                    self._config,
                    endpoint,
                    self._user_agent,
                    self._below,
                )
                self._nursery.start_soon(worker.run, self._open_sender)
            worker.endpoint = endpoint


class _Worker:
    """One endpoint's deliveries."""

    def __init__(
        self,
        ledger: Ledger,
        clock: Clock,
        config: Callable[[], Config],
        endpoint: Endpoint,
        user_agent: str,
        below: Callable[[int], int],
    ) -> None:
        self.endpoint = endpoint
        self._ledger = ledger
        self._clock = clock
        self._config = config
        self._user_agent = user_agent
        self._below = below
        self._free = SLOTS
        self._retired = False
        self._pause = trio.CancelScope()

    async def run(self, open_sender: OpenSender) -> None:
        async with (
            open_sender(self.endpoint, connections_max=SLOTS) as sender,
            trio.open_nursery() as nursery,
        ):
            while not self._retired:
                await self._claim(sender, nursery)

    def retire(self) -> None:
        """Claims no more; ``run`` returns when the attempts in the air have been settled."""
        self._retired = True
        self._pause.cancel()

    async def _claim(self, sender: Sender, nursery: trio.Nursery) -> None:
        """Begins what is due, and waits until there may be more to begin."""
        # Whoever has news cancels it: before it is entered, too, since a claim takes its time.
        pause = self._pause = trio.CancelScope()
        made = self._ledger.deliveries_made()
        # ``retire`` does not cut it: what is claimed must be sent, or it comes due again only after
        # its lease. No shield, because a ledger that has failed never answers.
        claim = await self._ledger.claim(self.endpoint.id, limit=self._free)
        for delivery in claim.deliveries:
            self._free -= 1
            nursery.start_soon(self._attempt, sender, delivery)
        with pause:
            if not self._free:
                await trio.sleep_forever()
            elif not claim.deliveries:
                await self._wait(made, claim.next_due_ms)

    async def _wait(self, made: int, next_due_ms: int | None) -> None:
        """Returns when there are new deliveries, or the next one comes due."""
        async with trio.open_nursery() as nursery:

            async def wait_new() -> None:
                await self._ledger.wait_deliveries_made(made)
                nursery.cancel_scope.cancel()

            nursery.start_soon(wait_new)
            if next_due_ms is not None:
                await self._clock.wait_until(next_due_ms)
                nursery.cancel_scope.cancel()

    async def _attempt(self, sender: Sender, delivery: Delivery) -> None:
        outcome = await self._send(sender, delivery)
        jitter = Fraction(self._below(2 * _JITTER_STEPS + 1) - _JITTER_STEPS, _JITTER_STEPS)
        settled = settle_attempt(delivery, outcome, self._clock.now_ms(), jitter)
        await self._ledger.settle([settled])
        self._free += 1
        # A slot is free; and after a failure the delivery comes due before its lease ends.
        self._pause.cancel()
        _tell(settled, outcome)

    async def _send(self, sender: Sender, delivery: Delivery) -> Outcome:
        timestamp_s = self._clock.now_ms() // 1000
        headers = {
            "Content-Type": "application/json",
            "User-Agent": self._user_agent,
            **sign(
                delivery.body,
                message_id=delivery.id,
                timestamp_s=timestamp_s,
                secrets=self.endpoint.secrets,
            ),
        }
        if not self._config().dry_run:
            sender.update(self.endpoint)
            return await sender.post(self.endpoint.url, headers, delivery.body)
        _log.info(
            "dry run: this would be sent",
            url=masked_url(self.endpoint.url),
            headers=headers,
            payload=delivery.body.decode(),
        )
        return Outcome(dry_run=True)


def _tell(settled: Delivery, outcome: Outcome) -> None:
    log = _log.bind(endpoint=settled.endpoint_id, delivery=settled.id, attempt=settled.attempts)
    if settled.status is DeliveryStatus.DELIVERED:
        log.info("delivered", dry_run=outcome.dry_run)
    elif settled.status is DeliveryStatus.PARKED:
        log.error("delivery parked: every attempt failed", error=outcome.error)
    else:
        log.warning(
            "attempt failed",
            error=outcome.error,
            next=format_instant(settled.next_attempt_ms),
        )
