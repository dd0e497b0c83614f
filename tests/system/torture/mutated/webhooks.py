"""Mutants of the sender of webhooks."""

from __future__ import annotations

import math
import sys
from typing import Any

from meterd.domain.outcomes import Outcome
from tests.system.torture.mutants import mutant, patch


@mutant
def no_deadline() -> None:
    """An attempt may take as long as its receiver likes."""
    from meterd.edge import egress

    post = egress.Sender.post

    async def patient(self: egress.Sender, *request: Any, deadline_s: float) -> Outcome:
        return await post(self, *request, deadline_s=math.inf)

    patch(egress.Sender, "post", patient)


@mutant
def no_answer_limit() -> None:
    """An answer may be as long as its receiver likes."""
    from meterd.edge import answers

    patch(answers, "ANSWER_BYTES_MAX", sys.maxsize // 4)


@mutant
def broken_off_is_delivered() -> None:
    """An answer that broke off counts as one."""
    from meterd.edge import egress

    post = egress.Sender.post

    async def easy(self: egress.Sender, *request: Any, deadline_s: float) -> Outcome:
        outcome = await post(self, *request, deadline_s=deadline_s)
        broken = (outcome.error or "").startswith(("read ", "Parse Error", "socket hang up"))
        return Outcome() if broken else outcome

    patch(egress.Sender, "post", easy)
