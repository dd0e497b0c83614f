"""Which events are one event, and what becomes of each of an append."""

from __future__ import annotations

from decimal import Decimal

import pytest

from meterd.domain.events import Refusal, UsageEvent
from meterd.domain.idempotency import Judged, Recorded, UsedKey, fingerprint, judge, read_header

R, D, C, W = Recorded.RECORDED, Recorded.DUPLICATE, Recorded.CONFLICT, Recorded.WITHHELD


def keyed(
    key: str = "k", value: str = "1", customer: str = "acme", metadata: bytes = b"{}"
) -> UsageEvent:
    return UsageEvent(customer, "api.calls", Decimal(value), metadata, key)


def name(event: UsageEvent) -> bytes:
    return f"{event.customer_id} {event.idempotency_key}".encode()


def all_taken(event: UsageEvent) -> Recorded:
    return Recorded.RECORDED


def known(*stored: UsageEvent) -> dict[bytes, bytes]:
    return {name(one): fingerprint(one) for one in stored}


def judged(
    events: list[UsageEvent], *stored: UsageEvent, partial: bool = False
) -> tuple[list[Recorded], list[UsageEvent]]:
    found = judge(events, name, known(*stored).get, all_taken, partial=partial)
    return found.outcomes, list(found.new)


# what comes, what is stored, the outcomes, which of them are new
CASES: list[tuple[list[UsageEvent], list[UsageEvent], list[Recorded], list[int]]] = [
    ([keyed("")] * 2, [keyed("")], [R, R], [0, 1]),
    ([keyed()], [], [R], [0]),
    ([keyed()], [keyed()], [D], []),
    ([keyed(value="2")], [keyed()], [C], []),
    ([keyed(customer="b")], [keyed()], [R], [0]),
    ([keyed("K")], [keyed()], [R], [0]),
    ([keyed(), keyed()], [], [R, D], [0]),
    ([keyed(), keyed(), keyed()], [keyed()], [D, D, D], []),
    ([keyed(), keyed(customer="b"), keyed("")], [], [R, R, R], [0, 1, 2]),
]


@pytest.mark.parametrize(("events", "stored", "outcomes", "new"), CASES)
def test_a_repeat_is_its_customers_key_with_the_same_content(
    events: list[UsageEvent], stored: list[UsageEvent], outcomes: list[Recorded], new: list[int]
) -> None:
    """Stored before, or earlier in the same append; without a key nothing is a repeat."""
    assert judged(events, *stored) == (outcomes, [events[place] for place in new])
    assert judged(events, *stored, partial=True) == judged(events, *stored)


def test_a_conflict_withholds_its_append() -> None:
    """All or nothing, unless the caller takes a part; also where the append conflicts in itself."""
    events = [keyed("new"), keyed(value="2"), keyed("old")]
    stored = [keyed(), keyed("old")]
    assert judged(events, *stored) == ([W, C, D], [])
    assert judged(events, *stored, partial=True) == ([R, C, D], [events[0]])
    assert judged([keyed(), keyed(value="2")]) == ([W, C], [])


def test_each_new_event_with_a_key_has_its_fingerprint() -> None:
    """By its place among the new ones, which is not its place in the append."""
    events = [keyed("old"), keyed(""), keyed("new")]
    found = judge(events, name, known(events[0]).get, all_taken, partial=False)
    taken = UsedKey(1, b"acme new", fingerprint(events[2]))
    assert found == Judged([D, R, R], events[1:], [taken])


SAME = [
    ("1", b"{}", "1.0", b"{}"),
    ("0", b"{}", "-0", b"{}"),
    ("100", b"{}", "1E+2", b"{}"),
    ("1", b'{"a":1,"b":[1]}', "1", b'{ "b": [ 1 ], "a": 1 }'),
    ("1", b'{"a":"\xc3\xa9"}', "1", b'{"a":"\\u00e9"}'),
    ("1", b'{"a":[1,100,-0,0.1]}', "1", b'{"a":[1.0,1e2,-0.0,0.10]}'),
    ("1", b'{"a":100000000000000000000}', "1", b'{"a":1E+20}'),
    ("1", b'{"a":1e999999}', "1", b'{"a":10e999998}'),
]
OTHER = [
    ("1", b"{}", "1.0000000000000000000000000000000000000000000000000000000000001", b"{}"),
    ("1", b"{}", "-1", b"{}"),
    ("1", b'{"a":1}', "1", b'{"a":2}'),
    ("1", b'{"a":[1,2]}', "1", b'{"a":[2,1]}'),
    ("1", b"{}", "1", b'{"a":null}'),
    ("1", b'{"a":1}', "1", b'{"a":"1"}'),
    ("1", b'{"a":9007199254740993}', "1", b'{"a":9007199254740992.0}'),
    ("1", b'{"a":0.1}', "1", b'{"a":0.1000000000000000000000000000000000001}'),
    ("1", b'{"a":1e400}', "1", b'{"a":1e401}'),
]


@pytest.mark.parametrize(("value", "metadata", "other_value", "other_metadata"), SAME)
def test_content_is_the_same_however_it_is_written(
    value: str, metadata: bytes, other_value: str, other_metadata: bytes
) -> None:
    """Numbers by what they are, metadata as JSON."""
    one, other = keyed("k", value, "c", metadata), keyed("k", other_value, "c", other_metadata)
    assert fingerprint(one) == fingerprint(other)


@pytest.mark.parametrize(("value", "metadata", "other_value", "other_metadata"), OTHER)
def test_other_content_is_told_apart(
    value: str, metadata: bytes, other_value: str, other_metadata: bytes
) -> None:
    """To the last digit; and the event type counts too."""
    one, other = keyed("k", value, "c", metadata), keyed("k", other_value, "c", other_metadata)
    assert fingerprint(one) != fingerprint(other)
    assert fingerprint(one) != fingerprint(UsageEvent("c", "x", one.value, one.metadata))


def test_metadata_that_only_javascript_reads_is_compared_as_sent() -> None:
    """A lone surrogate in an escape, brackets or digits by the thousand, are no failure."""
    for metadata in (
        b'{"a":"\\ud800"}',
        b'{"a":' + b"[" * 8000 + b"]" * 8000 + b"}",
        b'{"a":' + b"1" * 5000 + b"}",
        b'{"a":1e9999999999999999999}',
    ):
        assert fingerprint(keyed(metadata=metadata)) == fingerprint(keyed(metadata=metadata))
        assert fingerprint(keyed(metadata=metadata)) != fingerprint(keyed())


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ([], ""),
        (["abc"], "abc"),
        (['"abc"'], "abc"),
        ([r'"a\"b\\c"'], r"a\"b\c".replace('\\"', '"')),
        (["  8e03978e-40d5-43e8-bc93-6894a57f9324 "], "8e03978e-40d5-43e8-bc93-6894a57f9324"),
        (['"'], '"'),
        (['"a"b"'], '"a"b"'),
        (["k" * 255], "k" * 255),
    ],
)
def test_a_header_names_a_key_bare_or_quoted(values: list[str], key: str) -> None:
    """As people send it, and as the IETF's draft writes it."""
    assert read_header(values) == key


@pytest.mark.parametrize(
    ("values", "error"),
    [
        (["a", "a"], "Idempotency-Key must be sent once"),
        ([""], "Idempotency-Key must be a string of 1 to 255 characters"),
        (['""'], "Idempotency-Key must be a string of 1 to 255 characters"),
        (["k" * 256], "Idempotency-Key must be a string of 1 to 255 characters"),
        (["a\tb"], "Idempotency-Key must not contain control characters"),
        # As h11 and hypercorn give its UTF-8, which would be another key than in the body.
        (
            ["caf\xc3\xa9"],
            "Idempotency-Key must be ASCII: send others in the body, as idempotencyKey",
        ),
    ],
)
def test_an_unfit_header_is_refused_by_name(values: list[str], error: str) -> None:
    """A client that believes its event protected must hear that it is not."""
    refused = read_header(values)
    assert isinstance(refused, Refusal)
    assert refused.answer == {"error": "Validation failed", "details": [error]}
