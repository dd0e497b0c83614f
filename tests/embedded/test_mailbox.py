"""Mailboxes keep order and bounds, replies wait for all, and the gate lets appends in whole."""

from __future__ import annotations

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from meterd.embedded.mailbox import Gate, Mailbox, Reply


async def test_messages_come_in_order_and_then_the_end() -> None:
    """What was put before the close is still received."""
    mailbox: Mailbox[int] = Mailbox(10)
    received: list[int | None] = []

    async def receive() -> None:
        while (message := await mailbox.receive()) is not None:
            received.append(message)
        received.append(None)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await wait_all_tasks_blocked()
        mailbox.put(1)
        mailbox.put(2)
        await wait_all_tasks_blocked()
        assert received == [1, 2]
        mailbox.put(3)
        mailbox.close()
    assert received == [1, 2, 3, None]


def test_a_mailbox_has_room_up_to_its_limit() -> None:
    """Whoever puts asks first."""
    mailbox: Mailbox[int] = Mailbox(2)
    mailbox.put(1)
    assert mailbox.has_room()
    mailbox.put(2)
    assert not mailbox.has_room()
    assert len(mailbox) == 2


def test_nothing_is_put_behind_the_end() -> None:
    """A message to a retired actor would be lost: that is our own mistake."""
    mailbox: Mailbox[int] = Mailbox(2)
    mailbox.close()
    with pytest.raises(AssertionError):
        mailbox.put(1)


async def test_a_reply_waits_for_every_message() -> None:
    """Not for all but one."""
    reply = Reply(3)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reply.wait)
        for left in (2, 1, 0):
            await wait_all_tasks_blocked()
            assert nursery.child_tasks
            assert left >= 0
            reply.durable()


async def test_a_reply_to_nothing_is_there_at_once() -> None:
    """Who asked nobody waits for nobody."""
    with trio.fail_after(5):
        await Reply(0).wait()


async def turns() -> None:
    """Lets all others run a few times; whoever holds the gate looks again each time."""
    for _ in range(5):
        await trio.lowlevel.checkpoint()


async def test_the_gate_holds_until_all_that_was_let_in_is_decided() -> None:
    """And lets in nobody meanwhile; released, everybody."""
    gate = Gate()
    happened: list[str] = []
    gate.sent()
    gate.sent()

    async def hold() -> None:
        await gate.hold()
        happened.append("held")

    async def come() -> None:
        await gate.wait_open()
        happened.append("came")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hold)
        await turns()
        gate.decided()
        nursery.start_soon(come)
        await turns()
        assert happened == []
        gate.decided()
        await turns()
        assert happened == ["held"]
        gate.release()
    assert happened == ["held", "came"]


async def test_an_open_gate_stops_nobody() -> None:
    """No checkpoint between coming and sending: an append is let in whole."""
    gate = Gate()
    await gate.wait_open()
    await gate.hold()
    gate.release()
    await gate.wait_open()
