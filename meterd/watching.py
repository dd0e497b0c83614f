"""What an engine promises to whoever watches usage: whose totals have changed, and that each
threshold that was reached is told once. Beside ``ledger``, whose deliveries these become.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import msgspec

from meterd.domain.periods import Period

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from meterd.domain.periods import PeriodType
    from meterd.domain.thresholds import Reached, Watched


class Look(msgspec.Struct, frozen=True):
    """One customer and periods of which its totals are to be looked at."""

    customer_id: str
    periods: tuple[Period, ...]


class Watching(Protocol):
    """See above. Totals are those that are stored, some seconds behind what was acknowledged."""

    def watch(self, watched: Watched | None) -> Mapping[PeriodType, int]:
        """From now on what is watched is remembered when it changes; what was remembered before is
        forgotten. None: nothing is.

        Returns where ``users`` begins: until when periods of each type are closed. Where not
        everything was looked at before, until when they were then, also if a crash came between: a
        look is over when ``changed`` is asked next, and much may have closed since it began.
        """

    async def changed(self, *, limit: int) -> list[Look]:
        """Waits until there are any, and gives up to so many of whom totals have changed. An empty
        list: there were too many to remember, and all users are to be looked at.
        """

    async def users(
        self,
        watched: Watched,
        since_ms: Mapping[PeriodType, int],
        *,
        limit: int,
        after: str | None = None,
    ) -> list[Look]:
        """Up to so many customers behind that one with totals in periods that are not closed before
        these moments, or are the last of their type that were. Empty at the end.
        """

    async def tell(
        self, watched: Watched, looks: Sequence[Look], endpoints: tuple[str, ...]
    ) -> list[Reached]:
        """Writes what these customers have reached in these periods, with a delivery to each of the
        endpoints; returns what is new.

        Each threshold is written, and told, once for each customer and period, whoever asks how
        often: decided in the transaction that holds the deliveries. In bounded transactions.
        """
