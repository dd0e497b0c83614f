"""meterd with one promise taken out. A harness that does not notice proves nothing.

Each mutant is applied for good, by patching, in a process of its own: a forked child, or a daemon
started with `python -m tests.system.torture.mutants NAME serve ...`.
"""

from __future__ import annotations

import importlib
import math
import sys
from fractions import Fraction
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

import msgspec

from meterd.domain.deliveries import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

MUTANTS: Final[dict[str, Callable[[], None]]] = {}


def mutant(change: Callable[[], None]) -> Callable[[], None]:
    """Names a mutant after its function, whose docstring says what was taken out."""
    MUTANTS[change.__name__] = change
    return change


def patch(where: object, name: str, value: object) -> None:
    """For as long as this process lives."""
    assert hasattr(where, name), f"there is no {name} to be mutated"
    setattr(where, name, value)


def apply(name: str | None) -> None:
    """Makes this process that mutant; None leaves meterd as it is."""
    if name is not None:
        MUTANTS[name]()


def _meterd(name: str) -> Any:
    """A module, whatever of it is to be replaced."""
    return importlib.import_module(f"meterd.{name}")


# The engine


@mutant
def acknowledge_before_commit() -> None:
    """Callers are answered when their events are on their way to the disk."""
    committer = _meterd("embedded.committer").Committer
    record = committer.record

    def record_and_answer(self: Any, receipt: Any, reply: Any) -> None:
        record(self, receipt, reply)
        reply.durable()

    committer.record = record_and_answer


@mutant
def delivered_before_sent() -> None:
    """An attempt begins with its delivery settled as delivered, which saves a transaction."""
    deliveries, outbox = _meterd("domain.deliveries"), _meterd("embedded.outbox")
    begin, enqueue = outbox.begin_attempt, outbox._enqueue

    def begin_and_settle(delivery: Any, now_ms: int) -> Any:
        begun = begin(delivery, now_ms)
        return deliveries.settle_attempt(begun, deliveries.Outcome(), now_ms, Fraction(0))

    def enqueue_pending(txn: Any, delivery: Any) -> None:
        if delivery.status is deliveries.DeliveryStatus.PENDING:
            enqueue(txn, delivery)

    outbox.begin_attempt, outbox._enqueue = begin_and_settle, enqueue_pending


@mutant
def no_key_check() -> None:
    """An idempotency key is written down, and never looked for."""
    engine, journal = _meterd("embedded.engine"), _meterd("embedded.journal")
    judge = engine.judge

    def judge_all_new(events: Any, key_of: Any, known: Any, *, partial: bool) -> Any:
        return judge(events, key_of, lambda _: None, partial=partial)

    engine.judge = judge_all_new
    journal.write_used_key = lambda txn, key, record: txn.put("idempotency_keys", key, record)


@mutant
def recovery_counts_again() -> None:
    """A start counts what is behind the mark, whatever the hours say that they count already."""
    recovery = _meterd("embedded.recovery")
    read_totals = recovery.journal.read_totals

    def forget_through(*place: Any) -> Any:
        found = read_totals(*place)
        return found and msgspec.structs.replace(found, through=b"")

    recovery.journal = SimpleNamespace(**{**vars(recovery.journal), "read_totals": forget_through})


# Webhooks


@mutant
def no_deadline() -> None:
    """An attempt may take as long as its receiver likes."""
    from meterd.edge import egress

    made = egress.Sender.__init__

    def patient(self: egress.Sender, client: Any, guard: Any, _: float) -> None:
        made(self, client, guard, math.inf)

    patch(egress.Sender, "__init__", patient)


@mutant
def no_answer_limit() -> None:
    """An answer may be as long as its receiver likes."""
    from meterd.edge import egress

    patch(egress, "ANSWER_BYTES_MAX", sys.maxsize)


@mutant
def broken_off_is_delivered() -> None:
    """An answer that broke off counts as one."""
    from meterd.edge import egress

    post = egress.Sender.post

    async def easy(self: egress.Sender, *request: Any) -> Outcome:
        outcome = await post(self, *request)
        broken = (outcome.error or "").startswith(("read ", "Parse Error", "socket hang up"))
        return Outcome() if broken else outcome

    patch(egress.Sender, "post", easy)


def _main() -> None:
    from meterd.cli import main

    apply(sys.argv.pop(1))
    main()


if __name__ == "__main__":
    _main()
