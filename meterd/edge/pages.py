"""Long answers as pages: a JSON array that is streamed, and where the next answer goes on.

Where to go on stands in a header, before the array, and other requests write meanwhile. So the
first page is read before it is said whether more follow, and the end of a longer answer is looked
up from the last element already read: each element is in exactly one answer, whatever comes in
between.

A page is a millisecond's work or two, of a thread and of the event loop, and events wait for both.
So pages are made one at a time, in turn, however many clients read, and between the answers to
those who send events.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar

import trio
from trio.testing import wait_all_tasks_blocked

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from meterd.edge.spare_time import Answers

Place = TypeVar("Place")

# Elements read in one transaction: two milliseconds' work, about 50 kB.
PAGE: Final = 200
# Counted in one.
COUNTED: Final = 2_000
# While others wait for their turn: a listing takes twice as long then, an event two thirds.
PAGE_AMONG_MANY: Final = 100
COUNTED_AMONG_MANY: Final = 500
# Where the loop is never idle, or somebody always answered, a page is made all the same after that.
PATIENCE_S: Final = 0.005


class Listing(Protocol[Place]):
    """What can be read in pages."""

    async def read(self, count: int, behind: Place | None) -> list[tuple[bytes, Place]]:
        """Up to that many elements that follow the place, each with its own."""

    async def end(self, count: int, behind: Place) -> Place | None:
        """The place of the last of so many elements, if more follow it."""


class PageTurn:
    """Whose page is made, of all that are asked for: one, in the order of asking, begun when the
    loop has nothing else to do and nobody who has shown a key is being answered.

    A thread that reads and the writer's take the interpreter from each other a hundred times for
    each transaction, so a page that is begun beside one makes it several times as long.
    """

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._turn = trio.StrictFIFOLock()

    async def __aenter__(self) -> None:
        await self._turn.acquire()
        try:
            with trio.move_on_after(PATIENCE_S):
                await wait_all_tasks_blocked()
                while self._answers.are_under_way:
                    await self._answers.give_way(PATIENCE_S)
                    await wait_all_tasks_blocked()
        except BaseException:
            # Of whatever kind: nobody else would give it back.
            self._turn.release()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._turn.release()

    @property
    def is_waited_for(self) -> bool:
        """By whoever comes next, while one is made."""
        return self._turn.statistics().tasks_waiting > 0


class Pages(Generic[Place]):
    """Answers from one listing."""

    def __init__(
        self,
        listing: Listing[Place],
        turn: PageTurn,
        most: Callable[[], Awaitable[int]] | None = None,
    ) -> None:
        """``turn`` is the same for all listings. ``most`` says how many elements there may be,
        where that is known of all before they are counted.
        """
        self._listing = listing
        self._turn = turn
        self._most = most

    async def answer(
        self, limit: int, start: Place | None
    ) -> tuple[AsyncIterator[bytes], Place | None]:
        """The array of up to ``limit`` elements, and the place behind which the next one begins."""
        async with self._turn:
            first = await self._listing.read(min(limit, PAGE) + 1, start)
        if len(first) <= min(limit, PAGE):
            return self._array(first, 0), None
        if limit <= PAGE:
            shown = first[:limit]
            return self._array(shown, 0), shown[-1][1]
        shown = first[:PAGE]
        return self._array(shown, limit - PAGE), await self._end(limit - PAGE, shown[-1][1])

    async def _end(self, left: int, behind: Place) -> Place | None:
        """See ``Listing.end``; counts some in each turn."""
        if self._most is not None and await self._most() <= left:
            return None
        end: Place | None = behind
        while left and end is not None:
            async with self._turn:
                some = min(left, COUNTED_AMONG_MANY if self._turn.is_waited_for else COUNTED)
                end = await self._listing.end(some, end)
            left -= some
        return end

    async def _array(self, page: list[tuple[bytes, Place]], left: int) -> AsyncIterator[bytes]:
        """The page, and up to ``left`` more elements."""
        yield b"[" + b",".join(document for document, _ in page)
        while left and page:
            async with self._turn:
                some = min(left, PAGE_AMONG_MANY if self._turn.is_waited_for else PAGE)
                page = await self._listing.read(some, page[-1][1])
            left -= len(page)
            yield b"".join(b"," + document for document, _ in page)
        yield b"]"
