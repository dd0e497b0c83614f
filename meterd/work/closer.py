"""Closes periods: each configured one when it has ended and its grace is over. Revises those for
which events came late, a while after the first of them came.

An actor because ends come by the clock and by request (``trigger``), and a reload moves them. It
owns no state: what is still to close is read from the ledger, so a start after any downtime goes on
where the last process stopped, oldest first. Closing one period is the ledger's business, and
bounded there.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec
import structlog
import trio

from meterd.domain.aggregations import ClosingRules
from meterd.domain.errors import DiskFullError, MeterdError, UnavailableError
from meterd.domain.instants import format_instant
from meterd.domain.periods import HOUR_MS
from meterd.ledger import Closed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from meterd.domain.config import Config
    from meterd.ledger import CatchUp, Ledger
    from meterd.work.clock import Clock

_log = structlog.get_logger("closer")
_NO_GRACE_MS: Final = 0
# How often it is tried again while the disk is full.
ROOM_AGAIN_MS: Final = 1_000
# How long after an event of an hour that is over it is looked for what that changes: many of them
# may come. By then they are in totals, most of them.
PAST_EVENTS_MS: Final = 10_000


class Triggered(msgspec.Struct, frozen=True):
    """What a trigger did: aggregations made and made anew, and how much they stand for."""

    created: int
    updated: int
    customers: int
    events: int


class Closer:
    """See above; ``config`` gives the configuration as it is at that moment, ``catch_up`` lets
    deliveries keep step.
    """

    def __init__(
        self,
        ledger: Ledger,
        clock: Clock,
        config: Callable[[], Config],
        catch_up: CatchUp | None = None,
    ) -> None:
        self._ledger = ledger
        self._clock = clock
        self._config = config
        self._catch_up = catch_up
        self._reconfigured = trio.Event()
        self.caught_up = trio.Event()

    async def run(self) -> None:
        """Until cancelled. ``caught_up`` is set when all that became overdue before is closed."""
        while True:
            reconfigured, past_events = self._reconfigured, self._ledger.past_events()
            # Before looking: an end that passes meanwhile may have been overlooked.
            wake_ms = self._next_end_ms()
            try:
                config = self._config()
                await self._close_ended(config.grace_ms)
                self.caught_up.set()
                await self._revise(self._clock.now_ms() - config.revise_after_ms)
                since_ms = await self._ledger.late_since_ms()
                if since_ms is not None:
                    wake_ms = min(wake_ms, since_ms + config.revise_after_ms)
            except DiskFullError:
                wake_ms = min(wake_ms, self._clock.now_ms() + ROOM_AGAIN_MS)
            # The clock may have been set back meanwhile, by a day that would else be slept through.
            wake_ms = min(wake_ms, self._next_end_ms())
            with trio.CancelScope() as waiting:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_cancel_when, reconfigured.wait, waiting)
                    nursery.start_soon(_cancel_when, partial(self._past, past_events), waiting)
                    await self._clock.wait_until(wake_ms)
                    nursery.cancel_scope.cancel()

    async def _past(self, events: int) -> None:
        """Returns a while after more events of hours that are over came than these."""
        await self._ledger.wait_past_events(events)
        await self._clock.wait_until(self._clock.now_ms() + PAST_EVENTS_MS)

    def now(self) -> str:
        """The time of day, as the API writes it."""
        return format_instant(self._clock.now_ms())

    def reconfigure(self) -> None:
        """The grace or the periods may have changed: look again at once."""
        self._reconfigured.set()
        self._reconfigured = trio.Event()

    async def trigger(self) -> Triggered:
        """Closes every period that has ended, grace or not, revises every one that is late, and
        writes snapshots of the running ones. Raises DiskFullError, and UnavailableError where the
        disk was full amid it: what is done is done, and the rest when it is asked for again.
        """
        came_of_it: Triggered | MeterdError = UnavailableError(
            "the disk is full: it is not known how far the trigger came"
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_when, self._ledger.wait_full, nursery.cancel_scope)
            try:
                came_of_it = await self._trigger()
            except MeterdError as refused:  # not as one of a group
                came_of_it = refused
            nursery.cancel_scope.cancel()
        if isinstance(came_of_it, MeterdError):
            raise came_of_it
        return came_of_it

    async def _trigger(self) -> Triggered:
        closed = await self._close_ended(_NO_GRACE_MS)
        await self._revise(self._clock.now_ms())
        counts = await self._ledger.snapshot(rules_of(self._config()))
        return Triggered(
            closed.created + counts.created,
            closed.updated + counts.updated,
            counts.customers,
            counts.events,
        )

    async def _close_ended(self, grace_ms: int) -> Closed:
        created = updated = 0
        while (period := await self._ledger.next_to_close()) is not None:
            if period.end_ms + grace_ms > self._clock.now_ms():
                break
            closed = await self._ledger.close(
                period, rules_of(self._config()), catch_up=self._catch_up
            )
            created += closed.created
            updated += closed.updated
            _log.info(
                "period closed",
                period=str(period.type),
                key=period.key,
                ended=format_instant(period.end_ms),
                aggregations=closed.created + closed.updated,
            )
        return Closed(created, updated)

    async def _revise(self, until_ms: int) -> None:
        revised = await self._ledger.revise(rules_of(self._config()), until_ms=until_ms)
        if revised:
            _log.info("late events: aggregations revised", aggregations=revised)

    def _next_end_ms(self) -> int:
        """The first moment from now on when an hour's grace is over; longer periods end on the
        hour.
        """
        grace_ms = self._config().grace_ms
        ended_hours = (self._clock.now_ms() - grace_ms) // HOUR_MS
        return (ended_hours + 1) * HOUR_MS + grace_ms


def rules_of(config: Config) -> ClosingRules:
    """What the configuration says about closing."""
    return ClosingRules(
        {name: event_type.op for name, event_type in config.events.items()},
        frozenset(config.periods),
        tuple(endpoint.id for endpoint in config.webhooks if endpoint.enabled),
    )


async def _cancel_when(wait: Callable[[], Awaitable[None]], scope: trio.CancelScope) -> None:
    await wait()
    scope.cancel()
