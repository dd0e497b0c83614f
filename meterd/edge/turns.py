"""Whose request is worked on: of one peer only some at once.

A peer may send thousands, on many connections or as streams of few. Were all begun at once, whoever
else wants something would wait for a piece of work on each, again and again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import trio

if TYPE_CHECKING:
    from meterd.edge.guarded_stream import GuardedStream


class Turns:
    """The places of each peer; they are forgotten with its last request."""

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._places: WeakValueDictionary[str, trio.Semaphore] = WeakValueDictionary()

    def turn(self, stream: GuardedStream) -> Turn:
        """For a request that came by that connection."""
        places = self._places.get(stream.peer)
        if places is None:
            places = self._places[stream.peer] = trio.Semaphore(self._at_once)
        return Turn(places, stream)


class Turn:
    """One request's, among those of its peer."""

    def __init__(self, places: trio.Semaphore, stream: GuardedStream) -> None:
        self._places = places
        self._stream = stream
        self._taken = False
        self._begun = False

    async def take(self) -> None:
        """Waits for it."""
        await self._places.acquire()
        self._taken = True
        if self._stream.is_http2:  # of HTTP/1, where each request is a part, it was waited for
            await self._stream.spare_time.wait(self._stream.peer)
        self._stream.spare_time.begin_request()
        self._begun = True

    def give_back(self) -> None:
        """If it was taken; at the latest when the request is over."""
        if self._taken:
            self._taken = False
            self._places.release()
        if self._begun:
            self._begun = False
            self._stream.spare_time.end_request()
