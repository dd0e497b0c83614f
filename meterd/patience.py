"""Asks a meterd again that did not answer, or cannot yet: it restarts, or its disk is full.

The caller sees to it that what is asked twice does no harm.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, TypeVar

from meterd.domain.durations import format_duration
from meterd.domain.errors import MeterdError, NoAnswerError

if TYPE_CHECKING:
    from collections.abc import Callable

Answer = TypeVar("Answer")

_FIRST_WAIT_S: Final = 0.2
_LAST_WAIT_S: Final = 5.0


class Patience:
    """For so long in one piece; an answer begins it anew."""

    def __init__(
        self,
        limit_s: float,
        say: Callable[[str], None],
        sleep: Callable[[float], None] = time.sleep,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """``say`` is told once what is waited for, and once that it is over."""
        self._limit_s = limit_s
        self._say = say
        self._sleep = sleep
        self._now_s = now_s

    def until_answered(self, ask: Callable[[], Answer]) -> Answer:
        """What is answered in the end. Raises MeterdError where patience ends before."""
        began_s = self._now_s()
        wait_s = _FIRST_WAIT_S
        told = False
        while True:
            try:
                answer = ask()
            except NoAnswerError as error:
                waited_s = self._now_s() - began_s
                if waited_s >= self._limit_s:
                    raise MeterdError(f"{error} (tried {_duration(waited_s)})") from error
                if not told:
                    self._say(f"waiting, {_duration(self._limit_s)} at most: {error}")
                    told = True
                self._sleep(min(max(wait_s, error.retry_after_s), self._limit_s - waited_s))
                wait_s = min(2 * wait_s, _LAST_WAIT_S)
            else:
                if told:
                    self._say("going on")
                return answer


def _duration(seconds: float) -> str:
    return format_duration(round(seconds) * 1000)
