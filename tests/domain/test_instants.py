"""Instants as text: a table of what is read and written, and what is refused."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meterd.domain.instants import format_instant, parse_instant

# The seconds are those that ``date -u +%s`` prints.
WRITTEN = [
    (0, "1970-01-01T00:00:00.000Z"),
    (1, "1970-01-01T00:00:00.001Z"),
    (-1, "1969-12-31T23:59:59.999Z"),
    (1_768_348_800_000, "2026-01-14T00:00:00.000Z"),
    (1_768_435_199_999, "2026-01-14T23:59:59.999Z"),
    (1_709_208_000_050, "2024-02-29T12:00:00.050Z"),
    (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
]


@pytest.mark.parametrize(("instant_ms", "text"), WRITTEN)
def test_an_instant_is_written_with_milliseconds_and_z(instant_ms: int, text: str) -> None:
    """Always 24 characters, so texts compare as their instants do; and read back the same."""
    assert format_instant(instant_ms) == text
    assert parse_instant(text) == instant_ms


# 2026-01-14T10:00:00Z
TEN = 1_768_384_800_000

READ = [
    ("2026-01-14", 1_768_348_800_000),
    ("2024-02-29", 1_709_164_800_000),
    ("1970-01-01", 0),
    ("2026-01-14T10:00Z", TEN),
    ("2026-01-14T10:00:00Z", TEN),
    ("2026-01-14T10:00:00.000Z", TEN),
    ("2026-01-14t10:00:00z", TEN),
    ("2026-01-14 10:00:00Z", TEN),
    # the same moment on other clocks
    ("2026-01-14T10:00:00+00:00", TEN),
    ("2026-01-14T10:00:00-00:00", TEN),
    ("2026-01-14T11:00:00+01:00", TEN),
    ("2026-01-14T11:00:00+0100", TEN),
    ("2026-01-14T15:30+05:30", TEN),
    ("2026-01-13T23:00:00-11:00", TEN),
    ("2026-01-15T00:00:00+14:00", TEN),
    # fractions of a second: what is finer than a millisecond is cut
    ("2026-01-14T10:00:00.5Z", TEN + 500),
    ("2026-01-14T10:00:00,25Z", TEN + 250),
    ("2026-01-14T10:00:00.999999999Z", TEN + 999),
    ("2026-01-14T10:00:00.0009Z", TEN),
    ("2026-01-14T11:00:00.007+01:00", TEN + 7),
    ("1969-12-31T23:59:59.9999Z", -1),
]


@pytest.mark.parametrize(("text", "instant_ms"), READ)
def test_a_date_or_an_instant_with_its_offset_is_read(text: str, instant_ms: int) -> None:
    """A date is its midnight, UTC; an offset is taken off; a fraction is cut to milliseconds."""
    assert parse_instant(text) == instant_ms


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "0",
        "1768384800000",
        "2026",
        "2026-01",
        "20260114",
        "2026-W03",
        "2026-014",
        # local times: another instant on every machine
        "2026-01-14T10:00",
        "2026-01-14T10:00:00",
        "2026-01-14T10:00:00.000",
        # not on the calendar or the clock
        "2026-00-14",
        "2026-13-01",
        "2026-01-32",
        "2026-02-29",
        "2100-02-29",
        "0000-01-01",
        "2026-01-14T25:00:00Z",
        "2026-01-14T10:60:00Z",
        "2026-01-14T10:00:61Z",
        "2026-01-14T10:00:00+24:00",
        "2026-01-14T10:00:00+01:60",
        # not quite ISO 8601
        "2026-1-14",
        "2026-01-14T1:00:00Z",
        "2026-01-14T10Z",
        "2026-01-14T10:00:00+1",
        "2026-01-14T10:00:00+01",
        "2026-01-14T10:00:00 02:00",  # a plus sign that a query string made a space
        "2026-01-14T10:00:00.Z",
        "2026-01-14T10:00:00.0000000000Z",
        "2026-01-14T10:00.5Z",  # half a minute, which nobody means
        "2026-01-14Z",
        "2026-01-14T",
        "2026/01/14",
        "+2026-01-14",
        "-2026-01-14",
        "12026-01-14",
        " 2026-01-14",
        "2026-01-14 ",
        "2026-01-14\n",
        "2026-01-14T10:00:00Z\n",
        "\N{FULLWIDTH DIGIT TWO}026-01-14",
        "2026-01-14T10:00:00\N{MINUS SIGN}01:00",
    ],
)
def test_anything_else_is_no_instant(text: str) -> None:
    """A text whose moment would have to be guessed is refused."""
    assert parse_instant(text) is None


@given(st.text())
def test_any_text_is_an_instant_or_none(text: str) -> None:
    """Whatever a client sends, there is an answer."""
    assert parse_instant(text) is None or text[:1].isdigit()


aware = st.datetimes(
    dt.datetime(1000, 1, 2),  # noqa: DTZ001
    dt.datetime(9999, 12, 30),  # noqa: DTZ001
    timezones=st.integers(-23 * 60, 23 * 60).map(
        lambda minutes: dt.timezone(dt.timedelta(minutes=minutes))
    ),
)


@given(aware)
def test_what_the_platform_writes_is_read_and_written_as_the_platform_reads_it(
    moment: dt.datetime,
) -> None:
    """Any offset, any fraction: the same millisecond, cut and never rounded up."""
    read = parse_instant(moment.isoformat())
    assert read is not None
    cut = moment.astimezone(dt.UTC).isoformat(timespec="milliseconds")
    assert format_instant(read) == cut.replace("+00:00", "Z")
