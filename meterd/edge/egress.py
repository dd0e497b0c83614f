"""Posts one body to one endpoint, and says what came of it.

What it keeps, whatever the receiver or its name server do:

- No byte goes to an address that was not judged: see ``dialling``.
- An attempt ends: one deadline spans look-up, connect, request and answer (timeouts of single reads
  never end a peer that drips), and the answer has a limit: see ``answers``.
- Of the answer nothing is decoded, followed or remembered; what it repeats of the URL is masked.
- One endpoint cannot slow another: connections and look-ups are its own.

What an outcome means for the delivery is decided elsewhere; so is what to send, and when.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import httpx
import msgspec
import trio

from meterd.domain.echoes import Echoes
from meterd.domain.endpoints import URL_MAX, masked_url
from meterd.domain.outcomes import BODY_BYTES_MAX, ErrorKind, Outcome, kept_fields
from meterd.edge.dialling import Guard, system_look_up
from meterd.edge.failures import AttemptError
from meterd.edge.keep_alive import ADDRESS, KeptConnections

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Mapping

    from meterd.domain.endpoints import Endpoint
    from meterd.edge.dialling import Resolve

# Standard Webhooks 1.0.0 asks senders to wait 15 to 30 s.
DEADLINE_S: Final = 15.0
_ERROR_CHARACTERS_MAX: Final = 500
_TARGET_CHARACTERS_MAX: Final = 200
# A token that begins in what is kept of a body is to be recognised.
_BODY_READ_MAX: Final = BODY_BYTES_MAX + 4 * URL_MAX


class Sender:
    """Posts to one endpoint over its own connections. Made by ``open_sender``.

    It calls httpx's transport without httpx's client, which takes longer than all the rest of a
    post, for what is not wanted here: redirects, cookies, authentication from the URL, proxies from
    the environment, a log that shows whole URLs.
    """

    def __init__(self, transport: httpx.AsyncBaseTransport, guard: Guard) -> None:
        self._transport = transport
        self._guard = guard
        self._target = _Target("", httpx.URL(), b"", Echoes(""))

    def update(self, endpoint: Endpoint) -> None:
        """From now on every request obeys this ``allow_private``, on kept connections too."""
        self._guard.endpoint = endpoint

    async def post(
        self,
        url: str,
        headers: Mapping[str, str],
        body: bytes,
        *,
        deadline_s: float = DEADLINE_S,
    ) -> Outcome:
        """What came of one attempt; never raises for what a receiver or the network does.

        Success is a 2xx whose answer came to its end, or to the limit of its length. One that broke
        off may be a receiver that died in the middle: not delivered, though perhaps received.
        """
        try:
            request = self._request(url, headers, body)
        except httpx.InvalidURL as error:
            return Outcome(_one_line(f"Invalid URL: {error}"), ErrorKind.URL)
        received = _Received(self._target.echoes)
        try:
            with trio.fail_after(deadline_s):
                await received.read(self._transport, request)
            failed = None
        except trio.TooSlowError:
            failed = AttemptError(ErrorKind.TIMEOUT, "Request timeout")
        except AttemptError as error:
            failed = error
        return received.outcome(failed, request.url, request.extensions.get(ADDRESS))

    def _request(self, url: str, headers: Mapping[str, str], body: bytes) -> httpx.Request:
        if url != self._target.text:
            parsed = httpx.URL(url)
            self._target = _Target(url, parsed, parsed.netloc, Echoes(url))
        target = self._target
        # All fields are here: to make them out takes httpx ten times as long.
        fields = [
            (b"Host", target.host),
            (b"Accept-Encoding", b"identity"),
            (b"Content-Length", b"%d" % len(body)),
            *((name.encode("ascii"), value.encode("ascii")) for name, value in headers.items()),
        ]
        return httpx.Request("POST", target.url, headers=fields, stream=httpx.ByteStream(body))


class _Target(msgspec.Struct, frozen=True):
    """A URL, taken apart."""

    text: str
    url: httpx.URL
    host: bytes
    echoes: Echoes


class _Received:
    """As much of the answer as has come; what it says of the URL's tokens is masked."""

    def __init__(self, echoes: Echoes) -> None:
        self._echoes = echoes
        self._response: httpx.Response | None = None
        self._body = bytearray()

    async def read(self, transport: httpx.AsyncBaseTransport, request: httpx.Request) -> None:
        """Raises AttemptError."""
        response = self._response = await transport.handle_async_request(request)
        assert isinstance(response.stream, httpx.AsyncByteStream)
        try:
            async for part in response.stream:
                self._body += part[: _BODY_READ_MAX - len(self._body)]
        finally:
            await response.aclose()

    def outcome(self, failed: AttemptError | None, url: httpx.URL, address: str | None) -> Outcome:
        """Of what was posted to that URL, at that address."""
        response = self._response
        if response is None:
            assert failed is not None
            return Outcome(self._line(str(failed)), failed.kind, address=address)
        error, kind = None, None
        cut = failed is not None and failed.kind is ErrorKind.ANSWER_TOO_LONG
        # The status of a refusal tells more than how its body ended.
        if not response.is_success:
            line = f"{_status_line(response)}{_not_followed(response, url)}"
            error, kind = self._line(line), ErrorKind.STATUS
        elif failed is not None and not cut:
            error, kind = self._line(str(failed)), failed.kind
        masked = self._echoes.masked
        fields = kept_fields((name, masked(value)) for name, value in response.headers.raw)
        body = masked(bytes(self._body))[:BODY_BYTES_MAX]
        return Outcome(error, kind, response.status_code, fields, body, address, cut=cut)

    def _line(self, text: str) -> str:
        return _one_line(self._echoes.masked_text(text))


@asynccontextmanager
async def open_sender(
    endpoint: Endpoint,
    tls: ssl.SSLContext,
    *,
    resolve: Resolve | None = None,
    connections_max: int = 4,
) -> AsyncIterator[Sender]:
    """A Sender with up to ``connections_max`` connections; posts beyond wait, in their own time.

    ``tls`` is to be shared by all senders: a context takes 29 ms and 780 KiB. Without ``resolve``
    names are resolved by the system.
    """
    tls.set_alpn_protocols(["http/1.1"])
    guard = Guard(endpoint, resolve or system_look_up(), tls)
    async with (
        KeptConnections(guard, connections_max) as transport,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(transport.close_expired)
        yield Sender(transport, guard)
        nursery.cancel_scope.cancel()


def _status_line(response: httpx.Response) -> str:
    sent: bytes = response.extensions["reason_phrase"]
    try:
        reason = sent.decode()
    except UnicodeDecodeError:
        reason = sent.decode("latin-1")  # RFC 9112 leaves the encoding open; this was HTTP's once
    reason = reason.strip() or _standard_reason(response.status_code)
    status = f"HTTP {response.status_code}"
    return f"{status}: {reason}" if reason else status


def _not_followed(response: httpx.Response, url: httpx.URL) -> str:
    """Where a redirect leads, masked as URLs are that may hold a token; nothing for the rest."""
    if not response.has_redirect_location:
        return ""
    try:
        target = url.join(response.headers["Location"][:URL_MAX])
        shown = masked_url(str(target.copy_with(userinfo=b"", fragment=None)))
    except (httpx.InvalidURL, ValueError):
        shown = "no URL"
    told = "redirects are not followed, it points to"
    return f"; {told} {_cut(shown, _TARGET_CHARACTERS_MAX)}"


def _standard_reason(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def _one_line(text: str) -> str:
    """Text of a stranger for a log and a page: no control characters, of bounded length."""
    printable = "".join(character if character.isprintable() else " " for character in text)
    return _cut(" ".join(printable.split()), _ERROR_CHARACTERS_MAX)


def _cut(text: str, characters_max: int) -> str:
    return text if len(text) <= characters_max else text[: characters_max - 1] + "…"
