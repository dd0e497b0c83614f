"""Whether an endpoint may be sent to now, by what came of the last attempts.

It is what its workers know of it in memory, from the answer on; what must last is in the
endpoint's state, which is written with the delivery that was answered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from meterd.domain.breaker import Breaker
from meterd.domain.deliveries import pause_asked
from meterd.domain.endpoints import Endpoint

if TYPE_CHECKING:
    from meterd.domain.outcomes import Outcome


class Standing(msgspec.Struct, frozen=True):
    """``endpoint`` is as it is configured now. It rests by its breaker, from everything or from
    repeats only, and is paused and gone by its own word. ``has_taken`` says whether anything has
    arrived since it last asked to wait.
    """

    endpoint: Endpoint
    breaker: Breaker = Breaker()
    rests_until_ms: int = 0
    paused_until_ms: int = 0
    is_gone: bool = False
    has_taken: bool = False

    def is_held(self, now_ms: int) -> bool:
        """Whether nothing is to be sent."""
        return self.is_gone or self.held_until_ms > now_ms

    @property
    def held_until_ms(self) -> int:
        """Until when, where it is not gone."""
        rests_until_ms = self.rests_until_ms if self.breaker.is_down else 0
        return max(rests_until_ms, self.paused_until_ms)

    def repeats_max(self, slots: int, now_ms: int) -> int:
        """How many may be in the air at once of those that failed before.

        Half of the slots at most, so that those that hang until their deadline hold up no others.
        """
        if not self.breaker.is_open:
            return -(-slots // 2)
        return int(self.rests_until_ms <= now_ms)

    def configured(self, endpoint: Endpoint) -> Standing:
        """The endpoint is this one from now on; may be the same.

        What another URL said holds no more. Nor does a rest, where an attempt may end otherwise
        now: else each reload would be one more attempt at the dead.
        """
        if endpoint.url != self.endpoint.url:
            return Standing(endpoint)
        if _attempted(endpoint) != _attempted(self.endpoint):
            return msgspec.structs.replace(
                self, endpoint=endpoint, breaker=Breaker(), rests_until_ms=0
            )
        return msgspec.structs.replace(self, endpoint=endpoint)

    def after(
        self,
        asked: Endpoint,
        outcome: Outcome,
        now_ms: int,
        *,
        is_repeat: bool = False,
        is_unwanted: bool = False,
    ) -> Standing:
        """After one more attempt, at the endpoint as it was when that began. What ``is_unwanted``
        pauses nothing: it only fails.
        """
        if asked.url != self.endpoint.url:
            return self
        if outcome.gone:
            return msgspec.structs.replace(self, is_gone=True)
        pause_ms = pause_asked(outcome, now_ms)
        if pause_ms is not None and not is_unwanted:
            until_ms = max(self.paused_until_ms, now_ms + pause_ms)
            return msgspec.structs.replace(self, paused_until_ms=until_ms, has_taken=False)
        if _attempted(asked) != _attempted(self.endpoint):
            return self
        has_taken = self.has_taken or outcome.error is None
        breaker = self.breaker.after(outcome, is_repeat=is_repeat)
        until_ms = self.rests_until_ms
        if is_repeat or breaker.is_down or not self.breaker.is_open:
            until_ms = max(until_ms, now_ms + breaker.pause_ms)
        return msgspec.structs.replace(
            self,
            breaker=breaker,
            rests_until_ms=until_ms if breaker.is_open else 0,
            has_taken=has_taken,
        )


def _attempted(endpoint: Endpoint) -> tuple[object, ...]:
    """Everything that decides how an attempt ends, on our side."""
    return endpoint.url, endpoint.secrets, endpoint.allow_private, endpoint.deadline_ms
