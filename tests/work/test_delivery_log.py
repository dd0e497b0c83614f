"""What operators read of deliveries."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from meterd.domain.breaker import Breaker
from meterd.domain.endpoints import Endpoint
from meterd.domain.standing import Standing
from meterd.work.delivery_log import tell_change

CLOSED = Breaker()
ENDPOINT = Endpoint("billing", "http://b.test/", ("whsec_first",))


def standing(breaker: Breaker = CLOSED, paused_until_ms: int = 0, gone: bool = False) -> Standing:
    return Standing(ENDPOINT, breaker, 0, paused_until_ms, gone)


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        (standing(), standing(Breaker(9, 9)), []),
        (standing(Breaker(9, 0)), standing(Breaker(10, 0)), ["endpoint fails"]),
        (
            standing(Breaker(9, 9)),
            standing(Breaker(10, 10)),
            ["endpoint fails", "endpoint is down"],
        ),
        (standing(Breaker(10, 9)), standing(Breaker(11, 10)), ["endpoint is down"]),
        (standing(Breaker(90, 90)), standing(Breaker(91, 91)), []),
        (standing(Breaker(90, 90)), standing(), ["endpoint is back"]),
        (standing(paused_until_ms=5), standing(paused_until_ms=5), []),
        (standing(paused_until_ms=5), standing(paused_until_ms=6), ["endpoint asks to wait"]),
        (standing(), standing(gone=True), ["endpoint is gone (410)"]),
        (standing(gone=True), standing(gone=True), []),
    ],
)
def test_each_change_is_told_once(before: Standing, now: Standing, said: list[str]) -> None:
    """With the endpoint that it is about."""
    with capture_logs() as logged:
        tell_change(before, now)
    assert [entry["event"][: len(start)] for entry, start in zip(logged, said, strict=True)] == said
    assert {entry["endpoint"] for entry in logged} <= {"billing"}
