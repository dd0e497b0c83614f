"""Whether meterd takes requests for its ledger yet, and what it says meanwhile."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from meterd.domain.durations import format_duration
from meterd.edge import problems

if TYPE_CHECKING:
    from collections.abc import Callable

    import trio

    from meterd.edge.problems import Answer

_RECOVERING: Final = "counting the events that were not in their totals when meterd ended"
_FULL: Final = "full: events are refused until it has room again; what is stored is read"
_CLOCK: Final = "behind what is stored by {}: until it has caught up, all events are dated alike"
_FULL_AT_START: Final = (
    "full: the start waits, and events are refused, until it has room again; what is stored is read"
)
_CATCHING_UP: Final = "closing the periods that ended meanwhile"


class Readiness:
    """``started`` is when the ledger may be asked, ``caught_up`` when no period is overdue.

    A full disk and a wrong clock change neither: there is nobody else to send a caller to, and
    reads are served, also while a start waits for room, which may take until somebody makes some.
    """

    def __init__(
        self,
        started: trio.Event,
        caught_up: trio.Event,
        is_full: Callable[[], bool],
        ahead_ms: Callable[[], int] = lambda: 0,
        clock_fault: Callable[[], str | None] = lambda: None,
    ) -> None:
        """``ahead_ms`` is how far the ledger's time is ahead of the clock, ``clock_fault`` why
        events may not be dated by it at all.
        """
        self.started = started
        self._caught_up = caught_up
        self._is_full = is_full
        self._ahead_ms = ahead_ms
        self._clock_fault = clock_fault

    def answer(self) -> Answer:
        """What ``/readyz`` says."""
        full = _FULL if self.started.is_set() else _FULL_AT_START
        notes = {"disk": full} if self._is_full() else {}
        if clock := self._clock():
            notes["clock"] = clock
        if self.waits_for is None:
            return problems.answer(HTTPStatus.OK, {"status": "ready", **notes})
        waiting = {"status": "starting", "reason": self.waits_for, **notes}
        return problems.answer(HTTPStatus.SERVICE_UNAVAILABLE, waiting)

    def _clock(self) -> str | None:
        if (fault := self._clock_fault()) is not None:
            return fault
        ahead_ms = self._ahead_ms()
        return _CLOCK.format(format_duration(ahead_ms // 1000 * 1000)) if ahead_ms else None

    @property
    def waits_for(self) -> str | None:
        """What is still to be done before meterd is ready; None if it is."""
        if not self.started.is_set():
            return _RECOVERING
        return None if self._caught_up.is_set() else _CATCHING_UP

    def refusal(self) -> Answer | None:
        """What to say to who has something to store; None when that may be asked for."""
        if self.started.is_set():
            return None
        return problems.DISK_FULL if self._is_full() else problems.starting(_RECOVERING)

    def refusal_of_events(self) -> Answer | None:
        """What to say to who brings events; None when they may be taken."""
        if refused := self.refusal():
            return refused
        fault = self._clock_fault()
        return None if fault is None else problems.wrong_clock(fault)

    def refusal_to_read(self) -> Answer | None:
        """What to say to who reads; None when that may be asked for."""
        return None if self._is_full() else self.refusal()
