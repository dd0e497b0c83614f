"""What ended an attempt to deliver: a class for programs, and a line for people.

The lines are those that Node gives, which operators of the old system search their logs for.
"""

from __future__ import annotations

import errno
import ssl
from typing import Final

from meterd.domain.outcomes import ErrorKind

HUNG_UP: Final = "socket hang up"


class AttemptError(Exception):
    """There is no answer, or not all of it; the message is what to tell people."""

    def __init__(self, kind: ErrorKind, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def broken(doing: str, error: Exception, kind: ErrorKind, at: str = "") -> AttemptError:
    """``read ECONNRESET`` and the like, from the system's error behind trio's.

    ``kind`` is what it is unless TLS is to blame; ``at`` says where, to be put behind.
    """
    match _cause(error):
        case None:
            text = HUNG_UP
        case ssl.SSLCertVerificationError() as cause:
            text = f"certificate verify failed: {cause.verify_message}"
            kind = ErrorKind.TLS
        case ssl.SSLError() as cause:
            text = f"{doing} failed: {(cause.reason or str(cause)).replace('_', ' ').lower()}"
            kind = ErrorKind.TLS
        case OSError(errno=int(number)) as cause:
            text = f"{doing} {errno.errorcode.get(number, cause.strerror)}"
        case cause:
            text = f"{doing} failed: {cause}"
    return AttemptError(kind, f"{text} {at}" if at else text)


def _cause(error: BaseException | None) -> OSError | None:
    """The first error with a number: trio and its groups wrap it up."""
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            return error
        error = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error.__cause__
    return None
