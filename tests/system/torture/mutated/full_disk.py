"""Mutants of waiting for room: what becomes of a transaction that found none, and of who waits."""

from __future__ import annotations

from functools import partial
from typing import Any

import trio

from tests.system.torture.mutants import module, mutant


@mutant
def full_disk_forgets() -> None:
    """What a transaction that found no room would have written is forgotten."""
    committer, errors = module("embedded.committer"), module("domain.errors")

    def write_little(txn: Any) -> None:
        txn.put("meta", b"mutant", bytes(1 << 20))  # to know when there is room

    async def write_once(self: Any, write: Any, replies: Any) -> None:
        while True:
            try:
                await self._hop(partial(self._store.write, write))
            except errors.DiskFullError:
                self.is_full, write = True, write_little
                for reply in (*replies, *self._replies):
                    reply.give_up()
                await trio.sleep(committer.FULL_SECONDS)
            else:
                self.is_full = False
                return

    committer.Committer._write_when_there_is_room = write_once


@mutant
def full_disk_answers_201() -> None:
    """Who waits for a transaction that found no room is told that it is done."""

    def answer(self: Any) -> None:
        self._bell.ring()

    module("embedded.mailbox").Reply.give_up = answer


@mutant
def refused_and_stored() -> None:
    """Who comes without keys while the disk is full is told that nothing was stored, and all is
    when there is room.
    """
    engine, mailbox = module("embedded.engine"), module("embedded.mailbox")
    repeats = engine.EmbeddedLedger._repeats

    def send_all_the_same(self: Any, events: Any, admission: Any, *, partial: bool) -> Any:
        judged = self._judge(events, admission, partial=partial)
        if judged.new and not judged.used:
            by_customer = engine.group_by_customer(judged.new)
            self._send(judged, by_customer, mailbox.Reply(1))
        return repeats(self, events, admission, partial=partial)

    engine.EmbeddedLedger._repeats = send_all_the_same


@mutant
def refused_though_it_waits() -> None:
    """A repeat of what waits for room is told that nothing was stored."""
    errors = module("domain.errors")

    def refuse(*_: Any, **__: Any) -> Any:
        raise errors.DiskFullError("the disk is full")

    module("embedded.engine").EmbeddedLedger._repeats = refuse


@mutant
def unposted_not_read() -> None:
    """On a full disk what is not posted is not read of a customer."""
    module("embedded.recovery").post_theirs = lambda *_: None
