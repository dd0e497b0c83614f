"""What an engine must know after power loss, by the model: everything that was promised, nothing
that was not sent, each once, and from there on everything as if nothing had happened.
"""

from __future__ import annotations

from collections import Counter
from copy import deepcopy
from typing import TYPE_CHECKING

import trio

from meterd.embedded.transaction import TABLES
from tests.embedded.engine_bench import EngineBench
from tests.embedded.model_choices import undigested
from tests.ledger_bench import ALL, EVERY_AGGREGATION, EVERY_EVENT, START_MS, SettableClock
from tests.model_ledger import ModelLedger
from tests.system.torture.disks.life import (
    RULES,
    Append,
    Claim,
    Mark,
    Settle,
    Step,
    act_on,
    close_ended,
    run_at_once,
    tag,
)
from tests.system.torture.harness import Tally

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from meterd.domain.deliveries import Delivery
    from meterd.domain.events import UsageEvent
    from meterd.domain.stored_events import StoredEvent
    from meterd.embedded.store import Store
    from meterd.ledger import Ledger

START = Step(START_MS, Append([]))


class Witness:
    """Hears the marks in their order, and knows what was promised by the last of them."""

    def __init__(self, steps: list[Step], log: list[StoredEvent]) -> None:
        self._steps = steps
        self._log = log
        self._place = {tag(stored.event): at for at, stored in enumerate(log)}
        self._clock = SettableClock(START_MS)
        self._model = ModelLedger(self._clock)
        self._claimed: list[Delivery] = []
        self._step: Step | None = None  # the one that has begun and is not over
        self._sent: dict[int, UsageEvent] = {}
        self.acknowledged: set[int] = set()

    def hear(self, mark: Mark) -> None:
        if mark.step < 0:
            return
        step = self._steps[mark.step]
        if mark.batch is not None:
            assert isinstance(step.act, Append)
            self.acknowledged.update(map(tag, step.act.batches[mark.batch]))
        elif not mark.is_over:
            self._step = step
            self._clock.now_ms = step.now_ms
            if isinstance(step.act, Append):
                self._sent.update(
                    (tag(event), event) for batch in step.act.batches for event in batch
                )
        else:
            self._step = None
            run_at_once(lambda: self._replay(step))

    def look(self, folder: Path) -> Tally:
        """Opens what is in the folder and compares; changes this witness: it is asked once."""
        tally = Tally()
        try:
            run_at_once(lambda: self._look(folder, tally))
        except (Exception, ExceptionGroup) as fault:  # noqa: BLE001 - whatever it is, it is wrong
            tally.find(repr(_innermost(fault)), wrong=1)
        return tally

    async def _look(self, folder: Path, tally: Tally) -> None:
        async with trio.open_nursery() as nursery:
            bench = EngineBench(folder, nursery, self._clock)
            await bench.start()
            log = (await bench.ledger.events(EVERY_EVENT, limit=ALL))[::-1]
            self._compare_log(log, tally)
            if not tally.broken:
                await self._catch_up(bench.ledger, log, tally)
                await self._compare_rest(bench.ledger, tally)
                read_all(bench.store)
            await bench.stop()

    def _compare_log(self, log: list[StoredEvent], tally: Tally) -> None:
        """The log is what the first engine made, up to some moment: ids and times as well."""
        times = Counter(tag(stored.event) for stored in log)
        if lost := self.acknowledged - times.keys():
            tally.find(f"lost {_some(lost)}", lost=len(lost))
        if twice := [which for which, number in times.items() if number > 1]:
            tally.find(f"twice {_some(twice)}", twice=len(twice))
        if unsent := times.keys() - self._sent.keys():
            tally.find(f"stored and not sent {_some(unsent)}", wrong=1)
        if log != self._log[: len(log)]:
            tally.find("the log is not what it was", wrong=1)

    async def _catch_up(self, ledger: Ledger, log: list[StoredEvent], tally: Tally) -> None:
        """Has the model do what of the last step is on the disk."""
        match self._step:
            case Step(_, Append(batches)):
                stored = {tag(one.event) for one in log}
                for batch in self._in_order(batches):
                    there = [tag(event) in stored for event in batch]
                    if any(there) and not all(there):
                        tally.find("half a batch is stored", wrong=1)
                    if any(there):
                        await self._model.append(batch)
            case Step(_, Claim() | Settle()) as step:
                without = deepcopy(self._model)
                without.restarted()
                if await _published(ledger) != await _published(without):
                    self._claimed = await act_on(self._model, step, self._claimed)
        self._model.restarted()

    async def _compare_rest(self, ledger: Ledger, tally: Tally) -> None:
        # Clients repeat all that has a key, answered or not.
        again = [event for event in self._sent.values() if event.idempotency_key]
        if await ledger.append(again) != await self._model.append(again):
            tally.find("a repeat is not answered as it should", wrong=1)
        for one in (ledger, self._model):
            await close_ended(one, self._clock.now_ms)
            await one.snapshot(RULES)
        if await _published(ledger) != await _published(self._model):
            tally.find("aggregations or deliveries are not as if nothing had happened", wrong=1)
        ours, theirs = [
            [(one.event, one.received_ms) for one in await each.events(EVERY_EVENT, limit=ALL)]
            for each in (ledger, self._model)
        ]
        if ours != theirs:
            tally.find("the log is not the model's", wrong=1)

    async def _replay(self, step: Step) -> None:
        if isinstance(step.act, Append):
            for batch in self._in_order(step.act.batches):
                await self._model.append(batch)
        else:
            self._claimed = await act_on(self._model, step, self._claimed)

    def _in_order(self, batches: list[list[UsageEvent]]) -> list[list[UsageEvent]]:
        """As they were stored."""
        return sorted(batches, key=lambda batch: self._place[tag(batch[0])])


async def _published(ledger: Ledger) -> object:
    return undigested(await ledger.aggregations(EVERY_AGGREGATION, limit=ALL))


def _some(tags: Iterable[int]) -> str:
    """Enough to find the others."""
    first, *others = sorted(tags)
    return f"event {first} and {len(others)} more" if others else f"event {first}"


def read_all(
    store: Store, see: Callable[[str, bytes, bytes], None] = lambda table, key, payload: None
) -> None:
    """Every record is checked as it is read."""
    with store.read() as txn:
        for table in TABLES:
            for key, payload in txn.forward(table, b"", b""):
                see(table, key, payload)


def _innermost(fault: BaseException) -> BaseException:
    while isinstance(fault, BaseExceptionGroup):
        fault = fault.exceptions[0]
    return fault
