"""The ``[[alerts]]`` of a configuration."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

import pytest

from meterd.domain.advice import advice
from meterd.domain.alerts import ALERTS_MAX, THRESHOLDS_MAX, derived_id
from meterd.domain.config import decode, public_config
from meterd.domain.errors import ConfigError
from meterd.domain.periods import PeriodType

if TYPE_CHECKING:
    from meterd.domain.alerts import Alert

EVENTS = """
[events."api.calls"]
op = "sum"
[events.storage]
op = "max"
[events.latency]
op = "avg"
"""
ONE = """
[[alerts]]
event = "api.calls"
period = "monthly"
thresholds = [1000]
"""


def alerts(text: str, form: str = "toml") -> tuple[Alert, ...]:
    return decode((EVENTS + text).encode(), form="toml", environ={}).alerts


def faults(text: str) -> list[str]:
    """Without the lines that they stand on."""
    with pytest.raises(ConfigError) as refused:
        alerts(text)
    return [line.split(": ", 1)[1] for line in str(refused.value).splitlines()]


def test_alerts_are_read_in_their_order() -> None:
    """Thresholds ascend, whatever the order they are written in, and are exact in every spelling.

    What an alert watches names it, unless it has a name.
    """
    first, second = alerts(
        ONE
        + """
[[alerts]]
id = "disk"
event = "storage"
period = "daily"
thresholds = ["1e3", 0.1, 9007199254740993, 0.30000000000000004440892098500626161694]
customer = "customer 1"
"""
    )
    assert (first.event, first.period, first.customer) == ("api.calls", PeriodType.MONTHLY, None)
    assert first.id == derived_id("api.calls", PeriodType.MONTHLY, None) == "monthly-db9c9dbb"
    assert second.id == "disk"
    assert second.customer == "customer 1"
    assert [str(number) for number in second.thresholds] == [
        "0.1",
        "0.30000000000000004440892098500626161694",
        "1E+3",
        "9007199254740993",
    ]


def test_json_has_them_too() -> None:
    """Numbers with every digit there as well."""
    text = b"""{"events": {"a": {"op": "count"}}, "alerts":
        [{"event": "a", "period": "hourly", "thresholds": [0.12345678901234567890123]}]}"""
    (alert,) = decode(text, form="json", environ={}).alerts
    assert alert.thresholds == (Decimal("0.12345678901234567890123"),)


def test_a_derived_id_stays_when_thresholds_change() -> None:
    """And is another's where anything else is watched."""
    watched = [
        (event, period, customer)
        for event in ("a", "b")
        for period in (PeriodType.DAILY, PeriodType.YEARLY)
        for customer in (None, "a", "b")
    ]
    assert len({derived_id(*one) for one in watched}) == len(watched)
    (other,) = alerts(ONE.replace("1000", "1, 2"))
    assert other.id == "monthly-db9c9dbb"


NUMBER = 'alerts[0].thresholds[0]: must be a number above 0, such as 1000 or "0.5", not '


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ('event = "api.calls"', "", "alerts[0]: event is missing"),
        ('period = "monthly"', "", "alerts[0]: period is missing"),
        ("thresholds = [1000]", "", "alerts[0]: thresholds is missing"),
        (
            "api.calls",
            "api.cals",
            'alerts[0].event: must be an event type under [events], not "api.cals"',
        ),
        (
            "api.calls",
            "latency",
            (
                "alerts[0].event: must be an event type with op sum, count or max:"
                ' "latency" has avg, which may pass a threshold and be back unseen'
            ),
        ),
        (
            "monthly",
            "montly",
            (
                "alerts[0].period: must be one of hourly, daily, weekly, monthly, yearly,"
                ' not "montly"; did you mean monthly?'
            ),
        ),
        ("[1000]", "1000", "alerts[0].thresholds: must be an array, not 1000"),
        ("[1000]", "[]", "alerts[0].thresholds: must hold 1 to 20 numbers"),
        ("1000", "1, 1.0", "alerts[0].thresholds: must not hold 1 twice"),
        ("1000", "0", "alerts[0].thresholds[0]: must be above 0, not 0"),
        ("1000", '"-1.5"', 'alerts[0].thresholds[0]: must be above 0, not "-1.5"'),
        ("1000", "true", NUMBER + "true"),
        ("1000", '"ten"', NUMBER + '"ten"'),
        ("1000", "[1]", NUMBER + "an array"),
        ("1000", "1979-05-27", NUMBER + "a date or time"),
        ("1000", "inf", "alerts[0].thresholds[0]: must be a finite number, not Infinity"),
        ("1000", "nan", "alerts[0].thresholds[0]: must be a finite number, not NaN"),
        ("1000", '"sNaN"', 'alerts[0].thresholds[0]: must be a finite number, not "sNaN"'),
        ("1000", "1e309", "alerts[0].thresholds[0]: must be a finite number"),
        (
            "1000",
            "1." + "1" * 64,
            "alerts[0].thresholds[0]: must have at most 64 significant digits",
        ),
        (
            "1000",
            ", ".join(map(str, range(1, THRESHOLDS_MAX + 2))),
            "alerts[0].thresholds: must hold at most 20, not 21",
        ),
        (
            "thresholds",
            'customer = ""\nthresholds',
            "alerts[0].customer: must be 1 to 256 bytes of UTF-8, not 0",
        ),
        (
            "thresholds",
            "customer = 7\nthresholds",
            "alerts[0].customer: must be a string, not 7",
        ),
        (
            "thresholds",
            'id = "a b"\nthresholds',
            (
                "alerts[0].id: must be up to 64 letters, digits, dots, hyphens and underscores,"
                ' the first a letter or digit, not "a b"'
            ),
        ),
        (
            "thresholds",
            "treshold = 1\nthresholds",
            "alerts[0].treshold: unknown option; did you mean thresholds?",
        ),
    ],
)
def test_what_an_alert_takes(old: str, new: str, fault: str) -> None:
    """Each wrong one is named, with what it takes instead."""
    assert old in ONE
    assert faults(ONE.replace(old, new)) == [fault]


def test_no_two_alerts_have_one_id() -> None:
    """What is watched twice is one alert, or has names."""
    (fault,) = faults(ONE + ONE)
    assert fault == (
        'alerts[1].id: "monthly-db9c9dbb" is the id of another alert:'
        " put their thresholds together, or give ids"
    )
    named = ONE.replace("thresholds", 'id = "a"\nthresholds')
    assert faults(named + named) == ['alerts[1].id: "a" is the id of another alert']
    assert len(alerts(ONE + named)) == 2


def test_alerts_are_bounded() -> None:
    """Each is asked about each customer."""
    many = "".join(ONE.replace("event", f'id = "a{n}"\nevent') for n in range(ALERTS_MAX + 1))
    assert faults(many) == ["alerts: must hold at most 100, not 101"]


def test_alerts_are_shown() -> None:
    """As text, so that no reader loses a digit."""
    text = EVENTS + ONE.replace("1000", '"0.10"')
    config = decode(text.encode(), form="toml", environ={})
    shown = {"id": "monthly-db9c9dbb", "event": "api.calls", "period": "monthly"}
    assert public_config(config)["alerts"] == [{**shown, "thresholds": ["0.1"]}]
    assert "alerts, and no enabled webhook: nobody is told" in advice(config)
