"""Mutants of the engine: what is written when, and who is told."""

from __future__ import annotations

from fractions import Fraction
from functools import partial
from types import SimpleNamespace
from typing import Any

import msgspec

from tests.system.torture.mutants import module, mutant


@mutant
def acknowledge_before_commit() -> None:
    """Callers are answered when their events are on their way to the disk."""
    committer = module("embedded.committer").Committer
    record = committer.record

    def record_and_answer(self: Any, receipt: Any, reply: Any) -> None:
        record(self, receipt, reply)
        reply.durable()

    committer.record = record_and_answer


@mutant
def delivered_before_sent() -> None:
    """An attempt begins with its delivery settled as delivered, which saves a transaction."""
    deliveries, outbox = module("domain.deliveries"), module("embedded.outbox")
    arrived, lines = module("domain.outcomes").Outcome(), module("embedded.lines")
    begin, enqueue = outbox.begin_attempt, lines.enqueue

    def begin_and_settle(delivery: Any, now_ms: int) -> Any:
        begun = begin(delivery, now_ms)
        return deliveries.settle_attempt(begun, arrived, now_ms, Fraction(0))

    def enqueue_pending(txn: Any, delivery: Any) -> None:
        if delivery.status is deliveries.DeliveryStatus.PENDING:
            enqueue(txn, delivery)

    outbox.begin_attempt, lines.enqueue = begin_and_settle, enqueue_pending


@mutant
def asked_twice_goes_beside() -> None:
    """Who is asked for again while a later one of its customer is in the air joins that."""
    outbox, lines = module("embedded.outbox"), module("embedded.lines")
    send_again = outbox.send_again

    def send_again_and_queue(txn: Any, delivery: Any, now_ms: int) -> Any:
        again = send_again(txn, delivery, now_ms)
        if delivery.status == "pending" and again.begun_ms is None and not again.members:
            ((customer, place),) = lines._places(again)
            if lines._first(txn, customer)[0] == customer + place:
                lines.enqueue(txn, again)
        return again

    outbox.send_again = send_again_and_queue


@mutant
def no_key_check() -> None:
    """An idempotency key is written down, and never looked for."""
    engine, journal = module("embedded.engine"), module("embedded.journal")
    judge = engine.judge

    def judge_all_new(events: Any, key_of: Any, known: Any, admit: Any, *, partial: bool) -> Any:
        return judge(events, key_of, lambda _: None, admit, partial=partial)

    engine.judge = judge_all_new
    journal.write_used_key = lambda txn, key, record: txn.put("idempotency_keys", key, record)


@mutant
def recovery_counts_again() -> None:
    """A start counts what is behind the mark, whatever the hours say that they count already."""
    recovery = module("embedded.recovery")
    read_totals = recovery.journal.read_totals

    def forget_through(*place: Any) -> Any:
        found = read_totals(*place)
        return found and msgspec.structs.replace(found, through=b"")

    recovery.journal = SimpleNamespace(**{**vars(recovery.journal), "read_totals": forget_through})


@mutant
def total_without_event() -> None:
    """Totals are written in a transaction of their own, in front of the one with their events."""
    committer = module("embedded.committer").Committer
    write, wait = committer._write, committer._write_when_there_is_room

    async def in_two(self: Any, work: Any, replies: Any) -> None:
        receipts, changes, works = work.args
        await wait(self, partial(write, self, [], changes, works), [])
        await wait(self, partial(write, self, receipts, [], []), replies)

    committer._write_when_there_is_room = in_two


@mutant
def no_waiting_for_room() -> None:
    """A transaction that found the disk full is given up, and the next one is taken."""
    full = module("domain.errors").DiskFullError

    async def write_once(self: Any, write: Any, replies: Any) -> None:
        try:
            await self._hop(partial(self._store.write, write))
        except full:
            for reply in replies:
                reply.give_up()

    module("embedded.committer").Committer._write_when_there_is_room = write_once
