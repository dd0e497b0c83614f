"""Events page by page into a file that has its name when it is whole."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from meterd.client import Page
from meterd.domain.errors import MeterdError
from meterd.edge.parameters import event_cursor
from meterd.exporting import export, file_target, part_of

if TYPE_CHECKING:
    from pathlib import Path

IDS = [f"01a2257c-ca90-7003-b423-c8e8863fac{number:02x}" for number in range(7)]


class Log:
    """Seven events in pages of three, which may end before the last one."""

    def __init__(self, pages: int = 99) -> None:
        self.asked: list[str | None] = []
        self._pages = pages

    def page(self, cursor: str | None) -> Page:
        self.asked.append(cursor)
        if len(self.asked) > self._pages:
            raise MeterdError("no answer")
        cursors = [event_cursor(bytes.fromhex(one.replace("-", ""))) for one in IDS]
        start = 0 if cursor is None else cursors.index(cursor) + 1
        found = [
            {
                "_id": one,
                "eventType": "a",
                "customerId": "é,",
                "value": 1,
                "metadata": {},
                "day": "x",
            }
            for one in IDS[start : start + 3]
        ]
        more = cursors[start + 2] if start + 3 < len(IDS) else None
        return Page(json.dumps(found).encode(), more, None)


def ids(path: Path, form: str) -> list[str]:
    lines = path.read_text().splitlines()
    if form == "csv":
        return [line.split(",")[0] for line in lines[1:]]
    return [json.loads(line)["_id"] for line in lines]


@pytest.mark.parametrize("form", ["jsonl", "csv"])
@pytest.mark.parametrize("cut", [0, 1, 40])
def test_an_export_goes_on_where_it_was_cut_short(tmp_path: Path, form: str, cut: int) -> None:
    """Each event is in it once; it has its name when it is whole, and not before."""
    path = tmp_path / f"events.{form}"
    wrote: list[int] = []
    with pytest.raises(MeterdError), file_target(path, form, resume=True) as target:
        export(Log(2).page, target, wrote.append)
    assert wrote == [3, 3]
    part = part_of(path)
    assert not path.exists()
    part.write_bytes(part.read_bytes()[: -cut or None])
    with pytest.raises(MeterdError, match="--resume"), file_target(path, form, resume=False):
        pass
    log = Log()
    with file_target(path, form, resume=True) as target:
        export(log.page, target, wrote.append)
    assert log.asked[0] is not None
    assert ids(path, form) == IDS
    assert list(tmp_path.iterdir()) == [path]
    assert "day" not in path.read_text()


def test_of_a_header_alone_everything_is_asked(tmp_path: Path) -> None:
    """And the header is there once."""
    path = tmp_path / "e.csv"
    with pytest.raises(MeterdError), file_target(path, "csv", resume=False) as target:
        target.writer.close()
        export(Log(0).page, target, lambda _: None)
    assert part_of(path).read_text().startswith("_id,")
    with file_target(path, "csv", resume=True) as target:
        export(Log().page, target, lambda _: None)
    assert ids(path, "csv") == IDS


def test_a_file_that_is_there_stays(tmp_path: Path) -> None:
    """Whatever it is; and what no export wrote is not gone on with."""
    path = tmp_path / "e.jsonl"
    path.write_text("mine")
    with (
        pytest.raises(MeterdError, match="is there already"),
        file_target(path, "jsonl", resume=True),
    ):
        pass
    path.unlink()
    part_of(path).write_text("mine\n")
    with pytest.raises(MeterdError, match="is no jsonl"), file_target(path, "jsonl", resume=True):
        pass
    assert part_of(path).read_text() == "mine\n"
    with (
        pytest.raises(MeterdError, match="cannot be written: No such file"),
        file_target(tmp_path / "no" / "e.csv", "csv", resume=False),
    ):
        pass
