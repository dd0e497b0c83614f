"""Sending rows in batches: what is sent, what is counted, and which lines are refused."""

from __future__ import annotations

import json
from copy import copy
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from meterd.client import Answered
from meterd.domain.errors import MeterdError
from meterd.event_rows import Row, Unfit, decode
from meterd.importing import Import

if TYPE_CHECKING:
    from collections.abc import Iterator

ID = "01a2257c-ca90-7003-b423-c8e8863fac0b"


class Meterd:
    """Takes events whose value is a number, knows keys again, and takes so many bytes at once."""

    def __init__(self, *, bytes_max: int = 4 << 20) -> None:
        self.bytes_max = bytes_max
        self.batches: list[list[dict[str, Any]]] = []
        self.keys: set[str] = set()
        self.ids: set[str] = set()
        self.largest = 0
        self.refused_as_a_whole = 0

    def post(self, body: bytes) -> Answered:
        if len(body) > self.bytes_max:
            self.refused_as_a_whole += 1
            return Answered(413, b"<html>")
        self.largest = max(self.largest, len(body))
        try:
            events = json.loads(body)
        except ValueError:
            return Answered(400, b'{"error":"Malformed JSON"}')
        self.batches.append(events)
        failures = [
            {"index": place, "errors": ["value must be a finite number"]}
            for place, event in enumerate(events)
            if not isinstance(event["value"], int)
        ]
        if len(failures) == len(events):
            return self._answer(422, {"validationErrors": failures})
        good = [event["idempotencyKey"] for event in events if isinstance(event["value"], int)]
        repeated = len(self.keys.intersection(good))
        self.keys.update(good)
        more = {"duplicates": repeated} if repeated else {}
        if failures:
            return self._answer(207, {"successCount": len(good), **more, "failures": failures})
        return self._answer(201, {"count": len(good), **more})

    def _answer(self, status: int, content: dict[str, Any]) -> Answered:
        return Answered(status, msgspec.json.encode(content))

    def importing(self, source: str | None = "a.jsonl") -> Import:
        return Import(self.post, self.ids.__contains__, source=source)


def row(value: Any = 1, **fields: Any) -> Row:
    return decode(json.dumps({"customerId": "c", "value": value, **fields}).encode())


def test_batches_are_of_a_thousand() -> None:
    """Each row once, in order; a second run counts nothing."""
    meterd = Meterd()
    for expected in ((2001, 2001, 0), (2001, 0, 2001)):
        imported = meterd.importing()
        assert list(imported.run((line, row(line)) for line in range(1, 2002))) == []
        counts = imported.counts
        assert (counts.rows, counts.new, counts.before) == expected
        assert imported.done == 2001
    assert [len(batch) for batch in meterd.batches] == [1000, 1000, 1] * 2
    assert [event["value"] for batch in meterd.batches for event in batch] == [
        *range(1, 2002),
        *range(1, 2002),
    ]


def test_batches_fit_into_a_request() -> None:
    """However large rows are."""
    meterd = Meterd()
    rows = [(line, row(1, metadata={"text": "x" * 16_000})) for line in range(1, 601)]
    imported = meterd.importing()
    assert list(imported.run(rows)) == []
    assert imported.counts.new == 600
    assert meterd.refused_as_a_whole == 0
    assert 2 << 20 < meterd.largest <= (3 << 20) + 2


def test_a_bad_row_costs_itself() -> None:
    """Whether it cannot be read, or is refused beside others, or alone; with its line."""
    meterd = Meterd()
    rows: list[tuple[int, Row | Unfit]] = [
        (1, row()),
        (3, Unfit("is not JSON", "{")),
        (4, row("x")),
        (5, row()),
        (6, row(1, void={"reason": "r"})),
    ]
    imported = meterd.importing()
    refused = [(one.line, one.errors, one.text) for one in imported.run(rows)]
    assert refused == [(3, ["is not JSON"], "{"), (4, ["value must be a finite number"], "")]
    assert msgspec.structs.asdict(imported.counts) == {
        "rows": 5,
        "new": 2,
        "before": 0,
        "refused": 2,
        "void": 1,
    }
    assert [one.line for one in imported.run([(7, row("y"))])] == [7]


def test_what_cannot_be_read_as_a_whole_is_halved() -> None:
    """Behind a proxy with a smaller limit, and around a row that breaks its batch."""
    meterd = Meterd(bytes_max=1000)
    imported = meterd.importing()
    large = row(1, metadata={"text": "x" * 2000})
    broken = row()
    broken.metadata = msgspec.Raw(b"{]")
    rows = [(line, row(line)) for line in range(1, 50)]
    refused = list(imported.run([*rows[:20], (50, large), *rows[20:], (51, broken)]))
    assert [(one.line, one.errors) for one in refused] == [
        (50, ["HTTP 413"]),
        (51, ["Malformed JSON"]),
    ]
    assert (imported.counts.new, imported.counts.refused) == (49, 2)
    assert sorted(event["value"] for batch in meterd.batches for event in batch) == [*range(1, 50)]


def test_refused_rows_come_in_their_order() -> None:
    """Whoever refuses them, and into how many halves a batch falls; ``done`` follows what was told,
    so that what --from-line passes over was told once.
    """
    meterd = Meterd(bytes_max=1000)
    imported = meterd.importing()
    kinds: list[Row | Unfit] = [row(), Unfit("is not JSON", "{"), row("x")]
    told = []
    for refused in imported.run((line, copy(kinds[line % 3])) for line in range(1, 100)):
        assert imported.done == refused.line - 1
        told.append(refused.line)
    assert told == [line for line in range(1, 100) if line % 3]
    assert (imported.done, imported.counts.refused, imported.counts.new) == (99, 66, 33)
    assert meterd.refused_as_a_whole > 2


def test_rows_that_cannot_be_sent_are_held_back_in_bounds() -> None:
    """So many, and so large, as a batch is: a file of nothing else fits into memory."""
    meterd = Meterd()
    taken = 0

    def rows(text: str) -> Iterator[tuple[int, Row | Unfit]]:
        nonlocal taken
        for line in range(1, 3001):
            taken = line
            yield line, Unfit("is not JSON", text)

    assert next(meterd.importing().run(rows("{"))).line == 1
    assert taken == 1001
    assert next(meterd.importing().run(rows("x" * 1_000_000))).line == 1
    assert taken == 4
    assert meterd.batches == []


def test_what_a_meterd_exported_is_not_for_itself() -> None:
    """It would count twice: nothing is sent. Of another meterd it is taken."""
    meterd = Meterd()
    rows = [(2, row(1, _id=ID))]
    assert list(meterd.importing(None).run(rows)) == []
    assert meterd.batches[0][0]["idempotencyKey"] == ID
    meterd.ids.add(ID)
    with pytest.raises(MeterdError, match=f"^line 2: event {ID} is of this meterd: "):
        list(meterd.importing().run(rows))
    assert len(meterd.batches) == 1


def test_a_stream_without_a_name_needs_one_for_keys() -> None:
    """What has keys needs none."""
    meterd = Meterd()
    assert list(meterd.importing(None).run([(1, row(1, idempotencyKey="k"))])) == []
    with pytest.raises(
        MeterdError, match=r"^line 2 has no idempotencyKey, .* give one with --sourc"
    ):
        list(meterd.importing(None).run([(2, row())]))


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Answered(500, b'{"error":"Internal server error"}'), "Internal server error"),
        (Answered(404, b"<html>"), "HTTP 404: is that a meterd"),
        (Answered(201, b"<html>"), "no answer of meterd's"),
    ],
)
def test_another_answer_ends_it(answer: Answered, said: str) -> None:
    """With what it says."""
    imported = Import(lambda _: answer, lambda _: False, source="s")
    with pytest.raises(MeterdError, match=said):
        list(imported.run([(1, row())]))
    assert imported.done == 0
