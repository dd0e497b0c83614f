"""Webhook receivers in memory: a healthy one, and others that do what receivers do.

They stand where ``edge.egress`` would be: meterd's delivery actor above them is the real one.
"""

from __future__ import annotations

import hmac
from enum import Enum, auto
from typing import TYPE_CHECKING

import trio

from meterd.domain.outcomes import Outcome
from meterd.edge.egress import DEADLINE_S
from tests.simulation.books import BrokenPromiseError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from random import Random

    from meterd.domain.endpoints import Endpoint
    from tests.simulation.clock import VirtualClock
    from tests.simulation.parcels import AttemptKey, Parcels
    from tests.simulation.trace import Trace

# Nothing is sent to who says so until an operator has a look.
_GONE = 0.99


class Mood(Enum):
    """How a receiver is these days."""

    HEALTHY = auto()
    MOODY = auto()
    DOWN = auto()


class Receivers:
    """All of them; ``moods`` says how each is, healthy if nothing is said."""

    def __init__(self, clock: VirtualClock, random: Random, parcels: Parcels, trace: Trace) -> None:
        self.moods: dict[str, Mood] = {}
        self._clock = clock
        self._random = random
        self._parcels = parcels
        self._trace = trace

    def sender(self, endpoint: Endpoint) -> Receiver:
        return Receiver(self, endpoint)

    async def receive(self, endpoint: Endpoint, headers: Mapping[str, str], body: bytes) -> Outcome:
        name = headers["webhook-id"]
        self._trace.add(f"attempt {endpoint.id} {name}")
        self._require_signature(endpoint, headers, body)
        attempt = self._parcels.attempt(name, body)
        outcome = await self._answer(endpoint, attempt)
        self._trace.add(f"outcome {endpoint.id} {name} {outcome.error}")
        return outcome

    async def _answer(self, endpoint: Endpoint, attempt: AttemptKey) -> Outcome:
        random = self._random
        mood = self.moods.get(endpoint.id, Mood.HEALTHY)
        if random.random() < 0.2:
            await trio.sleep(random.uniform(0, 0.05))
        chance = 0.0 if mood is Mood.HEALTHY else random.random()
        if mood is Mood.DOWN:
            chance = 0.7 + 0.2 * chance
        if chance < 0.7:
            self._parcels.took(attempt)
            return Outcome()
        if chance < 0.8:
            self._trace.seen["answers of 500"] += 1
            return Outcome("HTTP 500: Internal Server Error", status=500)
        if chance < 0.84:
            self._trace.seen["answers of 429"] += 1
            asked = (("retry-after", str(random.choice((0, 1, 30, 600, 7200)))),)
            return Outcome("HTTP 429: Too Many Requests", status=429, headers=asked)
        if chance < 0.9:
            self._trace.seen["receivers that hang"] += 1
            await trio.sleep(DEADLINE_S)
            return Outcome("Request timeout")
        if chance > _GONE:
            self._trace.seen["answers of 410"] += 1
            return Outcome("HTTP 410: Gone", status=410)
        self._parcels.took(attempt)
        if chance < 0.95:
            await trio.sleep(random.uniform(1, DEADLINE_S))
            return Outcome()
        self._trace.seen["answers lost on the way"] += 1
        await trio.sleep(random.uniform(0, DEADLINE_S))
        return Outcome("read ECONNRESET")

    def _require_signature(
        self, endpoint: Endpoint, headers: Mapping[str, str], body: bytes
    ) -> None:
        stamp = headers["X-Webhook-Timestamp"]
        signed = hmac.digest(endpoint.secrets[0].encode(), f"{stamp}.".encode() + body, "sha256")
        is_now = int(stamp) == self._clock.now_ms() // 1000
        if headers["X-Webhook-Signature"] != f"v1={signed.hex()}" or not is_now:
            raise BrokenPromiseError("wrong", f"{headers['webhook-id']} is not signed")


class Receiver:
    """See ``work.delivery.Sender``."""

    def __init__(self, receivers: Receivers, endpoint: Endpoint) -> None:
        self._receivers = receivers
        self._endpoint = endpoint

    def update(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    async def post(
        self, url: str, headers: Mapping[str, str], body: bytes, *, deadline_s: float
    ) -> Outcome:
        await trio.lowlevel.checkpoint()
        return await self._receivers.receive(self._endpoint, headers, body)
