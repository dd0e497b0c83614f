"""Fixtures of many tests: a real daemon in a process of its own, over an empty folder; and what is
said at the end of a run.
"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import structlog
from hypothesis import HealthCheck, settings

from tests.daemon_process import DaemonProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

TESTS = Path(__file__).parent
# Machines that run tests are slow now and then; how long an example takes says nothing of the code.
settings.register_profile("meterd", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("meterd")
for shared in (
    *("ledger", "idempotency", "lateness", "voids"),
    *("closing", "snapshot", "delivery", "usage"),
):
    pytest.register_assert_rewrite(f"tests.{shared}_conformance")


def hear_signals() -> None:
    """A shell starts what it puts into the background deaf to Ctrl-C, and what that starts is deaf,
    too; daemons and commands are to be told to end here.
    """
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


hear_signals()

# Here nothing waits for another process or a socket; what is tried at random finds something else
# at a second try; and an event that is lost once is lost.
_DECIDED = ("domain", "embedded", "simulation", "work")
_AT_RANDOM = ("test_malformed.py", "test_torture.py", "test_schemathesis.py")
_COUNTS_LOSSES = ("test_failing_disk.py", "test_full_disk.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What runs in real time, against real processes, is tried twice: a machine that runs tests
    stands still for a second now and then. Who needed both is told of at the end of the run.
    """
    for item in items:
        folder = item.path.relative_to(TESTS).parts[0]
        at_random = hasattr(getattr(item, "obj", None), "hypothesis")
        is_once = at_random or item.path.name in (*_AT_RANDOM, *_COUNTS_LOSSES)
        if folder not in _DECIDED and not is_once:
            item.add_marker(pytest.mark.flaky(reruns=1))


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """What a test makes of logging, a daemon's level above all, ends with it."""
    yield
    structlog.reset_defaults()


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[DaemonProcess]:
    """A daemon with the event types and periods that meterd ships with."""
    running = DaemonProcess(tmp_path)
    yield running
    running.stop()


@pytest.fixture
def daemon_without_event_types(tmp_path: Path) -> Iterator[DaemonProcess]:
    running = DaemonProcess(tmp_path, event_types="")
    yield running
    running.stop()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says how often meterd was tortured, what came of it, what failed at first, and what was not
    run, and why.

    Here, and not in ``system``: where tests run in several processes, the one that speaks reads no
    other conftest.
    """
    lines = [
        str(value)
        for outcome in ("passed", "failed")
        for report in terminalreporter.stats.get(outcome, [])
        for name, value in report.user_properties
        if name == "torture"
    ]
    skipped = [
        f"{report.nodeid}: {report.longrepr[2]}"
        for report in terminalreporter.stats.get("skipped", [])
    ]
    again = [
        f"{report.nodeid}: {str(report.longrepr).splitlines()[-1]}"
        for report in terminalreporter.stats.get("rerun", [])
    ]
    for title, found in (
        ("torture", lines),
        ("TRIED AGAIN, failed at first", again),
        ("NOT RUN on this machine", skipped),
    ):
        if found:
            terminalreporter.section(title)
            for line in sorted(found):
                terminalreporter.write_line(line)
