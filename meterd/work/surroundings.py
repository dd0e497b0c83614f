"""What the workers of all endpoints have in common, and what they send with."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractAsyncContextManager

    from meterd.domain.config import Config
    from meterd.domain.counts import AttemptCounts
    from meterd.domain.endpoints import Endpoint
    from meterd.domain.outcomes import Outcome
    from meterd.domain.standing import Standing
    from meterd.ledger import Ledger
    from meterd.work.clock import Clock


class Sender(Protocol):
    """One endpoint's connections."""

    def update(self, endpoint: Endpoint) -> None:
        """The endpoint has been configured anew."""

    async def post(
        self, url: str, headers: Mapping[str, str], body: bytes, *, deadline_s: float
    ) -> Outcome:
        """Posts the body, and gives up at the deadline. Every failure of the receiver or the way
        to it is an Outcome, none raises.
        """


class OpenSender(Protocol):
    """Opens an endpoint's connections, and closes them at the end of the ``async with``."""

    def __call__(
        self, endpoint: Endpoint, *, connections_max: int
    ) -> AbstractAsyncContextManager[Sender]: ...


class Surroundings(NamedTuple):
    """What all workers have in common; ``below`` gives a random number less than that one, and
    ``settled`` is told which endpoint's deliveries have been, after how many attempts.
    ``standings`` and ``counts`` are of all that ever had a worker: the next goes on from there.
    """

    ledger: Ledger
    clock: Clock
    config: Callable[[], Config]
    user_agent: str
    below: Callable[[int], int]
    settled: Callable[[str, int], None]
    standings: dict[str, Standing]
    counts: AttemptCounts
