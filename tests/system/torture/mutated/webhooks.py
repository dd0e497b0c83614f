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


@mutant
def interrupted_was_not_begun() -> None:
    """What was in the air at a kill is put back as if nobody had got it."""
    from meterd.domain.deliveries import Delivery, withdrawn
    from meterd.embedded import attempt_log, outbox

    def interrupted(begun: Delivery, now_ms: int) -> Delivery:
        return withdrawn(begun)

    patch(outbox, "interrupted", interrupted)
    write = attempt_log.write

    def forgetful(txn: Any, attempt: Any) -> None:
        if attempt.ended_ms is not None:
            write(txn, attempt)

    patch(attempt_log, "write", forgetful)


@mutant
def batch_is_formed_anew() -> None:
    """What was in the air in a batch at a kill is put back one by one, as if it was never sent."""
    from meterd.embedded import batches, lines, outbox, records

    recover = outbox.recover

    def recover_alone(txn: Any, now_ms: int, limit: int) -> int:
        for key in list(txn.keys_forward("in_air", b"", b"")):
            begun = records.decode_delivery(txn.get("deliveries", key))
            if not begun.is_batch:
                continue
            txn.delete("in_air", key)
            for sequence in begun.sequences:
                one = outbox.get(txn, begun.endpoint_id, sequence)
                batches.leave(txn, one)
                lines.enqueue(txn, one)
        return recover(txn, now_ms, limit)

    patch(outbox, "recover", recover_alone)


@mutant
def batch_keeps_who_left() -> None:
    """What is sent again alone goes on having the state of the batch that it was in."""
    from meterd.embedded import batches

    patch(batches, "leave", lambda txn, delivery: None)
