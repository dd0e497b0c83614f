"""Posts one body to one endpoint, and says in one line what came of it. The home of httpx.

What it keeps, whatever the receiver or its name server do:

- No byte goes to an address that was not judged. A name is resolved once for each connection, one
  bad address refuses it, and what is dialled is an address that was judged, not the name again.
  Host header, SNI and the check of the certificate stay with the name.
- An attempt ends: one deadline spans look-up, connect, request and answer (timeouts of single reads
  never end a peer that drips), and the answer has a limit, interim answers and framing included.
- Of the answer only status and reason phrase are used: nothing is decoded, followed or remembered.
- One endpoint cannot slow another: connections and look-ups are its own.

Error texts are those that Node gives, which operators of the old system search their logs for.
What an error means for the delivery is decided elsewhere; so is what to send, and when.
"""

from __future__ import annotations

import errno
import ipaddress
import logging
import socket
import ssl
from contextlib import aclosing, asynccontextmanager
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, TypeAlias

import httpcore
import httpx
import trio

from meterd.domain.outcomes import Outcome
from meterd.domain.reachable import Address, refusal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence

    from meterd.domain.endpoints import Endpoint

# The addresses of a host as text, best first. Raises socket.gaierror.
Resolve: TypeAlias = "Callable[[str], Awaitable[Sequence[str]]]"

# Standard Webhooks 1.0.0 asks senders to wait 15 to 30 s.
DEADLINE_S: Final = 15.0
# Outlives two lost SYN packets (Linux repeats after 1 s and 3 s); three such waits fill the
# deadline.
DIAL_S: Final = 5.0
DIALS_MAX: Final = 3
# 16 KiB for the head, as common servers have it, and as much for a body that nobody reads.
ANSWER_BYTES_MAX: Final = 32 * 1024
# A receiver can make every 6 bytes a chunk and every 16 an interim answer; the parser goes through
# a whole piece without letting others run, so a piece is small.
_PIECE_BYTES: Final = 1024
# Node, a common receiver, closes idle connections after 5 s; reusing one that is being closed would
# cost the delivery an attempt.
_KEEP_ALIVE_S: Final = 4.0
# A hung look-up holds its thread until the resolver gives up, long after the attempt was cancelled.
_LOOK_UPS_MAX: Final = 2
_ERROR_CHARACTERS_MAX: Final = 500

_EAI_NAMES: Final = {
    value: "ENOTFOUND" if name in ("EAI_NONAME", "EAI_NODATA") else name
    for name, value in vars(socket).items()
    if name.startswith("EAI_")
}
# httpcore's words for a connection that ended before a whole head had come.
_NO_ANSWER: Final = "Server disconnected without sending a response."
_FAILURES: Final = (
    httpx.HTTPError,
    httpx.InvalidURL,
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.TimeoutException,
    httpcore.UnsupportedProtocol,
    OSError,
)


class Sender:
    """Posts to one endpoint over its own connections. Made by ``open_sender``."""

    def __init__(self, client: httpx.AsyncClient, guard: _Guard, deadline_s: float) -> None:
        self._client = client
        self._guard = guard
        self._deadline_s = deadline_s

    def update(self, endpoint: Endpoint) -> None:
        """From now on every request obeys this ``allow_private``, on kept connections too."""
        self._guard.endpoint = endpoint

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Outcome:
        """What came of one attempt; never raises for what a receiver or the network does.

        Success is a 2xx whose answer came to its end, or to the limit of its length. One that broke
        off may be a receiver that died in the middle: not delivered, though perhaps received.
        """
        answered: Outcome | None = None
        try:
            with trio.fail_after(self._deadline_s):
                request = _request(url, headers, body)
                async with aclosing(await self._client.send(request, stream=True)) as response:
                    answered = _outcome(response)
                    async for _ in response.aiter_raw():
                        pass
                    return answered
        except _LongAnswerError:
            return answered or Outcome("Parse Error: Header overflow")
        except trio.TooSlowError:
            failed = Outcome("Request timeout")
        except _FAILURES as error:
            failed = Outcome(_one_line(_text(error)))
        # The status of a refusal tells more than how its body ended.
        return answered if answered and answered.error else failed


@asynccontextmanager
async def open_sender(
    endpoint: Endpoint,
    tls: ssl.SSLContext,
    *,
    resolve: Resolve | None = None,
    connections_max: int = 4,
    deadline_s: float = DEADLINE_S,
) -> AsyncIterator[Sender]:
    """A Sender with up to ``connections_max`` connections; posts beyond wait, in their own time.

    ``tls`` is to be shared by all senders: a context takes 29 ms and 780 KiB. Without ``resolve``
    names are resolved by the system.
    """
    # Both log whole URLs, and many receivers have their token there.
    for library in ("httpx", "httpcore"):
        logging.getLogger(library).setLevel(logging.WARNING)
    guard = _Guard(endpoint, resolve or system_look_up())
    pool = httpcore.AsyncConnectionPool(
        ssl_context=tls,
        max_connections=connections_max,
        keepalive_expiry=_KEEP_ALIVE_S,
        network_backend=guard,
    )
    # HTTP_PROXY and the like are for people's tools: a delivery goes to its receiver.
    async with httpx.AsyncClient(  # nosec B113
        transport=_Transport(pool),
        trust_env=False,
        follow_redirects=False,
        timeout=None,  # noqa: S113 -- the deadline bounds the whole attempt
    ) as client:
        yield Sender(client, guard, deadline_s)


def system_look_up() -> Resolve:
    """The system's look-up with threads of its own: trio's are shared with commits to the disk."""
    limiter = trio.CapacityLimiter(_LOOK_UPS_MAX)

    async def resolve(host: str) -> Sequence[str]:
        look_up = partial(socket.getaddrinfo, host, None, type=socket.SOCK_STREAM)
        try:
            found = await trio.to_thread.run_sync(look_up, limiter=limiter, abandon_on_cancel=True)
        except UnicodeError as error:  # an empty label, or one over 63 characters
            raise socket.gaierror(socket.EAI_NONAME, str(error)) from error
        return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))

    return resolve


class _Guard(httpcore.AsyncNetworkBackend):
    """Connects to judged addresses only; ``endpoint`` is asked anew each time."""

    def __init__(self, endpoint: Endpoint, resolve: Resolve) -> None:
        self.endpoint = endpoint
        self._resolve = resolve
        self._tcp = httpcore.TrioBackend()

    def judge(self, address: Address) -> None:
        """Raises _UnreachableError if the endpoint may not be reached there."""
        if refused := refusal(address, self.endpoint):
            raise _UnreachableError(refused)

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ARG002, ASYNC109 -- httpcore's signature
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        failed = _UnreachableError(f"getaddrinfo ENOTFOUND {host}")
        for address in (await self._judged(host))[:DIALS_MAX]:
            try:
                # An address as text is not looked up again.
                stream = await self._tcp.connect_tcp(
                    str(address), port, DIAL_S, local_address, socket_options
                )
                return _Wire(stream, partial(self.judge, address))
            except httpcore.ConnectTimeout:
                failed = _UnreachableError(f"connect ETIMEDOUT {address}:{port}")
            except httpcore.ConnectError as error:
                failed = _UnreachableError(f"{_named('connect', error)} {address}:{port}")
        raise failed

    async def _judged(self, host: str) -> Sequence[Address]:
        try:
            found = [ipaddress.ip_address(text) for text in await self._resolve(host)]
        except socket.gaierror as error:
            code = _EAI_NAMES.get(error.errno, error.errno)
            raise _UnreachableError(f"getaddrinfo {code} {host}") from error
        for address in found:
            self.judge(address)
        return found


class _Wire(httpcore.AsyncNetworkStream):
    """A connection to a judged address that limits each answer and names what breaks it."""

    def __init__(self, stream: httpcore.AsyncNetworkStream, judge: Callable[[], None]) -> None:
        self._stream = stream
        self._judge = judge
        self._answer_bytes = 0

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        if self._answer_bytes >= ANSWER_BYTES_MAX:
            raise _LongAnswerError
        try:
            data = await self._stream.read(min(max_bytes, _PIECE_BYTES), timeout)
        except httpcore.ReadError as error:
            raise httpcore.ReadError(_named("read", error)) from error
        self._answer_bytes += len(data)
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        self._judge()
        self._answer_bytes = 0
        await self._stream.write(buffer, timeout)

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> httpcore.AsyncNetworkStream:
        try:
            stream = await self._stream.start_tls(ssl_context, server_hostname, timeout)
        except httpcore.ConnectError as error:
            raise _UnreachableError(_named("TLS handshake", error)) from error
        except trio.Cancelled:  # httpcore closes the socket after errors only
            await self.aclose()
            raise
        return _Wire(stream, self._judge)

    async def aclose(self) -> None:
        await self._stream.aclose()

    def get_extra_info(self, info: str) -> object:
        return self._stream.get_extra_info(info)


class _Transport(httpx.AsyncBaseTransport):
    """httpx over a pool with our own network: httpx's transport does not let one choose it."""

    def __init__(self, pool: httpcore.AsyncConnectionPool) -> None:
        self._pool = pool

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        answer = await self._pool.handle_async_request(
            httpcore.Request(
                request.method,
                httpcore.URL(
                    scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
                ),
                headers=request.headers.raw,
                content=request.stream,
                extensions=request.extensions,
            )
        )
        # Without its header fields: no cookie is kept, no redirect prepared, nothing decoded.
        return httpx.Response(
            answer.status, stream=_Body(answer), extensions=dict(answer.extensions)
        )

    async def aclose(self) -> None:
        await self._pool.aclose()


class _Body(httpx.AsyncByteStream):
    def __init__(self, answer: httpcore.Response) -> None:
        self._answer = answer

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._answer.aiter_stream()

    async def aclose(self) -> None:
        await self._answer.aclose()


class _UnreachableError(httpcore.ConnectError):
    """No connection: the message is what to tell people."""


class _LongAnswerError(httpcore.ReadError):
    """The answer is longer than anyone needs; the connection ends with it."""


def _request(url: str, headers: Mapping[str, str], body: bytes) -> httpx.Request:
    fields = httpx.Headers(headers)
    fields["Accept-Encoding"] = "identity"
    return httpx.Request("POST", url, headers=fields, content=body)


def _outcome(response: httpx.Response) -> Outcome:
    if response.is_success:
        return Outcome()
    sent: bytes = response.extensions["reason_phrase"]
    try:
        reason = sent.decode()
    except UnicodeDecodeError:
        reason = sent.decode("latin-1")  # RFC 9112 leaves the encoding open; this was HTTP's once
    reason = reason.strip() or _standard_reason(response.status_code)
    status = f"HTTP {response.status_code}"
    return Outcome(_one_line(f"{status}: {reason}" if reason else status))


def _standard_reason(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def _text(error: Exception) -> str:
    message = str(error)
    match error:
        case httpcore.RemoteProtocolError() if message == _NO_ANSWER:
            return "socket hang up"
        case httpcore.RemoteProtocolError():
            return f"Parse Error: {message}"
        case httpx.InvalidURL():
            return f"Invalid URL: {message}"
        case _:
            return message or type(error).__name__


def _named(doing: str, error: Exception) -> str:
    """``read ECONNRESET`` and the like, from the system's error behind the library's."""
    match _cause(error):
        case None:
            return "socket hang up"
        case ssl.SSLCertVerificationError() as cause:
            return f"certificate verify failed: {cause.verify_message}"
        case ssl.SSLError() as cause:
            return f"{doing} failed: {(cause.reason or str(cause)).replace('_', ' ').lower()}"
        case OSError(errno=int(number)) as cause:
            return f"{doing} {errno.errorcode.get(number, cause.strerror)}"
        case cause:
            return f"{doing} failed: {cause}"


def _cause(error: BaseException | None) -> OSError | None:
    """The first error with a number: httpcore, trio and its groups wrap it up to three deep."""
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            return error
        error = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error.__cause__
    return None


def _one_line(text: str) -> str:
    """Text of a stranger for a log and a page: no control characters, of bounded length."""
    printable = "".join(character if character.isprintable() else " " for character in text)
    line = " ".join(printable.split())
    return line if len(line) <= _ERROR_CHARACTERS_MAX else line[: _ERROR_CHARACTERS_MAX - 1] + "…"
