"""What the model test does with a disk that runs full."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, TypeVar

import hypothesis.strategies as st
import pytest
from hypothesis.stateful import RuleBasedStateMachine, rule
from trio.testing import wait_all_tasks_blocked

from meterd.domain.errors import DiskFullError, UnavailableError
from meterd.domain.periods import PeriodType
from meterd.domain.usage import UsageQuery
from meterd.embedded.committer import FULL_SECONDS
from meterd.ledger import EventQuery
from tests.embedded.engine_bench import inline
from tests.embedded.model_choices import CUSTOMERS, shown
from tests.embedded.test_engine_full_disk import Disk
from tests.ledger_bench import ALL, event

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Awaitable, Callable

    from meterd.domain.usage import WindowTotals
    from meterd.ledger import Ledger
    from tests.embedded.engine_bench import EngineBench
    from tests.embedded.trio_thread import TrioThread
    from tests.model_thresholds import ModelThresholds

T = TypeVar("T")


def _counted(window: WindowTotals) -> object:
    """Without ids, which every engine makes for itself; and whether it is closed is told of hours
    that were over before anybody used them, too, which the model never closed.
    """
    by_type = {
        name: (one.count, one.sum, one.min, one.max, one.first, one.last)
        for name, one in window.by_type.items()
    }
    return window.period, by_type


class FullDiskRules(RuleBasedStateMachine):
    """Part of ``EngineAndModel``."""

    bench: EngineBench
    loop: TrioThread
    model: ModelThresholds
    happened: Counter[str]

    @abstractmethod
    def both(self, ask: Callable[[Ledger], Awaitable[T]]) -> T:
        """Asks the engine and the model; they must answer alike."""

    @abstractmethod
    def crash(self) -> None:
        """The next engine opens what the disk held."""

    @rule(customer=CUSTOMERS, kind=st.sampled_from(PeriodType), crashes=st.booleans())
    def the_disk_runs_full(self, customer: str, kind: PeriodType, *, crashes: bool) -> None:
        """All that was acknowledged is read, whatever of it is posted, and nothing is taken; then
        there is room again, perhaps for the next process.
        """
        self.happened["full disks"] += 1
        disk = self.bench.hop.hop = Disk()
        disk.is_full = True
        self.loop.call(self._find_it_full)

        async def read(ledger: Ledger) -> object:
            query = EventQuery(customer_id=customer)
            events = await ledger.events(query, limit=ALL)
            usage = await ledger.customer_usage(customer, kind)
            windows = await ledger.usage_windows(UsageQuery(customer, kind), limit=ALL)
            customers = await ledger.customers(limit=ALL)
            counted = [_counted(window) for window in (usage.window, *windows)]
            return shown(events), usage.first_seen_ms, counted, customers

        self.both(read)
        if crashes:
            self.bench.hop.hop = inline
            self.crash()
            return
        disk.is_full = False
        self.loop.call(self._wait_for_room)
        self.loop.call(self.model.change_endpoint, "billing", lambda state: state)
        self.bench.hop.hop = inline

    async def _find_it_full(self) -> None:
        with pytest.raises(UnavailableError):
            await self.bench.ledger.change_endpoint("billing", lambda state: state)
        with pytest.raises(DiskFullError):
            await self.bench.ledger.append([event()])

    async def _wait_for_room(self) -> None:
        while self.bench.ledger.is_full:
            self.loop.clock.jump(FULL_SECONDS)
            await wait_all_tasks_blocked()
