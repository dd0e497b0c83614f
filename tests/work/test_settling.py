"""Deliveries are settled together, and nobody goes on before the disk has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import msgspec
import trio
from trio.testing import wait_all_tasks_blocked

from meterd.domain.probes import probe
from meterd.work.settling import Group, Settling

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meterd.domain.deliveries import Delivery
    from meterd.ledger import Ledger


class SlowLedger:
    """Writes when it is let."""

    def __init__(self) -> None:
        self.written: list[list[int]] = []
        self.may_write = trio.Semaphore(0)

    async def settle(self, deliveries: Sequence[Delivery], *more: Any) -> None:
        await self.may_write.acquire()
        self.written.append([one.attempts for one in deliveries])


async def test_what_ends_while_others_are_written_goes_together() -> None:
    """The first of a group answers for it."""
    ledger = SlowLedger()
    settling = Settling(cast("Ledger", ledger))
    ended: dict[int, Group | None] = {}

    async def settle(number: int) -> None:
        message = probe("billing", number, 0)
        ended[number] = await settling.settle(_numbered(message, number), None, None)

    async with trio.open_nursery() as nursery:
        for number in (1, 2, 3):
            nursery.start_soon(settle, number)
            await wait_all_tasks_blocked()
        assert ended == {}
        ledger.may_write.release()
        await wait_all_tasks_blocked()
        assert list(ended) == [1]
        ledger.may_write.release()
    assert ledger.written == [[1], [2, 3]]
    groups = [group is None for _, group in sorted(ended.items())]
    assert groups == [False, False, True]


def _numbered(message: Delivery, number: int) -> Delivery:
    return msgspec.structs.replace(message, attempts=number)
