"""One endpoint's deliveries: an actor with its own queue, slots, connections, breaker and counts.

It claims due deliveries (from then on the disk says that an attempt has begun), somewhat more than
it has slots, so that a slot never waits for the disk; sends each in a slot; and settles it. What
was claimed and is not to be sent any more, since the endpoint is paused or the worker retires, is
given back as if it had never begun. All that must last is in the ledger, which gives out nothing
for an endpoint that is paused or disabled.
"""

from __future__ import annotations

import hashlib
from fractions import Fraction
from math import inf
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
import structlog
import trio

from meterd.domain.counts import outcome_class
from meterd.domain.deliveries import (
    Attempt,
    DeliveryStatus,
    is_unwanted,
    settle_attempt,
    withdrawn,
)
from meterd.domain.endpoint_states import change_by
from meterd.domain.endpoints import masked_url
from meterd.domain.outcomes import REST_AFTER_CUT_MS, Outcome
from meterd.domain.probes import ID_LIMIT, probe
from meterd.domain.signatures import sign
from meterd.domain.standing import Standing
from meterd.domain.statistics import Statistics
from meterd.ledger import Claim
from meterd.work.delivery_log import DRY_RUN, tell_change, tell_settled
from meterd.work.settling import Settling

if TYPE_CHECKING:
    from meterd.domain.deliveries import Delivery
    from meterd.domain.endpoint_states import Change
    from meterd.domain.endpoints import Endpoint
    from meterd.work.surroundings import OpenSender, Sender, Surroundings

_log = structlog.get_logger("delivery")

# So many are begun for each slot: one is sent, one comes from the disk, one goes to it.
_BEGUN_FOR_EACH_SLOT: Final = 4
# A test is not to wait behind deliveries to a receiver that hangs.
_FOR_PROBES: Final = 1
# A jitter's steps; only its spread matters.
_JITTER_STEPS: Final = 1000


class _Wakes(NamedTuple):
    """What a worker that has nothing to begin waits for, beside news: whichever comes first."""

    on_new: bool = True
    at_ms: int | None = None


class EndpointWorker:
    """``run`` it. Two workers of one endpoint do each other no harm: one may be retiring."""

    def __init__(self, endpoint: Endpoint, around: Surroundings) -> None:
        self._around = around
        self._ledger = around.ledger
        self._clock = around.clock
        self._endpoint = endpoint
        self._standing = around.standings.get(endpoint.id, Standing(endpoint)).configured(endpoint)
        self._slots = trio.CapacityLimiter(endpoint.slots)
        self._begun = 0
        self._repeats: set[str] = set()
        self._repeats_turn = self._was_held = False
        self._has_more = False
        self._settled_s = -inf
        self._settling = Settling(around.ledger)
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
    def _standing(self) -> Standing:
        return self._around.standings[self._endpoint.id]

    @_standing.setter
    def _standing(self, standing: Standing) -> None:
        self._around.standings[self._endpoint.id] = standing

    @property
    def in_air(self) -> int:
        """Attempts that are being made."""
        return self._slots.borrowed_tokens

    @property
    def is_failing(self) -> bool:
        """Whether the endpoint gets one attempt at a time, and pauses between them."""
        return self._standing.breaker.is_open

    @property
    def is_down(self) -> bool:
        """Whether that is so of all deliveries, and not only of those that failed before."""
        return self._standing.breaker.is_down

    def lags(self, within_s: float) -> bool:
        """Whether it sends single posts, some settled this lately, and more wait than it has begun.

        Not of batches, which are the larger the more there is to send.
        """
        is_sending = trio.current_time() - self._settled_s <= within_s
        return self._has_more and is_sending and self._endpoint.batch == 1

    async def probe(self) -> tuple[Delivery, Attempt]:
        """Sends a test message at once, whatever else waits or keeps the endpoint from getting any.

        What comes of it changes nothing.
        """
        async with self._probing:  # there is a connection for one
            await self._opened.wait()
            assert self._sender is not None
            message = probe(self._endpoint.id, self._around.below(ID_LIMIT), self._clock.now_ms())
            _, attempt = await self._send(self._sender, self._endpoint, message)
            return message, attempt

    def reconfigure(self, endpoint: Endpoint) -> None:
        """From now on it is this one; attempts in the air end in peace."""
        assert endpoint.slots == self._endpoint.slots, "connections are opened once"
        if endpoint.url != self._endpoint.url:
            self._give_back()  # that one may be disabled
        self._endpoint = endpoint
        self._standing = self._standing.configured(endpoint)
        self._pause.cancel()

    def reconsider(self) -> None:
        """The endpoint has been enabled: whatever it said, and however it failed, is forgotten."""
        self._standing = Standing(self._endpoint)
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
        standing, endpoint = self._standing, self._endpoint
        if standing.is_held(self._clock.now_ms()):
            self._was_held = True
            at_ms = None if standing.is_gone else standing.held_until_ms
            return _Wakes(on_new=False, at_ms=at_ms)
        is_down = standing.breaker.is_down
        begun_max = 1 if is_down else endpoint.slots * _BEGUN_FOR_EACH_SLOT
        room = begun_max - self._begun
        if 2 * room < begun_max:  # a claim is a transaction: it is to be worth it
            return _Wakes(on_new=False)
        now_ms = self._clock.now_ms()
        repeats_max = max(0, standing.repeats_max(endpoint.slots, now_ms) - len(self._repeats))
        choices = [repeats_max]
        if is_down:
            # By turns, that neither kind waits for the other. Where there is none, it is the other.
            self._repeats_turn = not self._repeats_turn
            choices = [repeats_max] if self._repeats_turn else [0, repeats_max]
        elif self._was_held:
            # Who waited out a pause comes before whoever asked for it, and may ask for the next.
            choices = [0, repeats_max]
        self._was_held = False
        claim = Claim([], None)
        for choice in choices:
            if not claim.deliveries:
                claim = await self._ledger.claim(
                    endpoint.id,
                    limit=room,
                    batch=endpoint.batch,
                    url=endpoint.url,
                    repeats_max=choice,
                )
        self._has_more = len(claim.deliveries) == room
        for delivery in claim.deliveries:
            self._begun += 1
            if delivery.has_failed:
                self._repeats.add(delivery.id)
            nursery.start_soon(self._attempt, sender, delivery, endpoint.url)
        if claim.deliveries:
            return _Wakes(at_ms=now_ms)
        wakes_ms = [] if claim.next_due_ms is None else [claim.next_due_ms]
        if standing.rests_until_ms > now_ms:
            wakes_ms.append(standing.rests_until_ms)
        return _Wakes(at_ms=min(wakes_ms, default=None))

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

    async def _attempt(self, sender: Sender, delivery: Delivery, url: str) -> None:
        if await self._has_slot(url):
            endpoint = self._endpoint
            try:
                outcome, attempt = await self._send(sender, endpoint, delivery)
                others_arrive = self._standing.has_taken
                change = self._note(endpoint, delivery, outcome)  # before the next one has the slot
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
                others_arrive=others_arrive,
            )
            if settled.status is DeliveryStatus.PARKED:
                self._around.counts.parked[settled.endpoint_id] += len(settled.sequences)
            tell_settled(settled, outcome, self._standing.held_until_ms)
            await self._settle(settled, attempt, change)
        else:
            await self._settle(withdrawn(delivery), None, None)

    async def _settle(
        self, delivery: Delivery, attempt: Attempt | None, change: Change | None
    ) -> None:
        """With all that ended while the last ones were being settled."""
        group = await self._settling.settle(delivery, attempt, change)
        if group is None:
            return
        self._begun -= len(group.deliveries)
        self._settled_s = trio.current_time()
        self._repeats.difference_update(one.id for one in group.deliveries)
        # There is room, and what failed or was given back comes due: to whoever is its worker now.
        self.wake()
        self._around.settled(self._endpoint.id, len(group.attempts))

    async def _has_slot(self, url: str) -> bool:
        """Once there is one; False where nothing more is to be sent, or not to that URL."""
        if self._is_held(url):
            return False
        with trio.CancelScope() as waiting:
            self._waiting.add(waiting)
            await self._slots.acquire()
        self._waiting.discard(waiting)
        if waiting.cancelled_caught:
            return False
        # It was given the slot a turn ago: it waited no more when the others were given back.
        if self._is_held(url):
            self._slots.release()
            return False
        return True

    def _is_held(self, url: str) -> bool:
        is_other = url != self._endpoint.url
        return self._is_retired or is_other or self._standing.is_held(self._clock.now_ms())

    def _give_back(self) -> None:
        """What is claimed and has no slot yet is not to be sent."""
        for waiting in self._waiting:
            waiting.cancel()

    def _jitter(self) -> Fraction:
        return Fraction(self._around.below(2 * _JITTER_STEPS + 1) - _JITTER_STEPS, _JITTER_STEPS)

    def _note(self, asked: Endpoint, delivery: Delivery, outcome: Outcome) -> Change | None:
        """At once, so that nothing more is sent where nothing more is to be; what is to be kept of
        it over restarts.
        """
        now_ms = self._clock.now_ms()
        self.statistics = self.statistics.after(outcome, now_ms)
        self._around.counts.attempts[asked.id, outcome_class(outcome)] += 1
        before = self._standing
        unwanted = is_unwanted(delivery, others_arrive=before.has_taken)
        self._standing = before.after(
            asked, outcome, now_ms, is_repeat=delivery.has_failed, is_unwanted=unwanted
        )
        tell_change(before, self._standing)
        if self._standing.is_held(now_ms):
            self._give_back()
        # What the URL of before says is of no interest, and must not replace what this one says.
        if asked.url != before.endpoint.url or (unwanted and not outcome.gone):
            return None
        return change_by(outcome, asked.url, now_ms)

    async def _send(
        self, sender: Sender, endpoint: Endpoint, delivery: Delivery
    ) -> tuple[Outcome, Attempt]:
        sent_ms = self._clock.now_ms()
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
                DRY_RUN,
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
