"""What an operator hears of a clock that was ahead, or is behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
from structlog.testing import capture_logs

from meterd.domain.periods import DAY_MS
from meterd.embedded.ahead import SAID_SECONDS, TOLERATED_MS, Ahead
from tests.embedded.engine_bench import running
from tests.ledger_bench import START_MS, event

if TYPE_CHECKING:
    from pathlib import Path

    from trio.testing import MockClock


async def test_it_is_said_when_it_begins_each_hour_and_when_it_ends(
    autojump_clock: MockClock,
) -> None:
    """However many events come meanwhile; and a second time is said as well."""
    ahead = Ahead()
    with capture_logs() as logged:
        for _ in range(2):
            ahead.look(START_MS, START_MS)
            ahead.look(START_MS, START_MS + TOLERATED_MS)
            assert logged == []
            for _ in range(5):
                ahead.look(START_MS, START_MS + DAY_MS)
                await trio.sleep(SAID_SECONDS / 4)
            ahead.look(START_MS + DAY_MS, START_MS + DAY_MS)
            ahead.look(START_MS + DAY_MS, START_MS + DAY_MS)
            assert [entry["log_level"] for entry in logged] == ["error", "error", "warning"]
            assert logged[0]["behind"] == "1d"
            assert (logged[0]["clock"], logged[0]["dated"]) == (
                "2026-01-14T11:15:00.000Z",
                "2026-01-15T11:15:00.000Z",
            )
            logged.clear()


async def test_an_engine_says_it_with_the_first_event_and_at_its_start(tmp_path: Path) -> None:
    """A clock was a year ahead for one event."""
    async with running(tmp_path) as bench:
        ledger = bench.ledger
        with capture_logs() as logged:
            bench.clock.now_ms = START_MS + 365 * DAY_MS
            await ledger.append([event()])
            assert (logged, ledger.ahead_ms) == ([], 0)
            bench.clock.now_ms = START_MS + 1000
            for _ in range(3):
                await ledger.append([event()])
            assert [entry["behind"] for entry in logged] == ["364d23h59m59s"]
            assert ledger.ahead_ms == 365 * DAY_MS - 1000
            await bench.restart()
            assert [entry.get("behind") for entry in logged][-1] == "364d23h59m59s"
            assert sum("behind" in entry for entry in logged) == 2
            bench.clock.now_ms = START_MS + 365 * DAY_MS
            assert bench.ledger.ahead_ms == 0
            await bench.ledger.append([event()])
            assert logged[-1]["event"].startswith("the clock has caught up")
