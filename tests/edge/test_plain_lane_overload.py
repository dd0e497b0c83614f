"""The fast lane when a client sends more than it can be served."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING, Any, Final

import pytest
import trio

from meterd.edge.limits import PIECE_BYTES, Limits
from tests.edge.lane_bench import BATCH, EVENT, ITEM, lane, request
from tests.edge.loopback import GET

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meterd.domain.events import UsageEvent
    from meterd.domain.idempotency import Recorded

AT_ONCE: Final = Limits(sent_ahead_s=0.0)
WAITED: Final = {"error": "Overloaded: too many requests were sent ahead of their answers"}


async def test_who_waited_too_long_behind_others_is_refused() -> None:
    """In order, each with its answer; what comes after is served, and nothing refused is stored."""
    head, _, body = request(EVENT).rpartition(b"{")
    async with lane(fast=True, limits=AT_ONCE) as fast, await fast.door.connect() as client:
        await client.send(request(EVENT) * 4 + head)
        assert (await client.answer()).status == 201
        for _ in range(3):
            refused = await client.answer()
            assert (refused.status, refused.json) == (503, WAITED)
            assert refused.fields["retry-after"] == "1"
        assert (await client.ask(b"{" + body)).status == 201, "that one came in two pieces"
        assert (await client.ask(request(EVENT))).status == 201
        assert len(await fast.stored()) == 3
        assert fast.by_hypercorn == []


async def test_what_the_kernel_holds_has_waited_as_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused with the rest, or a piece of it would be served each second."""
    count = 3 * PIECE_BYTES // len(request(EVENT))
    async with lane(fast=True, limits=AT_ONCE) as fast, await fast.door.connect() as client:
        append, has_all_come = fast.ledger.append, trio.Event()

        async def waits(events: Sequence[UsageEvent], **rest: Any) -> list[Recorded]:
            await has_all_come.wait()
            return await append(events, **rest)

        monkeypatch.setattr(fast.ledger, "append", waits)
        await client.send(request(EVENT) * count)
        has_all_come.set()
        statuses = [(await client.answer()).status for _ in range(count)]
        assert statuses == [201] + [503] * (count - 1)
        assert (await client.ask(request(EVENT))).status == 201
        assert fast.plain is not None
        counted = fast.plain.requests()
        by_status = {status: count for (*_, status), count in counted.items() if count}
        assert by_status == {201: 2, 503: count - 1}


@pytest.mark.parametrize("other", [GET])
async def test_what_is_not_plain_is_left_to_the_other_lane(other: bytes) -> None:
    """Also when it stands behind what is refused."""
    async with lane(fast=True, limits=AT_ONCE) as fast, await fast.door.connect() as client:
        await client.send(request(EVENT) * 3 + other)
        statuses = [(await client.answer()).status for _ in range(4)]
        assert statuses[:3] == [201, 503, 503]
        assert statuses[3] in (200, 401)
        assert len(fast.by_hypercorn) == 1


async def test_within_its_time_all_are_served() -> None:
    """A client that sends ahead what can be served is served."""
    async with lane(fast=True) as fast, await fast.door.connect() as client:
        await client.send(request(EVENT) * 50)
        assert [(await client.answer()).status for _ in range(50)] == [201] * 50


async def test_a_body_is_held_once_while_it_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """With hundreds of connections, a second one would be the most of the memory."""
    large = request(b"[" + ITEM + b" " * 200_000 + b"]", line=BATCH)
    async with lane(fast=True) as fast, await fast.door.connect() as client:
        held: list[int] = []
        append = fast.ledger.append

        async def weighed(events: Sequence[UsageEvent], **rest: Any) -> list[Recorded]:
            held.append(tracemalloc.get_traced_memory()[0])
            return await append(events, **rest)

        monkeypatch.setattr(fast.ledger, "append", weighed)
        tracemalloc.start()
        try:
            assert (await client.ask(large)).status == 201
        finally:
            tracemalloc.stop()
    assert 1 <= held[0] / len(large) < 1.5
