"""What a simulated daemon has been told: the configurations in force, triggers that may go on."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import trio

from meterd.domain.admission import Late
from meterd.work.closer import rules_of

if TYPE_CHECKING:
    from meterd.domain.config import Config


_OLD_ORDERS_S: Final = 2 * 3600.0


class InForce:
    """A configuration, and how many periods were closed when another one took its place."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.rules = rules_of(config)
        self.since_s = trio.current_time()
        self.until: int | None = None


class Regime:
    """``closings`` are the periods closed so far. ``floor_at`` is how many events were in the log
    when the daemon last began to close one: those are in it, others may be late.
    """

    def __init__(self) -> None:
        self.closings = self.floor_ms = self.floor_at = 0
        # How many events were in the log when the first trigger began that may still go on.
        self.asked_for_at = 0
        self._triggers = 0
        self._in_force: list[InForce] = []
        # For how long events are kept, and until when they were, in seconds.
        self._kept: list[tuple[float, int | None]] = []

    def started(self, config: Config) -> None:
        """A daemon has started with it: no other one is in force any more."""
        self._in_force = [InForce(config)]
        self._kept = [(math.inf, config.retention.events_ms)]
        self._triggers = 0

    def reconfigured(self, config: Config) -> None:
        self._in_force[-1].until = self.closings
        self._in_force.append(InForce(config))
        self._kept[-1] = trio.current_time(), self._kept[-1][1]
        self._kept.append((math.inf, config.retention.events_ms))

    def triggering(self, log: int) -> None:
        """A trigger is sent; so many events are in the log."""
        if not self._triggers:
            self.asked_for_at = log
        self._triggers += 1

    def triggered(self) -> None:
        """It was answered; one that was not may go on until the daemon ends."""
        self._triggers = max(0, self._triggers - 1)

    @property
    def is_triggered(self) -> bool:
        return self._triggers > 0

    @property
    def newest(self) -> InForce:
        return self._in_force[-1]

    def candidates(self) -> list[InForce]:
        """What a closing that is under way may have begun with."""
        self._in_force = [
            one for one in self._in_force if one.until is None or one.until >= self.closings - 2
        ]
        return self._in_force

    @property
    def rejects_late(self) -> bool | None:
        """Whether events of closed hours are refused; None where it may be either way."""
        found = {one.config.admission.late is Late.REJECT for one in self.candidates()}
        return found.pop() if len(found) == 1 else None

    @property
    def grace_least_ms(self) -> int:
        """With a trigger there is none."""
        if self.is_triggered:
            return 0
        return min(one.config.grace_ms for one in self.candidates())

    @property
    def kept_least_ms(self) -> float:
        """What prunes looks at its configuration once an hour, and goes on for another."""
        since_s = trio.current_time() - _OLD_ORDERS_S
        found = [kept_ms for until_s, kept_ms in self._kept if until_s >= since_s]
        return min(math.inf if kept_ms is None else kept_ms for kept_ms in found)

    @property
    def revise_least_ms(self) -> int:
        if self.is_triggered:
            return 0
        return min(one.config.revise_after_ms for one in self.candidates())
