"""The embedded engine against the plain model: ``tests/embedded/test_engine_model.py``, for long.

The same state machine as in the suite, in longer runs and many more of them, from seeds of its own.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

import hypothesis
import structlog
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.embedded.test_engine_model import EngineAndModel
from tests.system.torture.harness import Harness, Run, Tally
from tests.system.torture.mutants import apply
from tests.system.torture.parts import in_child

if TYPE_CHECKING:
    from tests.system.torture.parts import Tell

_STEPS: Final = 50
# Examples of one process. One that fails is made smaller before it is told, which takes minutes.
_CHUNK: Final = 250
_CHUNK_MAX_S: Final = 1_800


def torture(run: Run) -> Tally:
    tally = Tally()
    chunk = 0
    while tally.done < run.count and not tally.broken:
        count = min(_CHUNK, run.count - tally.done)
        seed = run.seed * 10_000 + chunk
        chunk_of = partial(_live, seed, count, run.mutant)
        tally.add(in_child(chunk_of, seconds=_CHUNK_MAX_S))
        run.done(tally.done)
        chunk += 1
    return tally


class _Counted(EngineAndModel):
    """Counts examples, and how often each rule was at work."""

    tally = Tally()

    def teardown(self) -> None:
        super().teardown()
        self.tally.done += 1
        self.tally.seen.update(self.happened)


def _live(seed: int, count: int, mutant: str | None, _: Tell) -> Tally:
    apply(mutant)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    machine: Any = hypothesis.seed(seed)(_Counted)
    told = settings(
        max_examples=count,
        stateful_step_count=_STEPS,
        deadline=None,
        database=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        # A mutant need not be made small.
        phases=(Phase.generate,) if mutant else (Phase.generate, Phase.shrink),
    )
    tally = _Counted.tally
    try:
        run_state_machine_as_test(machine, settings=told)
    except BaseException as broken:  # noqa: BLE001 - whatever it is, it is found
        notes = "\n".join(getattr(broken, "__notes__", ()))
        tally.find(f"hypothesis seed {seed}: {broken!r}\n{notes}", wrong=1)
    return tally


HARNESS = Harness(
    name="model",
    unit="examples of 50 steps",
    promise="Through crashes, clock steps, restarts and repeats engine and model always agree.",
    short=200,
    long=20_000,
    run=torture,
    mutants=(
        "recovery_counts_again",
        "unposted_not_read",
        "lost_event_at_midnight",
        "clock_step_back_reopens",
        "mark_overtakes_keys",
        "late_events_are_never_published",
        "late_events_stay_in_their_hour",
        "void_keeps_the_minimum",
        "late_events_are_in_no_digest",
        "prunes_a_record_too_many",
        "prunes_what_is_not_closed",
        "void_is_counted_from_what_is_left",
        "batch_is_formed_anew",
        "batch_keeps_who_left",
        "thresholds_are_told_behind_their_record",
        "thresholds_wait_for_aggregations",
    ),
    mutant_count=3_000,
)
