"""Rows of files: what is sent of them, under which key, and what cannot be sent."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec import Raw

from meterd.event_rows import (
    ABSENT,
    Item,
    NamelessRowError,
    Refused,
    Row,
    as_json,
    decode,
    encode,
    id_of,
    to_send,
)

ROW = {"eventType": "a", "customerId": "c", "value": 1}
ID = "01a2257c-ca90-7003-b423-c8e8863fac0b"


def sent(row: dict[str, Any] | bytes, line: int = 7, source: str | None = "usage.csv") -> Any:
    text = row if isinstance(row, bytes) else json.dumps(row).encode()
    item = to_send(decode(text), line, source, Raw(b'"default"'))
    return None if item is None else json.loads(item.content)


def test_a_row_without_a_key_gets_the_same_one_each_time() -> None:
    """Of the file's name, the line and the content. The figure is that of the first version: with
    another one, an import that is repeated with a newer meterd would count twice.
    """
    key = sent(ROW)["idempotencyKey"]
    assert key == "import-50b4758614cda8097f3c94428d7213ce"
    assert sent(ROW) == {**ROW, "idempotencyKey": key}
    others = [
        sent(ROW, line=8),
        sent(ROW, source="other.csv"),
        sent({**ROW, "value": 2}),
        sent({**ROW, "timestamp": "2026-01-01"}),
    ]
    assert len({key, *(one["idempotencyKey"] for one in others)}) == 5
    assert sent({**ROW, "unknown": 1})["idempotencyKey"] == key
    with pytest.raises(NamelessRowError):
        sent(ROW, source=None)


def test_what_an_event_has_is_kept() -> None:
    """Its key, else its id; its time, else that of its receipt; and every digit."""
    exported = {**ROW, "_id": ID, "receivedAt": "2026-01-01T00:00:00.000Z"}
    at_receipt = {**ROW, "timestamp": exported["receivedAt"], "idempotencyKey": ID}
    assert sent(exported, source=None) == at_receipt
    said = {**exported, "timestamp": "2025-12-31", "idempotencyKey": "k"}
    assert sent(said) == {**ROW, "timestamp": "2025-12-31", "idempotencyKey": "k"}
    item = to_send(decode(b'{"value": 0.10, "metadata": {"a": [1.50]}}'), 1, "s", ABSENT)
    assert item is not None
    assert b'"value":0.10,"metadata":{"a": [1.50]}' in item.content


def test_null_is_not_there() -> None:
    """As programs write rows that have no such field; a default type stands in."""
    nulls = dict.fromkeys(("_id", "eventType", "metadata", "timestamp", "void"))
    given = {**ROW, **nulls, "idempotencyKey": "k", "receivedAt": None}
    assert sent(given) == {
        "eventType": "default",
        "customerId": "c",
        "value": 1,
        "idempotencyKey": "k",
    }


def test_a_key_of_a_whole_batch_is_none_of_its_items() -> None:
    """The others would be its repeats or conflicts: the id takes its place. Earlier versions showed
    what they had made of it, with a control character.
    """
    given = {**ROW, "_id": ID, "idempotencyKey": "batch", "idempotencyItem": 0}
    assert sent(given)["idempotencyKey"] == ID
    assert sent({**ROW, "_id": ID, "idempotencyKey": "batch\x1f0"})["idempotencyKey"] == ID


def test_what_was_taken_back_is_not_sent() -> None:
    """It counts nowhere."""
    assert sent({**ROW, "void": {"reason": "r", "voidedAt": "2026-01-01T00:00:00.000Z"}}) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b'{"value": 1', "is not JSON: Input data was truncated"),
        (b'{"value": NaN}', "is not JSON: invalid character (byte 10)"),
        (b'"x"', "a row must be a JSON object"),
        (b"[1]", "a row must be a JSON object; jq -c '.[]' makes rows of an array"),
        (b'{"metadata": {"a": "\xff"}}', "is not UTF-8: byte 20"),
        (b'{"metadata": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "is not JSON: nested too deep"),
    ],
)
def test_what_is_no_row_is_said(text: bytes, said: str) -> None:
    """Each alone: it must not stand in a batch with others."""
    with pytest.raises(ValueError, match=r".") as refused:
        decode(text)
    assert str(refused.value) == said


def test_a_refused_row_can_be_mended_and_sent_again() -> None:
    """It is kept with its line, the reason and the key that it had."""
    item = to_send(decode(encode({**ROW, "value": "x"})), 7, "usage.csv", ABSENT)
    assert isinstance(item, Item)
    kept = json.loads(Refused(7, ["value must be a finite number"], item.row, "").document())
    assert (kept["line"], kept["errors"]) == (7, ["value must be a finite number"])
    mended = sent({**kept, "value": 1}, line=1, source="refused.jsonl")
    assert mended == {**ROW, "idempotencyKey": kept["idempotencyKey"]}
    unread = json.loads(Refused(8, ["is not JSON"], None, "{").document())
    assert unread == {"line": 8, "errors": ["is not JSON"], "row": "{"}


def test_ids_and_texts() -> None:
    """What is no text is no id; what was no UTF-8 is no JSON."""
    assert id_of(decode(encode({"_id": ID}))) == ID
    assert id_of(decode(b'{"_id": 1}')) is None
    assert id_of(Row()) is None
    assert as_json('é"') == Raw('"é\\""'.encode())
    with pytest.raises(ValueError, match="is not UTF-8"):
        as_json(b"\xff".decode(errors="surrogateescape"))
