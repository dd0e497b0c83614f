"""How errors of the system are named."""

from __future__ import annotations

import errno
import ssl

import pytest

from meterd.domain.outcomes import ErrorKind
from meterd.edge.failures import broken


def behind(cause: BaseException | None, wrapped: int = 1) -> Exception:
    """As trio raises it: the system's error stands so many causes behind."""
    error: BaseException | None = cause
    for _ in range(wrapped):
        outer = OSError("all attempts to connect failed")
        outer.__cause__ = error
        error = outer
    assert isinstance(error, Exception)
    return error


def of_tls(reason: str) -> ssl.SSLError:
    """As OpenSSL sets it."""
    error = ssl.SSLError(1, "[SSL: X] x (_ssl.c:1)")
    error.reason = reason
    return error


RESET = ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")


@pytest.mark.parametrize(
    ("error", "text", "kind"),
    [
        (RESET, "read ECONNRESET", ErrorKind.RESET),
        (behind(RESET), "read ECONNRESET", ErrorKind.RESET),
        (behind(RESET, 3), "read ECONNRESET", ErrorKind.RESET),
        (behind(ExceptionGroup("x", [RESET])), "read ECONNRESET", ErrorKind.RESET),
        (OSError(9999, "Strange"), "read Strange", ErrorKind.RESET),
        (behind(None), "socket hang up", ErrorKind.RESET),
        (behind(of_tls("BAD_RECORD_MAC")), "read failed: bad record mac", ErrorKind.TLS),
    ],
)
def test_the_cause_is_named(error: Exception, text: str, kind: ErrorKind) -> None:
    """As Node does it, whatever trio wrapped it in; what TLS is to blame for is of its kind."""
    found = broken("read", error, ErrorKind.RESET)
    assert str(found) == text
    assert found.kind is kind


def test_where_it_happened_stands_behind() -> None:
    """Node's form, which the contract shows."""
    refused = ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
    found = broken("connect", refused, ErrorKind.CONNECT, "127.0.0.1:18098")
    assert str(found) == "connect ECONNREFUSED 127.0.0.1:18098"
