"""What an account asks the store for beside the totals that it is given (``account.OnDisk``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meterd.embedded import journal

if TYPE_CHECKING:
    from meterd.domain.aggregations import Aggregation
    from meterd.domain.periods import Period, PeriodType
    from meterd.embedded.transaction import Transaction


class Stored:
    """One customer's, in one transaction."""

    def __init__(self, txn: Transaction, part: int, customer_id: str) -> None:
        self._txn = txn
        self._part = part
        self._customer_id = customer_id

    def aggregation(self, period: Period) -> Aggregation | None:
        """See ``OnDisk``."""
        return journal.read_aggregation(self._txn, self._part, period, self._customer_id)

    def chain(self, period: Period) -> bytes | None:
        """See ``OnDisk``."""
        return journal.read_chain(self._txn, self._part, period, self._customer_id)

    def published(self, kind: PeriodType) -> bytes:
        """See ``OnDisk``."""
        return journal.read_published(self._txn, self._part, kind, self._customer_id)
