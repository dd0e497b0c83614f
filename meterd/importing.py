"""Sends rows to a meterd that runs, in batches, and says of each that was not taken why.

One bad row costs itself: batches are lenient, and one that cannot be read as a whole is halved.
Every event has a key, so whatever was interrupted is sent again and counts once.
"""

from __future__ import annotations

from http import HTTPStatus
from itertools import count
from typing import TYPE_CHECKING, Any, Final

import msgspec

from meterd.client import error_in
from meterd.domain.errors import MeterdError
from meterd.domain.events import BATCH_MAX
from meterd.event_rows import ABSENT, Item, NamelessRowError, Refused, Unfit, id_of, to_send

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path
    from typing import IO

    from msgspec import Raw

    from meterd.client import Answered
    from meterd.event_rows import Read, Row

# A request has 4 MiB at most.
_BATCH_BYTES: Final = 3 << 20
_TOO_LARGE: Final = (HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE)


class _Failure(msgspec.Struct, frozen=True):
    index: int
    errors: list[str]


class _Captured(msgspec.Struct, frozen=True, rename="camel"):
    """Of an answer to a batch, whichever of them it is."""

    count: int = 0
    success_count: int = 0
    duplicates: int = 0
    failures: list[_Failure] = []
    validation_errors: list[_Failure] = []


class Counts(msgspec.Struct):
    """What became of rows. ``before`` are events that were stored before, by their keys; ``void``
    rows were taken back where they come from.
    """

    rows: int = 0
    new: int = 0
    before: int = 0
    refused: int = 0
    void: int = 0


class Import:
    """``counts`` and ``done``, the last line of which it is known what became of it, go on with
    every batch.
    """

    def __init__(
        self,
        post: Callable[[bytes], Answered],
        is_here: Callable[[str], bool],
        *,
        source: str | None,
        event_type: Raw = ABSENT,
    ) -> None:
        """``post`` sends a lenient batch; ``is_here`` says whether the meterd has an event of that
        id; ``source`` names the file in keys, ``event_type`` is that of rows without one.
        """
        self.counts = Counts()
        self.done = 0
        self._post = post
        self._is_here = is_here
        self._source = source
        self._event_type = event_type
        self._looked = False

    @staticmethod
    def keep(refused: Refused, kept: IO[bytes], path: Path | None) -> None:
        """In a file that is not buffered: at once. Raises MeterdError where it has no room."""
        rest = refused.document() + b"\n"
        try:
            while rest:
                rest = rest[kept.write(rest) :]
        except OSError as fault:
            raise MeterdError(f"{path}: cannot be written: {fault.strerror}") from fault

    def run(self, rows: Iterable[Read]) -> Iterator[Refused]:
        """Sends all, and gives those that are refused in the order of the rows, a batch at a time.

        A row that cannot be sent waits for those before it: told at once, it would come ahead of
        lines that are refused by the meterd.
        """
        batch: list[Item | Refused] = []
        size = 0
        for line, row in rows:
            self.counts.rows += 1
            item = self._item(row, line)
            if item is None:
                self.counts.void += 1
                continue
            item_size = len(item.content if isinstance(item, Item) else item.text)
            if batch and (len(batch) == BATCH_MAX or size + item_size > _BATCH_BYTES):
                yield from self._settle(batch)
                batch, size = [], 0
            batch.append(item)
            size += item_size + 1
        yield from self._settle(batch)

    def _item(self, row: Row | Unfit, line: int) -> Item | Refused | None:
        if isinstance(row, Unfit):
            return Refused(line, [row.error], None, row.text)
        try:
            if not self._looked and (event_id := id_of(row)) is not None:
                self._looked = True
                if self._is_here(event_id):
                    raise MeterdError(
                        f"line {line}: event {event_id} is of this meterd: what it exported would"
                        " be counted twice. An import is for another one, or for one that was"
                        " restored to before"
                    )
            return to_send(row, line, self._source, self._event_type)
        except NamelessRowError:
            raise MeterdError(
                f"line {line} has no idempotencyKey, and one is made of the file's name: give one"
                " with --source, always the same for the same rows"
            ) from None

    def _settle(self, batch: list[Item | Refused]) -> Iterator[Refused]:
        """What became of each, in their order; ``done`` follows what was given."""
        items = [item for item in batch if isinstance(item, Item)]
        failures = self._send(items) if items else {}
        if failures is None:
            middle = batch.index(items[len(items) // 2])
            yield from self._settle(batch[:middle])
            yield from self._settle(batch[middle:])
            return
        places = count()
        for item in batch:
            if isinstance(item, Refused):
                refused: Refused | None = item
            else:
                errors = failures.get(next(places))
                refused = None if errors is None else Refused(item.line, errors, item.row, "")
            if refused is not None:
                self.counts.refused += 1
                yield refused
            self.done = item.line

    def _send(self, items: list[Item]) -> dict[int, list[str]] | None:
        """What is wrong with some, by their places; None where they are to be sent in halves."""
        answer = self._post(b"[" + b",".join(item.content for item in items) + b"]")
        if answer.status in _TOO_LARGE:
            if len(items) > 1:
                return None
            return {0: [error_in(answer.content) or f"HTTP {answer.status}"]}
        captured = _captured(answer)
        taken = captured.count + captured.success_count
        self.counts.before += captured.duplicates
        self.counts.new += taken - captured.duplicates
        failures = (*captured.failures, *captured.validation_errors)
        return {failure.index: failure.errors for failure in failures}


def _captured(answer: Answered) -> _Captured:
    known: tuple[Any, ...] = (
        *(HTTPStatus.CREATED, HTTPStatus.MULTI_STATUS),
        HTTPStatus.UNPROCESSABLE_ENTITY,
    )
    if answer.status in known:
        try:
            return msgspec.json.decode(answer.content, type=_Captured)
        except msgspec.DecodeError as fault:
            raise MeterdError(f"no answer of meterd's: {fault}") from fault
    raise MeterdError(error_in(answer.content) or f"HTTP {answer.status}: is that a meterd?")
