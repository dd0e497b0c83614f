"""`make torture` for some minutes: one run after another, none of which repeats another."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from click.testing import CliRunner

from tests.system.torture import __main__ as torture
from tests.system.torture.harness import Harness, Run, Tally

if TYPE_CHECKING:
    import pytest

SCENARIOS = 50_000  # more than any run of the long tier has


def test_no_run_of_a_sitting_does_again_what_another_has_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Though a harness goes on from its seed, a number for each of its scenarios."""
    lived: list[range] = []

    def live(run: Run) -> Tally:
        tally = Tally(done=run.count)
        lived.append(range(run.seed, run.seed + SCENARIOS))
        if len(lived) == 3:
            tally.find("that is enough", wrong=1)
        return tally

    counting = Harness("counting", "scenarios", "", 1, SCENARIOS, live)
    monkeypatch.setattr(torture, "harnesses", lambda: [counting])
    monkeypatch.setenv("TORTURE_SEED", "4711")
    ended = CliRunner().invoke(torture.main, ["--minutes", "60"])
    assert ended.exit_code == 1, ended.output
    assert lived[0].start == 4711
    assert all(first.stop <= second.start for first, second in pairwise(lived))
    assert len(lived) == 3
