"""Whether meterd takes requests for its ledger yet, and what it says meanwhile."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from meterd.edge import problems

if TYPE_CHECKING:
    from collections.abc import Callable

    import trio

    from meterd.edge.problems import Answer

_RECOVERING: Final = "counting the events that were not in their totals when meterd ended"
_FULL: Final = "full: events are refused until it has room again; what is stored is read"
_CATCHING_UP: Final = "closing the periods that ended meanwhile"


class Readiness:
    """``started`` is when the ledger may be asked, ``caught_up`` when no period is overdue.

    A full disk changes neither: there is nobody else to send a caller to, and reads are served.
    """

    def __init__(
        self, started: trio.Event, caught_up: trio.Event, is_full: Callable[[], bool]
    ) -> None:
        self._started = started
        self._caught_up = caught_up
        self._is_full = is_full

    def answer(self) -> Answer:
        """What ``/readyz`` says."""
        disk = {"disk": _FULL} if self._is_full() else {}
        if self.waits_for is None:
            return problems.answer(HTTPStatus.OK, {"status": "ready", **disk})
        waiting = {"status": "starting", "reason": self.waits_for, **disk}
        return problems.answer(HTTPStatus.SERVICE_UNAVAILABLE, waiting)

    @property
    def waits_for(self) -> str | None:
        """What is still to be done before meterd is ready; None if it is."""
        if not self._started.is_set():
            return _RECOVERING
        return None if self._caught_up.is_set() else _CATCHING_UP

    def refusal(self) -> Answer | None:
        """What to say to who needs the ledger; None when it may be asked."""
        return None if self._started.is_set() else problems.starting(_RECOVERING)
