"""What an endpoint's answers leave behind."""

from __future__ import annotations

import msgspec

from meterd.domain.endpoint_states import EndpointState, disabled, enabled, paused

URL = "https://billing.example/hooks/s3cret-t0ken"


def test_of_two_pauses_the_later_holds() -> None:
    """Answers to several attempts come in any order."""
    state = paused(paused(EndpointState(), 90), 30)
    assert state.paused_until_ms == 90


def test_gone_is_the_url_that_said_so() -> None:
    """The same endpoint with another URL is not; the URL itself is not kept."""
    state = disabled(EndpointState(7), URL, 1000)
    assert state.is_disabled(URL)
    assert not state.is_disabled(URL + "2")
    assert not EndpointState().is_disabled(URL)
    assert b"s3cret" not in msgspec.msgpack.encode(state)


def test_an_operator_lifts_both() -> None:
    """And nothing else changes."""
    state = disabled(paused(EndpointState(7), 90), URL, 1000)
    assert enabled(state) == EndpointState(7)
