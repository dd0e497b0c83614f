"""Keeps Python's garbage collector off the actors.

A full collection walks every object there is, and stops the process meanwhile: for 0.2 s with
20,000 actors awake, and one comes with every quarter that they grow by. They need none, since what
an actor is made of holds no cycles and goes when its last reference goes. So they are set aside
(``gc.freeze``, which takes no time) as they become more, and handed back when they are few again:
what was set aside along with them, connections say, is then collected as usual.
"""

from __future__ import annotations

import gc
from typing import Final

# So many more actors may be walked over at a time: 20 ms.
STEP: Final = 2_000


class Heap:
    """How many actors are set aside."""

    def __init__(self) -> None:
        self._set_aside = 0

    def grown(self, actors: int) -> None:
        """There are so many now."""
        if actors >= self._set_aside + STEP:
            gc.freeze()
            self._set_aside = actors

    def shrunk(self, actors: int) -> None:
        """There are only so many now."""
        if actors < STEP <= self._set_aside:
            gc.unfreeze()
            self._set_aside = 0
        self._set_aside = min(self._set_aside, max(actors, STEP))
