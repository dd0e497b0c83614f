"""Certificates of receivers that are dialled: what holds, what does not, and handshakes."""

from __future__ import annotations

import gc
import ssl
from typing import TYPE_CHECKING

import pytest
import trio
import trustme

from meterd.edge.egress import DEADLINE_S, open_sender
from tests.edge.receivers import (
    BODY,
    HEADERS,
    LOOPBACK,
    OK,
    Stream,
    answering,
    endpoint,
    listening,
    post,
    resolving,
)

if TYPE_CHECKING:
    from trio.testing import MockClock

NOWHERE = endpoint()


def server_context(authority: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    return context


async def test_a_pinned_address_keeps_the_name(
    authority: trustme.CA, trusting: ssl.SSLContext
) -> None:
    """SNI, certificate and Host are the name's, though the address is dialled."""
    context = server_context(authority, "billing.test")
    named: list[str | None] = []
    context.sni_callback = lambda _socket, name, _context: named.append(name)
    requests: list[bytes] = []
    async with listening(answering(OK, OK, requests=requests), context) as receiver:
        url = f"https://billing.test:{receiver.port}/"
        async with open_sender(LOOPBACK, trusting, resolve=resolving(["127.0.0.1"])) as sender:
            assert (await sender.post(url, HEADERS, BODY)).error is None
            assert (await sender.post(url, HEADERS, BODY)).error is None
        assert receiver.connections == 1
    assert named == ["billing.test"]
    assert b"\r\nHost: billing.test:%d\r\n" % receiver.port in requests[0]


async def test_the_limits_hold_under_tls(authority: trustme.CA, trusting: ssl.SSLContext) -> None:
    """A flood is cut, and an exemption that is gone is obeyed, whatever the encryption."""
    flood = b"HTTP/1.1 103 Early Hints\r\n\r\n" * 5000
    handler = answering(OK, OK, flood)
    async with (
        listening(handler, server_context(authority, "127.0.0.1")) as receiver,
        open_sender(LOOPBACK, trusting) as sender,
    ):
        url = f"https://127.0.0.1:{receiver.port}/"
        assert (await sender.post(url, HEADERS, BODY)).error is None
        assert (await sender.post(url, HEADERS, BODY)).error is None
        assert (
            await sender.post(url, HEADERS, BODY)
        ).error == "Parse Error: Too many interim answers"
        assert (await sender.post(url, HEADERS, BODY)).error is None
        sender.update(NOWHERE)
        refused = await sender.post(url, HEADERS, BODY)
        assert refused.error is not None
        assert "is private (loopback)" in refused.error


async def test_certificates_that_do_not_hold_are_refused(
    authority: trustme.CA, trusting: ssl.SSLContext
) -> None:
    """The reason reaches the operator, and the request does not reach the impostor."""
    requests: list[bytes] = []
    handler = answering(OK, requests=requests)
    stranger = server_context(trustme.CA(), "billing.test")
    async with listening(handler, stranger) as receiver:
        url = f"https://billing.test:{receiver.port}/"
        outcome = await post(url, LOOPBACK, trusting, resolve=resolving(["127.0.0.1"]))
    assert outcome.error == "certificate verify failed: unable to get local issuer certificate"
    async with listening(handler, server_context(authority, "other.test")) as receiver:
        url = f"https://billing.test:{receiver.port}/"
        outcome = await post(url, LOOPBACK, trusting, resolve=resolving(["127.0.0.1"]))
    assert outcome.error == (
        "certificate verify failed: Hostname mismatch, certificate is not valid for 'billing.test'."
    )
    assert requests == []


async def test_a_failed_handshake_is_named(trusting: ssl.SSLContext) -> None:
    """HTTPS where only http is spoken, and a peer that leaves in the middle."""

    async def plain(stream: Stream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async def leave(stream: Stream) -> None:
        await stream.receive_some()

    for handler in (plain, leave):
        async with listening(handler) as receiver:
            outcome = await post(f"https://127.0.0.1:{receiver.port}/", LOOPBACK, trusting)
            assert outcome.error is not None
            assert outcome.error.startswith("TLS handshake failed: ")


async def test_a_hung_handshake_ends_and_leaves_no_socket(
    trusting: ssl.SSLContext, autojump_clock: MockClock
) -> None:
    """The deadline spans it, and the connection is closed with it."""
    autojump_clock.autojump_threshold = 0.02
    left = trio.Event()

    async def handshake_never(stream: Stream) -> None:
        while await stream.receive_some():
            pass
        left.set()

    async with listening(handshake_never) as receiver:
        before_s = trio.current_time()
        outcome = await post(f"https://127.0.0.1:{receiver.port}/", LOOPBACK, trusting)
        assert outcome.error == "Request timeout"
        assert trio.current_time() - before_s == pytest.approx(DEADLINE_S)
        await left.wait()
    gc.collect()  # an unclosed socket would be warned of here
