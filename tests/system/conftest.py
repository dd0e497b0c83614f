"""Says at the end of a test run how often meterd was tortured, and what came of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    lines = [
        value
        for outcome in ("passed", "failed")
        for report in terminalreporter.stats.get(outcome, [])
        for name, value in report.user_properties
        if name == "torture"
    ]
    if lines:
        terminalreporter.section("torture")
        for line in sorted(lines):
            terminalreporter.write_line(str(line))
