"""What an endpoint's answers leave behind."""

from __future__ import annotations

import msgspec

from meterd.domain.endpoint_states import EndpointState, disabled, enabled, paused

URL = "https://billing.example/hooks/s3cret-t0ken"


def test_of_two_pauses_the_later_holds() -> None:
    """Answers to several attempts come in any order; another URL's is no pause of this one."""
    state = paused(paused(EndpointState(), URL, 90), URL, 30)
    assert state.pause_end_ms(URL) == 90
    assert state.pause_end_ms(URL + "2") == 0
    assert paused(state, URL + "2", 30).pause_end_ms(URL + "2") == 30


def test_a_pause_without_a_url_holds_for_any() -> None:
    """As it was stored when URLs were not kept with pauses."""
    stored = msgspec.msgpack.encode((7, 90, None, "", 3))
    state = msgspec.msgpack.decode(stored, type=EndpointState)
    assert state == EndpointState(7, 90, next_batch=3)
    assert state.pause_end_ms(URL) == 90


def test_gone_is_the_url_that_said_so() -> None:
    """The same endpoint with another URL is not; the URL itself is not kept."""
    state = disabled(EndpointState(7), URL, 1000)
    assert state.is_disabled(URL)
    assert not state.is_disabled(URL + "2")
    assert not EndpointState().is_disabled(URL)
    assert b"s3cret" not in msgspec.msgpack.encode(state)


def test_an_operator_lifts_both() -> None:
    """And nothing else changes."""
    state = disabled(paused(EndpointState(7), URL, 90), URL, 1000)
    assert enabled(state) == EndpointState(7)
