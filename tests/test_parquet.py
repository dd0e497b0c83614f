"""Events as Parquet: what is written, read again, and what others write."""

from __future__ import annotations

import datetime as dt
import io
import json
import sys
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from meterd.domain.errors import MeterdError
from meterd.event_rows import Row, Unfit, decode, encode
from meterd.parquet import ParquetWriter, library, parquet_rows

EXACT = "12345678901234567890.123456789012345678901234567890"
EVENT = (
    '{"_id":"i","eventType":"a","customerId":"é","value":NUMBER,"metadata":{"n":1.50},'
    '"timestamp":"2026-01-14T11:00:00.001Z","receivedAt":"2026-01-14T11:15:00.000Z",'
    '"idempotencyKey":"k","void":{"reason":"r"}}'
).replace("NUMBER", EXACT)
LEAST = '{"_id":"j","eventType":"a","customerId":"c","value":1,"metadata":{}}'


def read(file: io.BytesIO, **columns: str) -> list[tuple[int, Any]]:
    file.seek(0)
    return [
        (number, one.error if isinstance(one, Unfit) else encode(one))
        for number, one in parquet_rows(file, columns)
    ]


def written(*rows: str) -> io.BytesIO:
    file = io.BytesIO()
    writer = ParquetWriter(file)
    for row in rows:
        writer.write([decode(row.encode())])
    writer.close()
    return file


def test_what_is_written_is_read_as_it_was() -> None:
    """Every digit, every millisecond, and what is not there."""
    (first, event), (second, least) = read(written(EVENT, LEAST))
    assert (first, second) == (1, 2)
    assert json.loads(least) == json.loads(LEAST)
    as_written = json.loads(EVENT)
    for instant in ("timestamp", "receivedAt"):
        as_written[instant] = as_written[instant].replace("Z", "+00:00")
    assert json.loads(event) == as_written
    assert f'"value":{EXACT},"metadata":{{"n":1.50}}'.encode() in event
    assert read(written()) == []


def test_columns_are_what_is_documented() -> None:
    """Numbers to count with, instants as such."""
    file = written(EVENT)
    table = pq.read_table(file)
    assert {field.name: str(field.type) for field in table.schema} == {
        **dict.fromkeys(("_id", "eventType", "customerId"), "string"),
        "value": "double",
        "metadata": "string",
        **dict.fromkeys(("timestamp", "receivedAt"), "timestamp[ms, tz=UTC]"),
        **dict.fromkeys(("idempotencyKey", "void", "valueExact"), "string"),
    }
    [row] = table.to_pylist()
    assert (row["value"], row["valueExact"]) == (float(EXACT), EXACT)


def test_rows_are_written_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that an export of any size fits into memory."""
    monkeypatch.setattr("meterd.parquet._GROUP_ROWS", 2)
    file = written(*[LEAST] * 5)
    assert pq.ParquetFile(file).num_row_groups == 3
    monkeypatch.setattr("meterd.parquet._GROUP_BYTES", 1)
    assert pq.ParquetFile(written(*[LEAST] * 5)).num_row_groups == 5


def test_parquet_of_others() -> None:
    """Numbers of any type, instants, metadata as a structure; columns of other names."""
    file = io.BytesIO()
    instant = dt.datetime(2026, 1, 14, 11, tzinfo=dt.UTC)
    columns: dict[str, list[Any]] = {
        "account": ["acme", "b"],
        "value": [Decimal("1.50"), None],
        "metadata": [{"plan": "pro"}, None],
        "timestamp": [instant, None],
        "more": [1, 2],
    }
    pq.write_table(pa.table(columns), file)
    assert [json.loads(row) for _, row in read(file, customerId="account")] == [
        {
            "customerId": "acme",
            "value": 1.5,
            "metadata": {"plan": "pro"},
            "timestamp": "2026-01-14T11:00:00.000+00:00",
        },
        {"customerId": "b"},
    ]
    assert read(file, customerId="account")[0][1].count(b'"value":1.50,') == 1
    with pytest.raises(MeterdError, match="no column customerId: there are"):
        read(file)
    pq.write_table(
        pa.table({"customerId": ["a"], "value": [7], "metadata": ["{"]}), file := io.BytesIO()
    )
    assert read(file) == [(1, "metadata is not JSON: Input data was truncated")]


def test_what_is_no_parquet() -> None:
    """Is an error in a line."""
    with pytest.raises(MeterdError, match="cannot be read as Parquet: "):
        read(io.BytesIO(b"customerId,value\n"))


def test_without_pyarrow_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most have no use for it."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(MeterdError, match=r"pip install 'meterd\[parquet\]'"):
        library()
    with pytest.raises(MeterdError, match="Parquet needs pyarrow"):
        list(parquet_rows(io.BytesIO(), {}))
    assert isinstance(decode(LEAST.encode()), Row)
