"""A long recovery says how far it is, and any at all what it did."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio
from structlog.testing import capture_logs

from meterd.domain.event_ids import Stamp
from meterd.embedded import recovery
from meterd.embedded.recovery import PROGRESS_SECONDS, Posted
from tests.ledger_bench import START_MS

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio.testing import MockClock

    from meterd.embedded.transaction import Transaction

AGO_S = 12


class Slow:
    """Transactions that take two seconds, each of which posts a second's blocks, of which there
    are so many.
    """

    def __init__(self, seconds: int) -> None:
        self._left = seconds

    async def __call__(self, work: Callable[[Transaction], Any], /) -> Any:
        await trio.sleep(2)
        if self._left == 0:
            return Posted(0, b"")
        self._left -= 1
        return Posted(100, Stamp(START_MS - 1000 * self._left, 0, 0).id())


async def test_a_long_one_says_how_much_is_left(autojump_clock: MockClock) -> None:
    """Not at each transaction; in the time in which the events came, which people know."""
    with capture_logs() as logged:
        await recovery.post_rest(Slow(AGO_S), 16, START_MS)
    assert PROGRESS_SECONDS == 5
    assert [(entry["event"], entry["blocks"]) for entry in logged] == [
        ("recovering", 300),
        ("recovering", 600),
        ("recovering", 900),
        ("recovering", 1200),
        ("recovered: all events are in their totals", 1200),
    ]
    assert [entry.get("left") for entry in logged[:-1]] == [
        f"events of {left}.0 s" for left in (9, 6, 3, 0)
    ]
    assert logged[-1]["seconds"] == 26.0


async def test_where_nothing_was_left_nothing_is_said(autojump_clock: MockClock) -> None:
    """As after each stop in order."""
    with capture_logs() as logged:
        await recovery.post_rest(Slow(0), 16, START_MS)
    assert logged == []
