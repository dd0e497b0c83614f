"""Leaves repeats out of the log, and tells later how many there were.

By a thread of its own for the moment when there is something to tell: entries come from all
threads, before there is a loop and behind its end, and while nothing repeats itself nothing runs.
"""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Final, Protocol

import structlog

from meterd.log_repeats import WINDOW_S, Kind, LeftOut, Repeats
from meterd.work.delivery_log import DRY_RUN

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

    class Timer(Protocol):
        """What of ``threading.Timer`` is used."""

        daemon: bool

        def start(self) -> None: ...
        def cancel(self) -> None: ...


LEFT_OUT: Final = "repeats were left out"
# At debug everything was asked for, and behind what is critical meterd ends. A dry run is there to
# be read.
_WHOLE_LEVELS: Final = frozenset({"debug", "critical"})
_WHOLE_EVENTS: Final = frozenset({LEFT_OUT, DRY_RUN})
# Which values make another kind: few, and none of a client's choosing.
_TELLING: Final = ("endpoint", "status")


class Thinning:
    """A processor, for entries that have their level and their logger."""

    def __init__(
        self,
        now_s: Callable[[], float] = time.monotonic,
        timer: Callable[[float, Callable[[], None]], Timer] = threading.Timer,
    ) -> None:
        self._now_s = now_s
        self._make_timer = timer
        self._repeats = Repeats()
        self._lock = threading.Lock()
        self._timer: Timer | None = None

    def __call__(
        self, _logger: object, _method: str, entry: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        if entry["level"] in _WHOLE_LEVELS or entry["event"] in _WHOLE_EVENTS:
            return entry
        with self._lock:
            if self._repeats.admits(kind_of(entry), self._now_s()):
                return entry
            self._wait()
        raise structlog.DropEvent

    def tell_all(self) -> None:
        """What was left out until now; for the end."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            over = self._repeats.over()
        _tell(over)

    def _tell_over(self) -> None:
        with self._lock:
            self._timer = None
            over = self._repeats.over(self._now_s())
            self._wait()
        _tell(over)

    def _wait(self) -> None:
        next_s = self._repeats.next_s()
        if self._timer is not None or next_s is None:
            return
        timer = self._make_timer(max(0.0, next_s - self._now_s()), self._tell_over)
        timer.daemon = True
        try:
            timer.start()
        except RuntimeError:
            return  # no thread to be had: the next entry tries again, or the end tells
        self._timer = timer


def kind_of(entry: MutableMapping[str, Any]) -> Kind:
    fields = [(name, str(entry[name])) for name in _TELLING if name in entry]
    fault = entry.get("exc_info")
    if fault is True:
        fault = sys.exc_info()[1]
    if isinstance(fault, BaseException):
        fields.append(("exception", _cause(fault)))
    return Kind(entry["logger"], entry["level"], str(entry["event"]), tuple(fields))


def _cause(fault: BaseException) -> str:
    """What was raised first of all, and in which line: another mistake is another kind."""
    while isinstance(fault, BaseExceptionGroup):
        fault = fault.exceptions[0]
    line, trace = 0, fault.__traceback__
    while trace is not None:
        line, trace = trace.tb_lineno, trace.tb_next
    return f"{type(fault).__qualname__} in line {line}"


def _tell(over: list[LeftOut]) -> None:
    for kind, entries in over:
        log = structlog.get_logger(kind.logger)
        tell = getattr(log, kind.level)
        tell(LEFT_OUT, of=kind.event, repeated=entries, seconds=int(WINDOW_S), **dict(kind.fields))
