"""Long answers as pages: a JSON array that is streamed, and where the next answer goes on.

Where to go on stands in a header, before the array, and other requests write meanwhile. So the
first page is read before it is said whether more follow, and the end of a longer answer is looked
up from the last element already read: each element is in exactly one answer, whatever comes in
between.

A page is some milliseconds' work, of a thread and of the event loop, and events wait for both. So
pages are made one at a time, in turn, however many clients read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import trio

Place = TypeVar("Place")

# Elements read in one transaction: a few milliseconds' work, about a quarter of a megabyte.
PAGE: Final = 500


class Listing(Protocol[Place]):
    """What can be read in pages."""

    async def read(self, count: int, behind: Place | None) -> list[tuple[bytes, Place]]:
        """Up to that many elements that follow the place, each with its own."""

    async def end(self, count: int, behind: Place) -> Place | None:
        """The place of the last of so many elements, if more follow it."""


class Pages(Generic[Place]):
    """Answers from one listing."""

    def __init__(self, listing: Listing[Place], turn: trio.StrictFIFOLock) -> None:
        """``turn`` is the same for all listings."""
        self._listing = listing
        self._turn = turn

    async def _read(self, count: int, behind: Place | None) -> list[tuple[bytes, Place]]:
        async with self._turn:
            return await self._listing.read(count, behind)

    async def answer(
        self, limit: int, start: Place | None
    ) -> tuple[AsyncIterator[bytes], Place | None]:
        """The array of up to ``limit`` elements, and the place behind which the next one begins."""
        first = await self._read(min(limit, PAGE) + 1, start)
        if len(first) <= min(limit, PAGE):
            return self._array(first, 0), None
        if limit <= PAGE:
            shown = first[:limit]
            return self._array(shown, 0), shown[-1][1]
        shown = first[:PAGE]
        async with self._turn:
            end = await self._listing.end(limit - PAGE, shown[-1][1])
        return self._array(shown, limit - PAGE), end

    async def _array(self, page: list[tuple[bytes, Place]], left: int) -> AsyncIterator[bytes]:
        """The page, and up to ``left`` more elements."""
        yield b"[" + b",".join(document for document, _ in page)
        while left and page:
            page = await self._read(min(left, PAGE), page[-1][1])
            left -= len(page)
            yield b"".join(b"," + document for document, _ in page)
        yield b"]"
