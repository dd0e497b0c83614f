"""Who may be sent to, by what came of the last attempts."""

from __future__ import annotations

from ipaddress import ip_network

import msgspec
import pytest

from meterd.domain.breaker import OPENS_AFTER, Breaker
from meterd.domain.endpoints import Endpoint
from meterd.domain.outcomes import Outcome
from meterd.domain.standing import Standing

HERE = Endpoint("billing", "http://here.test/", ("whsec_a",))
THERE = msgspec.structs.replace(HERE, url="http://there.test/")
FAILED = Outcome("HTTP 503: x", status=503)
GONE = Outcome("HTTP 410: Gone", status=410)
BUSY = Outcome("HTTP 429: x", status=429, headers=(("Retry-After", "90"),))


def after(standing: Standing, *outcomes: Outcome, asked: Endpoint = HERE) -> Standing:
    for outcome in outcomes:
        standing = standing.after(asked, outcome, 1000)
    return standing


def test_what_holds_it() -> None:
    """Failures for as long as the breaker says, Retry-After as it says, 410 for ever."""
    new = Standing(HERE)
    assert not new.is_held(0)
    rests = after(new, *[FAILED] * OPENS_AFTER)
    assert [rests.is_held(at_ms) for at_ms in (1000, 1999, 2000)] == [True, True, False]
    paused = after(new, BUSY, Outcome())
    assert [paused.is_held(at_ms) for at_ms in (1000, 90_999, 91_000)] == [True, True, False]
    assert after(new, GONE, Outcome()).is_held(1 << 60)


def test_what_refuses_is_rested_from_with_repeats_only() -> None:
    """First attempts go on; what was refused before rests, and its next failure makes it longer."""
    refusing = after(Standing(HERE), *[Outcome("HTTP 404: x", status=404)] * OPENS_AFTER)
    assert not refusing.is_held(1000)
    assert [refusing.repeats_max(4, at_ms) for at_ms in (1999, 2000)] == [0, 1]
    more = after(refusing, Outcome("HTTP 404: x", status=404))
    assert more.rests_until_ms == refusing.rests_until_ms
    again = refusing.after(HERE, Outcome("HTTP 404: x", status=404), 2000, is_repeat=True)
    assert [again.repeats_max(4, at_ms) for at_ms in (3999, 4000)] == [0, 1]


@pytest.mark.parametrize(("slots", "repeats"), [(1, 1), (2, 1), (3, 2), (4, 2), (32, 16)])
def test_repeats_have_half_of_the_slots(slots: int, repeats: int) -> None:
    """One at least."""
    assert Standing(HERE).repeats_max(slots, 0) == repeats


def test_asking_to_wait_is_no_failure() -> None:
    """The breaker does not count it."""
    assert after(Standing(HERE), *[BUSY] * 20).breaker == Breaker()


@pytest.mark.parametrize("outcome", [FAILED, GONE, BUSY, Outcome()])
def test_another_url_says_nothing(outcome: Outcome) -> None:
    """Neither good nor bad."""
    known = after(Standing(HERE), FAILED)
    assert after(known, outcome, asked=THERE) == known


def test_a_new_url_begins_anew() -> None:
    """Nothing that was known of the other one holds."""
    known = after(Standing(HERE), *[FAILED] * 20, BUSY, GONE)
    assert known.configured(THERE) == Standing(THERE)
    assert known.configured(HERE) == known


@pytest.mark.parametrize(
    "changes",
    [
        {"secrets": ("whsec_b",)},
        {"allow_private": (ip_network("10.0.0.0/8"),)},
        {"deadline_ms": 1},
    ],
)
def test_where_an_attempt_may_end_otherwise_a_rest_ends(changes: dict[str, object]) -> None:
    """But not what the URL said itself; and what was asked in the old way counts no more."""
    known = after(Standing(HERE), *[FAILED] * 20, BUSY, GONE)
    other = msgspec.structs.replace(HERE, **changes)
    changed = known.configured(other)
    assert (changed.breaker, changed.rests_until_ms) == (Breaker(), 0)
    assert (changed.paused_until_ms, changed.is_gone) == (91_000, True)
    assert after(changed, FAILED).breaker == Breaker()


@pytest.mark.parametrize("changes", [{"slots": 9}, {"description": "x"}, {"schedule_ms": (1,)}])
def test_any_other_change_changes_nothing(changes: dict[str, object]) -> None:
    """The endpoint is as dead as before."""
    known = after(Standing(HERE), *[FAILED] * 20, BUSY)
    other = msgspec.structs.replace(HERE, **changes)
    assert known.configured(other) == msgspec.structs.replace(known, endpoint=other)
