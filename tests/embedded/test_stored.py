"""What an account asks for is what was written of its customer."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from meterd.domain.changes import Change
from meterd.domain.digests import START
from meterd.domain.periods import PeriodType, period_at
from meterd.domain.totals import PeriodTotals
from meterd.embedded import journal, keys
from meterd.embedded.store import PARTS, Store
from meterd.embedded.stored import Stored
from tests.domain.account_steps import FIVE, HOUR, happen
from tests.domain.desk import Desk

if TYPE_CHECKING:
    from pathlib import Path

DAY = period_at(PeriodType.DAILY, HOUR.start_ms)


def test_it_is_what_was_written(tmp_path: Path) -> None:
    """Of this customer; the digest only of what is closed."""
    desk = Desk()
    happen(desk, FIVE)
    made = desk.close(HOUR, HOUR.end_ms)
    assert made is not None
    change = desk.account.take_change()
    assert change is not None
    other = Change("other", totals={HOUR: PeriodTotals(True, {}, chain=START)})
    with closing(Store(tmp_path)) as store:
        store.write(lambda txn: journal.write_changes(txn, [change, other], PARTS))
        with store.read() as txn:
            stored = Stored(txn, keys.part_of("acme", PARTS), "acme")
            assert stored.aggregation(HOUR) == made
            assert stored.chain(HOUR) == change.totals[HOUR].chain == made.contents
            assert stored.published(PeriodType.HOURLY) == made.digest
            assert (stored.aggregation(DAY), stored.chain(DAY)) == (None, None)
            assert stored.published(PeriodType.DAILY) == b""
