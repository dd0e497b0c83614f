"""What the workers of one endpoint have in common: its standing is the endpoint's, not theirs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import trio

from meterd.domain.outcomes import Outcome
from tests.work.outbox_bench import BILLING, OutboxBench

if TYPE_CHECKING:
    from trio.testing import MockClock

GONE = Outcome("HTTP 410: Gone", status=410)
MORE_SLOTS = msgspec.structs.replace(BILLING, slots=5)


async def test_another_worker_gives_back_what_it_claimed_when_the_endpoint_is_gone(
    autojump_clock: MockClock,
) -> None:
    """The one with the slots of before is answered so while the new one's hang."""
    bench = OutboxBench(msgspec.structs.replace(BILLING, slots=1))
    left = iter([(GONE, 5), *[(Outcome(), 9)] * 5])

    async def answer() -> Outcome:
        outcome, after_s = next(left)
        await trio.sleep(after_s)
        return outcome

    bench.receivers.answers["billing"] = answer
    await bench.close_hour(*(f"c{number}" for number in range(20)))
    async with bench.running():
        await trio.sleep(1)
        bench.reload(MORE_SLOTS)
        await trio.sleep(3600)
        state = await bench.ledger.endpoint_state("billing")
        assert state.is_disabled(BILLING.url)
    assert len(bench.receivers.attempts) == 6
