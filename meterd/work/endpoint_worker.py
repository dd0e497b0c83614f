"""One endpoint's deliveries: an actor with its own queue, slots, connections, breaker and counts.

It claims due deliveries (from then on the disk says that an attempt has begun), somewhat more than
it has slots, so that a slot never waits for the disk; sends each in a slot; and settles it. What
was claimed and is not to be sent any more, since the endpoint is paused or the worker retires, is
given back as if it had never begun. All that must last is in the ledger.
"""

from __future__ import annotations

import hashlib
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

import msgspec
import structlog
import trio

from meterd.domain.breaker import Breaker
from meterd.domain.deliveries import (
    Attempt,
    DeliveryStatus,
    pause_asked,
    settle_attempt,
    withdrawn,
)
from meterd.domain.endpoint_states import disabled, paused
from meterd.domain.endpoints import masked_url
from meterd.domain.instants import format_instant
from meterd.domain.outcomes import REST_AFTER_CUT_MS, Outcome
from meterd.domain.probes import ID_LIMIT, probe
from meterd.domain.signatures import sign
from meterd.domain.statistics import Statistics

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractAsyncContextManager

    from meterd.domain.config import Config
    from meterd.domain.deliveries import Delivery
    from meterd.domain.endpoint_states import EndpointState
    from meterd.domain.endpoints import Endpoint
    from meterd.ledger import Ledger
    from meterd.work.clock import Clock

_log = structlog.get_logger("delivery")

# So many are begun for each slot: one is sent, one comes from the disk, one goes to it.
_BEGUN_FOR_EACH_SLOT: Final = 4
# A test is not to wait behind deliveries to a receiver that hangs.
_FOR_PROBES: Final = 1
# A jitter's steps; only its spread matters.
_JITTER_STEPS: Final = 1000


class Sender(Protocol):
    """One endpoint's connections."""

    def update(self, endpoint: Endpoint) -> None:
        """The endpoint has been configured anew."""

    async def post(
        self, url: str, headers: Mapping[str, str], body: bytes, *, deadline_s: float
    ) -> Outcome:
        """Posts the body, and gives up at the deadline. Every failure of the receiver or the way
        to it is an Outcome, none raises.
        """


class OpenSender(Protocol):
    """Opens an endpoint's connections, and closes them at the end of the ``async with``."""

    def __call__(
        self, endpoint: Endpoint, *, connections_max: int
    ) -> AbstractAsyncContextManager[Sender]: ...


class Surroundings(NamedTuple):
    """What all workers have in common; ``below`` gives a random number less than that one, and
    ``settled`` is told which endpoint's deliveries have been, after how many attempts.
    """

    ledger: Ledger
    clock: Clock
    config: Callable[[], Config]
    user_agent: str
    below: Callable[[int], int]
    settled: Callable[[str, int], None]


class _Wakes(NamedTuple):
    """What a worker that has nothing to begin waits for, beside news: whichever comes first."""

    on_new: bool = True
    at_ms: int | None = None


class _Group:
    """Deliveries that are settled in one transaction."""

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []
        self.attempts: list[Attempt] = []
        self.settled = trio.Event()


class EndpointWorker:
    """``run`` it. Two workers of one endpoint do each other no harm: one may be retiring."""

    def __init__(self, endpoint: Endpoint, around: Surroundings) -> None:
        self._around = around
        self._ledger = around.ledger
        self._clock = around.clock
        self._endpoint = endpoint
        self._breaker = Breaker()
        self._slots = trio.CapacityLimiter(endpoint.slots)
        self._begun = 0
        self._settling = _Group()
        self._settling_last = trio.Lock()
        self._held_until_ms = 0
        # None while that is to be read from the ledger.
        self._is_disabled: bool | None = None
        self._is_retired = False
        self._pause = trio.CancelScope()
        self._waiting: set[trio.CancelScope] = set()
        self._sender: Sender | None = None
        self._opened = trio.Event()
        self._probing = trio.Lock()
        self.statistics = Statistics()

    @property
    def endpoint(self) -> Endpoint:
        return self._endpoint

    @property
    def in_air(self) -> int:
        """Attempts that are being made."""
        return self._slots.borrowed_tokens

    @property
    def is_failing(self) -> bool:
        """Whether the endpoint gets one attempt at a time, and pauses between them."""
        return self._breaker.is_open

    async def probe(self) -> tuple[Delivery, Attempt]:
        """Sends a test message at once, whatever else waits or keeps the endpoint from getting any.

        What comes of it changes nothing.
        """
        async with self._probing:  # there is a connection for one
            await self._opened.wait()
            assert self._sender is not None
            message = probe(self._endpoint.id, self._around.below(ID_LIMIT), self._clock.now_ms())
            _, attempt = await self._send(self._sender, message)
            return message, attempt

    def reconfigure(self, endpoint: Endpoint) -> None:
        """From now on it is this one; attempts in the air end in peace."""
        assert endpoint.slots == self._endpoint.slots, "connections are opened once"
        self._endpoint = endpoint
        self.reconsider()

    def reconsider(self) -> None:
        """The endpoint's state has been changed by somebody else."""
        self._is_disabled = None
        self._held_until_ms = 0
        self._pause.cancel()

    def wake(self) -> None:
        """Something may have come due."""
        self._pause.cancel()

    def retire(self) -> None:
        """Claims no more; ``run`` returns when the attempts in the air have been settled."""
        self._is_retired = True
        self._give_back()
        self._pause.cancel()

    async def run(self, open_sender: OpenSender) -> None:
        async with (
            open_sender(
                self._endpoint, connections_max=self._endpoint.slots + _FOR_PROBES
            ) as sender,
            trio.open_nursery() as nursery,
        ):
            self._sender = sender
            self._opened.set()
            while not self._is_retired:
                await self._turn(sender, nursery)

    async def _turn(self, sender: Sender, nursery: trio.Nursery) -> None:
        """Begins what is due, and waits until there may be more to begin."""
        # Whoever has news cancels it: before it is entered, too, since a claim takes its time.
        pause = self._pause = trio.CancelScope()
        made = self._ledger.deliveries_made()
        # ``retire`` does not cut it: what is claimed must be settled. No shield, because a ledger
        # that has failed never answers.
        wakes = await self._begin(sender, nursery)
        with pause:
            await self._wait(made, wakes)

    async def _begin(self, sender: Sender, nursery: trio.Nursery) -> _Wakes:
        if self._is_disabled is None:
            state = await self._ledger.endpoint_state(self._endpoint.id)
            self._is_disabled = state.is_disabled(self._endpoint.url)
        if self._is_disabled:
            return _Wakes(on_new=False)
        if self._held_until_ms > self._clock.now_ms():
            return _Wakes(on_new=False, at_ms=self._held_until_ms)
        slots = 1 if self._breaker.is_open else self._endpoint.slots
        begun_max = 1 if self._breaker.is_open else slots * _BEGUN_FOR_EACH_SLOT
        room = begun_max - self._begun
        if 2 * room < begun_max:  # a claim is a transaction: it is to be worth it
            return _Wakes(on_new=False)
        claim = await self._ledger.claim(self._endpoint.id, limit=room, batch=self._endpoint.batch)
        for delivery in claim.deliveries:
            self._begun += 1
            nursery.start_soon(self._attempt, sender, delivery)
        if claim.deliveries:
            return _Wakes(at_ms=self._clock.now_ms())
        return _Wakes(at_ms=claim.next_due_ms)

    async def _wait(self, made: int, wakes: _Wakes) -> None:
        if wakes.at_ms is None and not wakes.on_new:
            await trio.sleep_forever()
        async with trio.open_nursery() as nursery:

            async def wait_new() -> None:
                await self._ledger.wait_deliveries_made(made)
                nursery.cancel_scope.cancel()

            if wakes.on_new:
                nursery.start_soon(wait_new)
            if wakes.at_ms is not None:
                await self._clock.wait_until(wakes.at_ms)
                nursery.cancel_scope.cancel()

    async def _attempt(self, sender: Sender, delivery: Delivery) -> None:
        if await self._has_slot():
            try:
                outcome, attempt = await self._send(sender, delivery)
                self._note(outcome)  # before the next one has the slot
                if outcome.cut:
                    await self._clock.wait_until(self._clock.now_ms() + REST_AFTER_CUT_MS)
            finally:
                self._slots.release()
            settled = settle_attempt(
                # It was begun when it was claimed, and sent when there was a slot.
                msgspec.structs.replace(delivery, last_attempt_ms=attempt.begun_ms),
                outcome,
                self._clock.now_ms(),
                self._jitter(),
                self._endpoint.schedule_ms,
            )
            self._tell(settled, outcome)
            # First what holds the endpoint, and then what it holds: from a pause on all is due.
            await self._obey(outcome)
            await self._settle(settled, attempt)
        else:
            await self._settle(withdrawn(delivery), None)

    async def _settle(self, delivery: Delivery, attempt: Attempt | None) -> None:
        """With all that ended while the last ones were being settled."""
        group = self._settling
        group.deliveries.append(delivery)
        if attempt is not None:
            group.attempts.append(attempt)
        if len(group.deliveries) > 1:
            await group.settled.wait()
            return
        async with self._settling_last:
            self._settling = _Group()
            await self._ledger.settle(group.deliveries, group.attempts)
        group.settled.set()
        self._begun -= len(group.deliveries)
        # There is room, and what failed or was given back comes due: to whoever is its worker now.
        self.wake()
        self._around.settled(self._endpoint.id, len(group.attempts))

    async def _has_slot(self) -> bool:
        """Once there is one; False where nothing more is to be sent."""
        if self._is_held():
            return False
        with trio.CancelScope() as waiting:
            self._waiting.add(waiting)
            await self._slots.acquire()
        self._waiting.discard(waiting)
        return not waiting.cancelled_caught

    def _is_held(self) -> bool:
        held = self._is_retired or self._is_disabled is True
        return held or self._held_until_ms > self._clock.now_ms()

    def _give_back(self) -> None:
        """What is claimed and has no slot yet is not to be sent."""
        for waiting in self._waiting:
            waiting.cancel()

    def _jitter(self) -> Fraction:
        return Fraction(self._around.below(2 * _JITTER_STEPS + 1) - _JITTER_STEPS, _JITTER_STEPS)

    def _note(self, outcome: Outcome) -> None:
        """At once, so that nothing more is sent where nothing more is to be."""
        now_ms = self._clock.now_ms()
        self.statistics = self.statistics.after(outcome, now_ms)
        pause_ms = pause_asked(outcome, now_ms)
        if pause_ms is None:
            self._trip(failed=outcome.error is not None)
            pause_ms = self._breaker.pause_ms
        self._held_until_ms = max(self._held_until_ms, now_ms + pause_ms)
        self._is_disabled = self._is_disabled or outcome.gone
        if self._is_held():
            self._give_back()

    def _trip(self, *, failed: bool) -> None:
        was_open = self._breaker.is_open
        self._breaker = self._breaker.after(failed=failed)
        if self._breaker.is_open and not was_open:
            _log.warning("endpoint fails: one attempt at a time", endpoint=self._endpoint.id)
        elif was_open and not self._breaker.is_open:
            _log.info("endpoint is back", endpoint=self._endpoint.id)

    async def _obey(self, outcome: Outcome) -> None:
        """What the answer says of the endpoint, kept over restarts."""
        now_ms = self._clock.now_ms()
        pause_ms = pause_asked(outcome, now_ms)
        change: Callable[[EndpointState], EndpointState]
        if pause_ms is not None:
            until_ms = now_ms + pause_ms
            _log.warning(
                "endpoint asks to wait", endpoint=self._endpoint.id, until=format_instant(until_ms)
            )
            change = partial(paused, until_ms=until_ms)
        elif outcome.gone:
            _log.error(
                "endpoint is gone (410) and disabled until its URL changes or it is enabled",
                endpoint=self._endpoint.id,
            )
            change = partial(disabled, url=self._endpoint.url, now_ms=now_ms)
        else:
            return
        await self._ledger.change_endpoint(self._endpoint.id, change)

    async def _send(self, sender: Sender, delivery: Delivery) -> tuple[Outcome, Attempt]:
        endpoint, sent_ms = self._endpoint, self._clock.now_ms()
        headers = {
            "Content-Type": "application/json",
            "User-Agent": self._around.user_agent,
            **sign(
                delivery.body,
                message_id=delivery.id,
                timestamp_s=sent_ms // 1000,
                secrets=endpoint.secrets,
            ),
        }
        if self._around.config().dry_run:
            outcome = Outcome(dry_run=True)
            _log.info(
                "dry run: this would be sent",
                url=masked_url(endpoint.url),
                headers=headers,
                payload=delivery.body.decode(),
            )
        else:
            sender.update(endpoint)
            outcome = await sender.post(
                endpoint.url, headers, delivery.body, deadline_s=endpoint.deadline_ms / 1000
            )
        attempt = Attempt(
            delivery.endpoint_id,
            delivery.sequence,
            delivery.attempts,
            sent_ms,
            self._clock.now_ms(),
            outcome,
            masked_url(endpoint.url),
            tuple(headers.items()),
            hashlib.sha256(delivery.body).hexdigest(),
        )
        return outcome, attempt

    def _tell(self, settled: Delivery, outcome: Outcome) -> None:
        log = _log.bind(endpoint=settled.endpoint_id, delivery=settled.id, attempt=settled.attempts)
        if settled.status is DeliveryStatus.DELIVERED:
            log.info("delivered", dry_run=outcome.dry_run)
        elif settled.status is DeliveryStatus.PARKED:
            log.error("delivery parked: every attempt failed", error=outcome.error)
        else:
            log.warning(
                "attempt failed",
                error=outcome.error,
                next=format_instant(max(settled.next_attempt_ms, self._held_until_ms)),
            )
