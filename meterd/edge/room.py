"""Which connections there is room for, and which one goes so that another may come.

Pure: it counts, and chooses among what it is shown; instants are seconds that do not go back.

A flood of connections asks this for each of them, so it costs little when there is no room: those
that may go are looked for all at once, seldom, and then taken one after another.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable

    from meterd.edge.limits import Limits

# Looking through 500 connections takes up to 1 ms: a hundredth of the time, at most. Whoever finds
# no room in between is told to come again in a second.
SEARCH_EVERY_S: Final = 0.1
# Where none of the peer's own could go, and only those will that have been idle for a while: or one
# in a hundred honest requests would meet a search that a flood has set off in vain.
SEARCH_IN_VAIN_EVERY_S: Final = 0.5
_EVERYBODY: Final = ""


class Held(Protocol):
    """A connection that has a place."""

    @property
    def peer(self) -> str: ...

    @property
    def silent_since(self) -> float:
        """Changes with all that it sends or is sent."""

    @property
    def leaving(self) -> bool:
        """It is over, and only waits for the client to hear so."""

    @property
    def idle(self) -> bool: ...

    def give_way(self) -> None:
        """It ends, and its place is another's from now on."""


class Room:
    """Places are taken by peers, of which each may have so many."""

    def __init__(self, limits: Limits) -> None:
        self._places_max = limits.connections_max
        self._places_per_peer_max = limits.connections_per_peer_max
        self._idle_for_own_s = limits.idle_for_own_s
        self._taken: Counter[str] = Counter()
        self.made = 0
        """How often somebody has given way."""
        self._may_go: dict[str, deque[tuple[float, Held]]] = {}
        self._search_at: dict[str, float] = {}

    @property
    def peers(self) -> int:
        """How many have a place."""
        return len(self._taken)

    def take_free(self, peer: str) -> bool:
        """Whether there was a place for the peer; it has it from now on."""
        if (
            self._taken[peer] >= self._places_per_peer_max
            or self._taken.total() >= self._places_max
        ):
            return False
        self._taken[peer] += 1
        return True

    def take(self, peer: str, held: Iterable[Held], now_s: float) -> bool:
        """Whether the peer has another place from now on, of those that there are or of ``held``.

        First goes who is leaving anyhow, then who has been idle for longest. Nobody who is served
        goes, nor, for another of the same peer, who was served a moment ago: its next request is on
        its way, and would have no answer.
        """
        if self.take_free(peer):
            return True
        crowded = self._taken[peer] >= self._places_per_peer_max
        found = self._longest_idle(peer if crowded else _EVERYBODY, held, now_s)
        if found is None:
            return False
        self.made += 1
        self.give_back(found.peer)
        found.give_way()
        self._taken[peer] += 1
        return True

    def give_back(self, peer: str) -> None:
        self._taken[peer] -= 1
        if not self._taken[peer]:
            del self._taken[peer]

    def _longest_idle(self, whose: str, held: Iterable[Held], now_s: float) -> Held | None:
        if whose not in self._may_go or not self._may_go[whose]:
            if now_s < self._search_at.get(whose, now_s):
                return None
            self._search(whose, held, now_s)
        may_go = self._may_go[whose]
        while may_go:
            silent_since, found = may_go.popleft()
            # It may have been active meanwhile, or have gone: its place is not in question then.
            if found.silent_since == silent_since and (found.leaving or found.idle):
                return found
        return None

    def _search(self, whose: str, held: Iterable[Held], now_s: float) -> None:
        # Those of other peers that were searched are let go: only the last ones are of use.
        self._search_at = {peer: at for peer, at in self._search_at.items() if now_s < at}
        self._may_go = {peer: self._may_go[peer] for peer in self._search_at}
        silent_before = now_s - (0.0 if whose == _EVERYBODY else self._idle_for_own_s)
        candidates = [
            (not one.leaving, one.silent_since, one)
            for one in held
            if whose in (_EVERYBODY, one.peer)
            and (one.leaving or (one.silent_since <= silent_before and one.idle))
        ]
        candidates.sort(key=lambda each: each[:2])
        self._may_go[whose] = deque((since, one) for _, since, one in candidates)
        in_vain = whose != _EVERYBODY and not candidates
        self._search_at[whose] = now_s + (SEARCH_IN_VAIN_EVERY_S if in_vain else SEARCH_EVERY_S)
