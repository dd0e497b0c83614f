"""Whatever URL the configuration takes, an attempt to post there comes to an outcome."""

from __future__ import annotations

import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import trio
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from meterd.domain.endpoints import endpoint_url
from meterd.domain.sections import Refused
from tests.edge.receivers import OK, post, resolving

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest

    from meterd.domain.outcomes import Outcome

_LABELS = st.one_of(
    st.sampled_from(["xn--n3h", "xn--", "xn--a", "XN--A", "127", "0x7f", "a_b", "-", "", "%41"]),
    st.builds("xn--{}".format, st.text("abc019-", max_size=8)),
    st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=6),
    st.just("a" * 64),
)
_BRACKETED = st.one_of(
    st.sampled_from(["::1", "::1%25lo", "fe80::1%lo", "v1.a", "::ffff:127.0.0.1"]),
    st.text("0123456789abcdef:.%v", max_size=12),
).map("[{}]".format)
_HOSTS = st.lists(_LABELS, min_size=1, max_size=4).map(".".join) | _BRACKETED
_ENDS = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=12)
URLS = st.builds(
    "{}://{}{}{}".format,
    st.sampled_from(["http", "https", "HTTP"]),
    _HOSTS,
    st.sampled_from(["", ":", ":1", ":00080", ":65535"]),
    st.sampled_from(["", "/", "?"]).flatmap(lambda begin: _ENDS.map(begin.__add__)),
)


@contextmanager
def always_answered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever is dialled is connected, and its answer has arrived before it is asked."""
    theirs: list[socket.socket] = []

    async def connected(host: str, port: int, **options: Any) -> trio.SocketStream:
        await trio.lowlevel.checkpoint()
        ours, other = socket.socketpair()
        other.sendall(OK)
        other.shutdown(socket.SHUT_WR)
        theirs.append(other)
        return trio.SocketStream(trio.socket.from_stdlib_socket(ours))

    with monkeypatch.context() as patched:
        patched.setattr(trio, "open_tcp_stream", connected)
        yield
    for other in theirs:
        other.close()


@given(URLS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much])
@example("http://xn--n3h.com/hook")
@example("https://xn--n3h.com/hook")
@example("http://xn--a/")
@example("http://xn--/")
@example("https://.a/")
@example("https://a..b/")
@example("http://[::1]a:1/")
def test_no_url_ends_the_process(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """A worker does not survive an exception, and the daemon not its worker, at each start anew."""
    try:
        endpoint_url(url)
    except Refused:
        assume(False)

    async def attempt() -> Outcome:
        return await post(url, resolve=resolving(["127.0.0.1"]))

    with always_answered(monkeypatch):
        outcome = trio.run(attempt)
    assert outcome.error is None or outcome.kind is not None
    if url.startswith("http://xn--n3h."):
        assert outcome.status == 200
