"""TLS for tests: an authority of their own, a server's context, and clients that trust it."""

from __future__ import annotations

import ssl
from functools import cache
from typing import TYPE_CHECKING, Any, Final, cast

import trio
import trustme

from meterd.edge.certificates import server_context
from tests.edge.loopback import Client, Http2Client

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from tests.edge.loopback import Door

AUTHORITY: Final = trustme.CA()


def certificate_in(
    folder: Path, *, not_before: datetime | None = None, not_after: datetime | None = None
) -> tuple[str, str]:
    """The paths of a certificate and its key, written into the folder."""
    issued = AUTHORITY.issue_cert("127.0.0.1", not_before=not_before, not_after=not_after)
    certificate, key = folder / "meterd.crt", folder / "meterd.key"
    certificate.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
    key.touch(mode=0o600)
    key.write_bytes(issued.private_key_pem.bytes())
    return str(certificate), str(key)


def served_with(folder: Path) -> ssl.SSLContext:
    return server_context(*certificate_in(folder))


@cache
def trusting(*protocols: str) -> ssl.SSLContext:
    """A client's context, which offers these by ALPN. One for all of them: each loads all of the
    system's authorities, and sixteen at once held a loop up for longer than a limit of its door.
    """
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)
    context.set_alpn_protocols(protocols)
    return context


async def connect(door: Door, *protocols: str) -> trio.SSLStream[trio.SocketStream]:
    """A connection whose handshake is over."""
    stream = trio.SSLStream(
        await trio.open_tcp_stream("127.0.0.1", door.port),
        trusting(*(protocols or ("http/1.1",))),
        server_hostname="127.0.0.1",
    )
    await stream.do_handshake()
    return stream


async def client_of(door: Door, *protocols: str) -> Client:
    return Client(cast("Any", await connect(door, *protocols)))


async def http2_client_of(door: Door) -> Http2Client:
    stream = await connect(door, "h2", "http/1.1")
    assert stream.selected_alpn_protocol() == "h2"
    client = Http2Client(cast("Any", stream))
    await client.flush()
    return client
