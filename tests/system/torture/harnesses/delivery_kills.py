"""kill -9 of the real daemon while receivers have its webhooks and did not answer, or just did."""

from __future__ import annotations

from functools import partial

from tests.system.torture.daemons.life import WHILE_DELIVERING
from tests.system.torture.harness import Harness
from tests.system.torture.harnesses.daemon_kills import kill

HARNESS = Harness(
    name="delivery_kills",
    unit="kills",
    promise="What closed is delivered, and whoever got it twice is told so in its log of attempts.",
    short=15,
    long=1_200,
    run=partial(kill, odds=WHILE_DELIVERING),
    mutants=("delivered_before_sent", "interrupted_was_not_begun", "batch_is_formed_anew"),
    mutant_count=20,
)
