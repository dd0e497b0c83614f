"""What is logged of each request, and under which name everything else that is logged meanwhile.

A request that was not served, for want of room or of a right clock, is told as a warning. All
others are told at log level debug only, a line each: who knows a method, a path, a status and a key
by its id sees what clients do, and no line has a query, a body, a header field or a key. Else
meterd serves tens of thousands a second, and the plain lane must not pay for a name that nobody
reads: it is made when it is asked for.
"""

from __future__ import annotations

from contextvars import ContextVar
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import structlog
import trio

from meterd.edge.request_ids import NUMBERS, made

if TYPE_CHECKING:
    from collections.abc import Callable

# A path may be as long as a head.
PATH_MAX: Final = 200
_log = structlog.get_logger("http")


class Asked:
    """The request that a task serves; in the plain lane one after another of its connection."""

    __slots__ = ("_below", "_made", "given")

    def __init__(self, below: Callable[[int], int], given: str | None) -> None:
        self._below = below
        self.begin(given)

    def begin(self, given: str | None) -> None:
        """The next one, with what its client calls it."""
        self.given = given
        self._made = ""

    @property
    def id(self) -> str:
        """What it is called, the same whenever it is asked for."""
        if self.given is not None:
            return self.given
        if not self._made:
            self._made = made(self._below(NUMBERS))
        return self._made


_current: ContextVar[Asked | None] = ContextVar("request", default=None)


def current_id() -> str | None:
    """Of the request that this task serves, if it serves one."""
    asked = _current.get()
    return None if asked is None else asked.id


class RequestLog:
    """Shared by both lanes and by what refuses requests before them."""

    def __init__(
        self,
        below: Callable[[int], int],
        tells_all: Callable[[], bool],
        key_id: Callable[[str | None, str], str | None],
    ) -> None:
        """``below`` gives random numbers below another; ``tells_all`` says whether each request is
        told now; ``key_id`` names the key of ``x-apikey`` and ``Authorization``.
        """
        self._below = below
        self.tells_all = tells_all
        self._key_id = key_id

    def asked(self, given: str | None = None) -> Asked:
        """A request, named in whatever this task logs from now on."""
        asked = Asked(self._below, given)
        _current.set(asked)
        return asked

    def forget(self) -> None:
        """What this task logs from now on is of no request."""
        _current.set(None)

    def answered(
        self,
        asked: Asked,
        *,
        lane: str,
        method: str,
        path: str,
        status: int | None,
        began_at: float,
        peer: str,
        received: int,
        sent: int,
        apikey: str | None,
        authorization: str,
    ) -> None:
        """``began_at`` in trio's time; ``received`` and ``sent`` are the bytes of both bodies.

        Without a ``status`` the client was gone before its answer.
        """
        # 500 has a line of its own, from whoever knows what failed.
        is_unserved = status is not None and status > HTTPStatus.INTERNAL_SERVER_ERROR
        if not is_unserved and not self.tells_all():
            return
        (_log.warning if is_unserved else _log.debug)(
            "request not served" if is_unserved else "request",
            method=method,
            # Of a target in absolute form the authority may hold a password.
            path=path[:PATH_MAX] if path.startswith("/") else None,
            status=None if status is None else int(status),
            ms=round((trio.current_time() - began_at) * 1000, 3),
            lane=lane,
            peer=peer,
            received=received,
            sent=sent,
            key=self._key_id(apikey, authorization),
            request_id=asked.id,
        )

    def refused(self, status: int, error: str, peer: str) -> str:
        """Of what is no request that a lane could serve; what it is called."""
        request_id = Asked(self._below, None).id
        _log.debug("request refused", status=status, error=error, peer=peer, request_id=request_id)
        return request_id
