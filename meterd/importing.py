"""Sends rows to a meterd that runs, in batches, and says of each that was not taken why.

One bad row costs itself: batches are lenient, and one that cannot be read as a whole is halved.
Every event has a key, so whatever was interrupted is sent again and counts once.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import msgspec

from meterd.client import error_in
from meterd.domain.errors import MeterdError
from meterd.domain.events import BATCH_MAX
from meterd.event_rows import ABSENT, NamelessRowError, Refused, Unfit, id_of, to_send

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from msgspec import Raw

    from meterd.client import Answered
    from meterd.event_rows import Item, Read, Row

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

    def run(self, rows: Iterable[Read]) -> Iterator[Refused]:
        """Sends all, and gives those that are refused, as soon as that is known."""
        batch: list[Item] = []
        size = 0
        for line, row in rows:
            self.counts.rows += 1
            if isinstance(row, Unfit):
                self.counts.refused += 1
                yield Refused(line, [row.error], None, row.text)
                continue
            item = self._item(row, line)
            if item is None:
                self.counts.void += 1
                continue
            if batch and (len(batch) == BATCH_MAX or size + len(item.content) > _BATCH_BYTES):
                yield from self._send(batch)
                batch, size = [], 0
            batch.append(item)
            size += len(item.content) + 1
        if batch:
            yield from self._send(batch)

    def _item(self, row: Row, line: int) -> Item | None:
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

    def _send(self, batch: list[Item]) -> Iterator[Refused]:
        answer = self._post(b"[" + b",".join(item.content for item in batch) + b"]")
        if answer.status in _TOO_LARGE:
            if len(batch) > 1:
                middle = len(batch) // 2
                yield from self._send(batch[:middle])
                yield from self._send(batch[middle:])
                return
            why = error_in(answer.content) or f"HTTP {answer.status}"
            captured = _Captured(failures=[_Failure(0, [why])])
        else:
            captured = _captured(answer)
        taken = captured.count + captured.success_count
        self.counts.before += captured.duplicates
        self.counts.new += taken - captured.duplicates
        self.done = batch[-1].line
        for failure in (*captured.failures, *captured.validation_errors):
            item = batch[failure.index]
            self.counts.refused += 1
            yield Refused(item.line, failure.errors, item.row, "")


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
