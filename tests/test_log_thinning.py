"""What the log says when something happens again and again."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from structlog.testing import LogCapture

from meterd.domain.config import Config
from meterd.log_lines import set_up_logging
from meterd.log_repeats import WINDOW_S, WRITTEN_MAX
from meterd.log_thinning import LEFT_OUT, Thinning
from meterd.work.delivery_log import DRY_RUN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

COUNT = 500


class Timers:
    """Time that a test moves, and what is to happen then."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.waiting: list[tuple[float, Callable[[], None]]] = []
        self.cancelled = 0
        self.fails = False
        timers = self

        class Timer:
            daemon = False

            def __init__(self, interval: float, function: Callable[[], None]) -> None:
                self._due = (timers.now_s + interval, function)

            def start(self) -> None:
                assert self.daemon, "it would keep the process from ending"
                if timers.fails:
                    raise RuntimeError("can't start new thread")
                timers.waiting.append(self._due)

            def cancel(self) -> None:
                timers.cancelled += 1
                timers.waiting.remove(self._due)

        self.make = Timer

    def pass_s(self, seconds: float) -> None:
        self.now_s += seconds
        due = [each for each in self.waiting if each[0] <= self.now_s]
        self.waiting = [each for each in self.waiting if each[0] > self.now_s]
        for _, happens in due:
            happens()


@pytest.fixture
def timers() -> Timers:
    return Timers()


@pytest.fixture
def thinning(timers: Timers) -> Thinning:
    return Thinning(lambda: timers.now_s, timers.make)


@pytest.fixture
def written(thinning: Thinning) -> Iterator[list[dict[str, Any]]]:
    """What gets through, under meterd's own loggers."""
    capture = LogCapture()
    set_up_logging(Config())
    levels = structlog.processors.add_log_level, structlog.stdlib.add_logger_name
    structlog.configure(processors=[*levels, thinning, capture])
    yield capture.entries  # type: ignore[misc]
    structlog.reset_defaults()


def repeats(written: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [entry for entry in written if entry["event"] == LEFT_OUT]


def test_a_flood_is_some_entries_and_a_number(
    timers: Timers, written: list[dict[str, Any]]
) -> None:
    """The number has the kind's level, logger and what tells it from others."""
    for number in range(COUNT):
        structlog.get_logger("delivery").error("parked", endpoint="billing", delivery=str(number))
    assert [entry["delivery"] for entry in written] == [str(n) for n in range(WRITTEN_MAX)]
    timers.pass_s(WINDOW_S - 1)
    assert len(written) == WRITTEN_MAX
    timers.pass_s(1)
    assert len(timers.waiting) == 0, "nothing runs while nothing repeats itself"
    told = {
        "event": LEFT_OUT,
        "of": "parked",
        "repeated": COUNT - WRITTEN_MAX,
        "seconds": 60,
        "endpoint": "billing",
        "level": "error",
        "log_level": "error",
        "logger": "delivery",
    }
    assert written[WRITTEN_MAX:] == [told]


def test_the_end_tells_what_is_left(
    timers: Timers, thinning: Thinning, written: list[dict[str, Any]]
) -> None:
    """Without waiting for the window's end, and once."""
    for _ in range(COUNT):
        structlog.get_logger().warning("a")
    thinning.tell_all()
    thinning.tell_all()
    assert [entry["repeated"] for entry in repeats(written)] == [COUNT - WRITTEN_MAX]
    assert (timers.cancelled, timers.waiting) == (1, [])


def test_several_floods_are_told_each(timers: Timers, written: list[dict[str, Any]]) -> None:
    """By one timer after another."""
    for endpoint in ("one", "two"):
        for _ in range(COUNT):
            structlog.get_logger().warning("a", endpoint=endpoint)
        timers.pass_s(10)
        assert len(timers.waiting) == 1
    timers.pass_s(WINDOW_S)
    timers.pass_s(WINDOW_S)
    assert [entry["endpoint"] for entry in repeats(written)] == ["one", "two"]


@pytest.mark.parametrize("level", ["debug", "critical"])
def test_some_levels_are_whole(level: str, thinning: Thinning) -> None:
    """At debug everything was asked for; what is critical is never left out."""
    entry = {"event": "a", "level": level, "logger": "b"}
    assert [thinning(None, level, entry) for _ in range(COUNT)] == [entry] * COUNT


def test_a_dry_run_is_whole(written: list[dict[str, Any]]) -> None:
    """Who makes one wants to see what would be sent."""
    for _ in range(COUNT):
        structlog.get_logger("delivery").info(DRY_RUN)
    assert len(written) == COUNT


def test_another_mistake_is_another_kind(written: list[dict[str, Any]]) -> None:
    """By what was raised and where, also within a group, and as the exception under way."""

    def first() -> None:
        raise ValueError("a")

    def second() -> None:
        raise ValueError("a")

    log = structlog.get_logger("api")
    for _ in range(COUNT):
        for mistake in (first, second):
            try:
                mistake()
            except ValueError as fault:
                log.exception("request failed")
                log.exception("connection failed", exc_info=ExceptionGroup("", [fault]))
    assert len(written) == 4 * WRITTEN_MAX


def test_without_a_thread_the_end_tells(
    timers: Timers, thinning: Thinning, written: list[dict[str, Any]]
) -> None:
    """The process may have no more of them: that costs no one who logs anything."""
    timers.fails = True
    for _ in range(COUNT):
        structlog.get_logger().warning("a")
    assert timers.waiting == []
    thinning.tell_all()
    assert [entry["repeated"] for entry in repeats(written)] == [COUNT - WRITTEN_MAX]


def test_threads_may_log_at_once(thinning: Thinning, written: list[dict[str, Any]]) -> None:
    """Nothing is written twice or lost."""

    def flood() -> None:
        for _ in range(COUNT):
            structlog.get_logger().warning("a")

    threads = [threading.Thread(target=flood) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    thinning.tell_all()
    assert len(written) == WRITTEN_MAX + 1
    assert repeats(written)[0]["repeated"] == 4 * COUNT - WRITTEN_MAX
