"""Events as rows of a file: what an export writes of each, and what an import sends of it.

Values, metadata and texts stay the JSON that they are, so that every digit goes through. A row is
judged by the meterd that it is sent to, and here only where it cannot be sent at all.
"""

from __future__ import annotations

import hashlib
from typing import Final, NamedTuple, TypeAlias

import msgspec
from msgspec import Raw

from meterd.domain.sections import quoted

# In this order in every form of file.
FIELDS: Final = (
    *("_id", "eventType", "customerId", "value", "metadata", "timestamp", "receivedAt"),
    *("idempotencyKey", "void"),
)
ABSENT: Final = Raw(b"")
_NULL: Final = Raw(b"null")
_KEY_BYTES: Final = 16
# What no key of a client's contains: earlier versions showed so what they made for items of a batch
# with a header.
_MADE_OF_A_HEADER: Final = b"\\u001f"


class Row(msgspec.Struct, omit_defaults=True, rename="camel", gc=False):
    """An event as ``GET /events`` shows it, without what can be told from ``receivedAt``."""

    id: Raw = msgspec.field(name="_id", default=ABSENT)
    event_type: Raw = ABSENT
    customer_id: Raw = ABSENT
    value: Raw = ABSENT
    metadata: Raw = ABSENT
    timestamp: Raw = ABSENT
    received_at: Raw = ABSENT
    idempotency_key: Raw = ABSENT
    # The key is that of a batch; this event has none of its own.
    idempotency_item: Raw = ABSENT
    void: Raw = ABSENT


class Unfit(NamedTuple):
    """What stands in place of a row and cannot be sent."""

    error: str
    text: str


# With the line where it begins.
Read: TypeAlias = tuple[int, Row | Unfit]


class _Sent(msgspec.Struct, omit_defaults=True, rename="camel", gc=False):
    """An item of ``POST /usagebatch``."""

    event_type: Raw = ABSENT
    customer_id: Raw = ABSENT
    value: Raw = ABSENT
    metadata: Raw = ABSENT
    timestamp: Raw = ABSENT
    idempotency_key: Raw = ABSENT


class Item(NamedTuple):
    """A row that can be sent, and what is sent of it."""

    line: int
    row: Row
    content: bytes


class Refused(NamedTuple):
    """A row that was not taken, and why."""

    line: int
    errors: list[str]
    row: Row | None
    text: str

    def document(self) -> bytes:
        """As it is kept in a file: mended, it can be imported, and keeps its key."""
        about = {"line": self.line, "errors": self.errors}
        if self.row is None:
            return msgspec.json.encode({**about, "row": self.text})
        found = msgspec.json.decode(msgspec.json.encode(self.row), type=dict[str, Raw])
        return msgspec.json.encode({**about, **found})


class NamelessRowError(Exception):
    """A row has no key, and the file has no name to make one with."""


def encode(row: object) -> bytes:
    return _ENCODER.encode(row)


def decode(text: bytes) -> Row:
    """Raises ValueError, with what is wrong, where it is no JSON object in UTF-8."""
    try:
        row = _DECODER.decode(text)
        if not text.isascii():
            text.decode()  # msgspec does not look inside what it passes over
    except msgspec.ValidationError as fault:
        hint = "; jq -c '.[]' makes rows of an array" if text.startswith(b"[") else ""
        raise ValueError(f"a row must be a JSON object{hint}") from fault
    except msgspec.DecodeError as fault:
        why = str(fault).removeprefix("JSON is malformed: ")
        raise ValueError(f"is not JSON: {why}") from fault
    except UnicodeDecodeError as fault:
        raise ValueError(f"is not UTF-8: byte {fault.start}") from fault
    except RecursionError as fault:
        raise ValueError("is not JSON: nested too deep") from fault
    return row


def to_send(row: Row, line: int, source: str | None, event_type: Raw) -> Item | None:
    """None of one that was taken back, which counts nowhere.

    An event keeps its time: where it does not say when it happened, that was when it was received.
    It keeps its key; without one its ``_id`` is the key; and without an ``_id`` one is made of the
    name of the ``source``, the line and the content, so that the same file makes the same keys.
    Raises NamelessRowError where there is no such name.
    """
    if not _is_missing(row.void):
        return None
    sent = _Sent(
        event_type if _is_missing(row.event_type) else row.event_type,
        row.customer_id,
        row.value,
        _there(row.metadata),
        _there(row.received_at if _is_missing(row.timestamp) else row.timestamp),
    )
    if not _is_missing(row.idempotency_key) and not _is_made(row):
        sent.idempotency_key = row.idempotency_key
    elif not _is_missing(row.id):
        sent.idempotency_key = row.id
    elif source is None:
        raise NamelessRowError
    else:
        content = f"{source}\0{line}\0".encode() + encode(sent)
        digest = hashlib.blake2b(content, digest_size=_KEY_BYTES).hexdigest()
        sent.idempotency_key = Raw(f'"import-{digest}"'.encode())
    row.event_type = sent.event_type
    row.idempotency_key = sent.idempotency_key
    return Item(line, row, encode(sent))


def with_key_of_its_own(row: Row) -> Row:
    """Without the key of its batch, which would make one event of all its items elsewhere."""
    if _is_made(row):
        row.idempotency_key = row.idempotency_item = ABSENT
    return row


def id_of(row: Row) -> str | None:
    """The ``_id``, where it is a text."""
    if _is_missing(row.id):
        return None
    found = msgspec.json.decode(row.id)
    return found if isinstance(found, str) else None


def as_json(text: str) -> Raw:
    """A text as JSON. Raises ValueError where it was no UTF-8."""
    try:
        return Raw(encode(text))
    except UnicodeEncodeError as fault:
        shown = text[:60].encode(errors="replace").decode()
        raise ValueError(f"is not UTF-8: {quoted(shown)}") from fault


def _is_made(row: Row) -> bool:
    is_of_a_batch = not _is_missing(row.idempotency_item)
    return is_of_a_batch or _MADE_OF_A_HEADER in encode(row.idempotency_key)


def _there(value: Raw) -> Raw:
    return ABSENT if _is_missing(value) else value


def _is_missing(value: Raw) -> bool:
    """Other programs write null for what is not there."""
    return value is ABSENT or value == _NULL


_DECODER: Final = msgspec.json.Decoder(Row)
_ENCODER: Final = msgspec.json.Encoder()
