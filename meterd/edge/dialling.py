"""Connects to judged addresses only: no byte goes to one that was not judged.

A name is resolved once for each connection, one bad address refuses it, and what is dialled is an
address that was judged, not the name again. SNI and the check of the certificate stay with the
name. One endpoint cannot slow another: its look-ups have threads of their own.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
from functools import partial
from itertools import zip_longest
from typing import TYPE_CHECKING, Final, TypeAlias

import trio

from meterd.domain.outcomes import ErrorKind
from meterd.domain.reachable import Address, refusal
from meterd.edge.failures import AttemptError, broken

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from meterd.domain.endpoints import Endpoint

# The addresses of a host as text, best first. Raises socket.gaierror.
Resolve: TypeAlias = "Callable[[str], Awaitable[Sequence[str]]]"

# Outlives two lost SYN packets: Linux repeats after 1 s and 3 s.
DIAL_S: Final = 5.0
# A name server cannot make meterd knock everywhere.
DIALS_MAX: Final = 16
# A hung look-up holds its thread until the resolver gives up, long after the attempt was cancelled.
_LOOK_UPS_MAX: Final = 2

_EAI_NAMES: Final = {
    value: "ENOTFOUND" if name in ("EAI_NONAME", "EAI_NODATA") else name
    for name, value in vars(socket).items()
    if name.startswith("EAI_")
}


class Line:
    """A connection to a judged address, with TLS or without."""

    def __init__(
        self,
        stream: trio.SocketStream | trio.SSLStream[trio.SocketStream],
        under: trio.SocketStream,
        address: Address,
        judged_for: Endpoint,
    ) -> None:
        self.stream = stream
        self.address = address
        # Once for each configuration is enough.
        self.judged_for = judged_for
        self._socket = under.socket

    def is_silent(self) -> bool:
        """The receiver has neither closed it nor said anything."""
        return not self._socket.is_readable()

    def close(self) -> None:
        """At once: nothing is said to the receiver any more."""
        self._socket.close()


class Guard:
    """Dials for one endpoint; ``endpoint`` is asked anew each time."""

    def __init__(self, endpoint: Endpoint, resolve: Resolve, tls: ssl.SSLContext) -> None:
        self.endpoint = endpoint
        self._resolve = resolve
        self._tls = tls

    async def dial(
        self, host: str, port: int, *, encrypted: bool, tell: Callable[[str], None]
    ) -> Line:
        """Raises AttemptError. ``tell`` hears each address and port just before it is dialled."""
        endpoint = self.endpoint
        failed = AttemptError(ErrorKind.DNS, f"getaddrinfo ENOTFOUND {host}")
        addresses = _by_turns(await self._judged(host))[:DIALS_MAX]
        for others, address in zip(reversed(range(len(addresses))), addresses, strict=True):
            tell(where(address, port))
            at = f"{address}:{port}"
            try:
                # An address as text is not looked up again.
                with trio.fail_after(_patience_s(others)):
                    under = await trio.open_tcp_stream(str(address), port)
            except trio.TooSlowError:
                failed = AttemptError(ErrorKind.CONNECT, f"connect ETIMEDOUT {at}")
            except OSError as error:
                failed = broken("connect", error, ErrorKind.CONNECT, at)
            else:
                stream = await self._encrypted(under, host) if encrypted else under
                return Line(stream, under, address, endpoint)
        raise failed

    def judge(self, line: Line) -> None:
        """Raises AttemptError if it may no longer be used: the configuration may have changed."""
        if line.judged_for is not self.endpoint:
            self._judge(line.address)
            line.judged_for = self.endpoint

    async def _judged(self, host: str) -> Sequence[Address]:
        try:
            found = [ipaddress.ip_address(text) for text in await self._resolve(host)]
        except socket.gaierror as error:
            code = _EAI_NAMES.get(error.errno, error.errno)
            raise AttemptError(ErrorKind.DNS, f"getaddrinfo {code} {host}") from error
        except OSError as error:
            raise AttemptError(ErrorKind.DNS, str(error)) from error
        for address in found:
            self._judge(address, found)
        return found

    def _judge(self, address: Address, beside: Sequence[Address] = ()) -> None:
        if refused := refusal(address, self.endpoint, beside):
            raise AttemptError(ErrorKind.REFUSED_ADDRESS, refused)

    async def _encrypted(
        self, under: trio.SocketStream, host: str
    ) -> trio.SSLStream[trio.SocketStream]:
        try:
            stream = trio.SSLStream(under, self._tls, server_hostname=host, https_compatible=True)
            await stream.do_handshake()
        except trio.BrokenResourceError as error:
            under.socket.close()
            raise broken("TLS handshake", error, ErrorKind.TLS) from error
        # What a resolver knows need not be a name for TLS.
        except (ValueError, ssl.SSLError) as error:
            under.socket.close()
            raise AttemptError(ErrorKind.TLS, f"TLS handshake failed: {error}") from error
        except BaseException:
            under.socket.close()
            raise
        return stream


def _by_turns(addresses: Sequence[Address]) -> list[Address]:
    """One of each version, as long as there are any (RFC 8305, section 4): one of the two may lead
    nowhere at all.
    """
    first = [one for one in addresses if one.version == addresses[0].version]
    others = [one for one in addresses if one.version != addresses[0].version]
    turns = zip_longest(first, others)
    return [one for turn in turns for one in turn if one is not None]


def _patience_s(others: int) -> float:
    """For one address: what is left of the attempt is for it, so many others, and the request."""
    if not others:
        return DIAL_S
    left_s = trio.current_effective_deadline() - trio.current_time()
    return min(DIAL_S, left_s / (others + 2))


def where(address: Address, port: int) -> str:
    """``192.0.2.1:443``, ``[2001:db8::1]:443``."""
    return f"{address}:{port}" if address.version == 4 else f"[{address}]:{port}"


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
