"""What a replay may be asked with, and what is wrong with the rest."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from meterd.domain.periods import PeriodType
from meterd.edge.parameters import UnfitParameterError, aggregation_cursor
from meterd.edge.replay_request import ReplayRequest, decode_replay
from meterd.ledger import AggregationPlace, Replay
from tests.fake_clock import ms

NOW_MS = ms("2026-03-10T10:00:00Z")
ENDPOINTS = ("billing", "crm")
INSTANT = "an ISO 8601 date (2026-01-14) or an instant with its offset (2026-01-14T00:00:00.000Z)"
EXAMPLE = '{"endpoint": "crm", "from": "2026-01-01", "dryRun": true}'
PLACE = AggregationPlace(ms("2026-01-14T00:00:00Z"), "kunde é", PeriodType.DAILY)
CURSOR = aggregation_cursor(PLACE)
WHOLE = {"endpoint": "crm", "from": "2026-01-14"}


def decode(given: Any) -> ReplayRequest:
    body = given if isinstance(given, bytes) else json.dumps(given).encode()
    return decode_replay(body, ENDPOINTS, NOW_MS)


def test_what_is_not_said_is_taken_for_granted() -> None:
    """Until now, in earnest, from the beginning."""
    from_ms = ms("2026-01-14T00:00:00Z")
    assert decode(WHOLE) == ReplayRequest(Replay("crm", from_ms, NOW_MS), None, dry_run=False)
    assert decode(WHOLE | {"to": None, "cursor": None}) == decode(WHOLE)


def test_all_that_may_be_said() -> None:
    """The end, that it is only counted, and where to go on."""
    given = {**WHOLE, "to": "2026-02-01T00:00:00+01:00", "dryRun": True, "cursor": CURSOR}
    asked = decode(given)
    assert asked.replay.to_ms == ms("2026-01-31T23:00:00Z")
    assert (asked.after, asked.dry_run) == (PLACE, True)


AS_IT_SHOULD_BE = f"; as it should be: {EXAMPLE}"


@pytest.mark.parametrize(
    ("given", "error"),
    [
        (b"", f"Request body is required: {EXAMPLE}"),
        (b"{", f"Malformed JSON: ends before it is whole (byte 1){AS_IT_SHOULD_BE}"),
        (b'{"endpoint": "crm\xff"}', f"Malformed JSON: not UTF-8 (byte 17){AS_IT_SHOULD_BE}"),
        (b'{"endpoint":' + b"[" * 100_000, f"Malformed JSON: nested too deep{AS_IT_SHOULD_BE}"),
        (b"[]", f"Request body must be a JSON object: {EXAMPLE}"),
        (b"null", f"Request body must be a JSON object: {EXAMPLE}"),
        ({}, "endpoint must be one of: billing, crm"),
        ({**WHOLE, "endpoint": 7}, "endpoint must be one of: billing, crm"),
        ({**WHOLE, "endpoint": ["crm"]}, "endpoint must be one of: billing, crm"),
        ({"endpoint": "crm"}, f"from is required: {INSTANT}"),
        ({**WHOLE, "from": 5}, f"from must be {INSTANT}"),
        ({**WHOLE, "from": "yesterday"}, f"from must be {INSTANT}"),
        ({**WHOLE, "to": "2026-01-14T00:00:00"}, f"to must be {INSTANT}"),
        ({**WHOLE, "from": "2026-03-11"}, "from must not be in the future"),
        ({**WHOLE, "from": "2026-03-11", "to": "2026-03-12"}, "from must not be in the future"),
        ({**WHOLE, "to": "2026-01-13"}, "to must not be before from"),
        ({**WHOLE, "dryRun": "yes"}, "dryRun must be true or false"),
        ({**WHOLE, "dryRun": None}, "dryRun must be true or false"),
        (
            {**WHOLE, "dryrun": True},
            '"dryrun" is no field; there are endpoint, from, to, dryRun, cursor',
        ),
        ({**WHOLE, "cursor": "!"}, "cursor must be that of an earlier answer"),
        ({**WHOLE, "cursor": ""}, "cursor must be that of an earlier answer"),
        ({**WHOLE, "cursor": 7}, "cursor must be that of an earlier answer"),
        ({**WHOLE, "cursor": "AAAA"}, "cursor must be that of an earlier answer"),
    ],
)
def test_what_is_wrong_is_named(given: Any, error: str) -> None:
    """With what it takes."""
    with pytest.raises(UnfitParameterError) as raised:
        decode(given)
    assert str(raised.value) == error


def test_one_moment_may_be_asked_for() -> None:
    """The ends of periods are what counts, so it is all that closed then: a month, say."""
    replay = decode({**WHOLE, "to": "2026-01-14"}).replay
    assert replay.from_ms == replay.to_ms == ms("2026-01-14T00:00:00Z")


def test_a_cursor_beyond_all_calendars() -> None:
    """Is refused, and breaks nothing."""
    for start_ms in (-1, ms("9999-01-01T00:00:00Z"), 1 << 62):
        cursor = aggregation_cursor(msgspec.structs.replace(PLACE, start_ms=start_ms))
        with pytest.raises(UnfitParameterError, match="cursor"):
            decode({**WHOLE, "cursor": cursor})


def test_where_no_webhook_is_configured() -> None:
    """That is said."""
    with pytest.raises(UnfitParameterError, match="none is configured"):
        decode_replay(b"{}", (), NOW_MS)
