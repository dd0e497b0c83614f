"""What is logged of each request, and under which name everything else that is logged meanwhile.

At log level debug each is a line: who knows a method, a path, a status and a key by its id sees
what clients do, and no line has a query, a body, a header field or a key. Else nothing is told but
that requests are not served, for want of room or of a right clock: as a warning, one of many, since
to refuse must cost next to nothing then. A name is made when somebody asks for it.
"""

from __future__ import annotations

import math
from contextvars import ContextVar
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import structlog
import trio

from meterd.edge.request_ids import NUMBERS, made

if TYPE_CHECKING:
    from collections.abc import Callable

# A status that refuses thousands a second is told so often, by one of them.
UNSERVED_S: Final = 10.0
# A path may be as long as a head.
PATH_MAX: Final = 200
_log = structlog.get_logger("http")


class Asked:
    """The request that a task serves; in the plain lane one after another of its connection."""

    __slots__ = ("_below", "given", "made")

    def __init__(self, below: Callable[[int], int], given: str | None) -> None:
        self._below = below
        self.begin(given)

    def begin(self, given: str | None) -> None:
        """The next one, with what its client calls it."""
        self.given = given
        self.made = ""

    @property
    def id(self) -> str:
        """What it is called, the same whenever it is asked for."""
        if self.given is not None:
            return self.given
        if not self.made:
            self.made = made(self._below(NUMBERS))
        return self.made


class _Unserved:
    """What was told of a status that says that a request was not served."""

    def __init__(self) -> None:
        self.told_at = -math.inf
        self.others = 0


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
        self._unserved: dict[int, _Unserved] = {}

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
        alike: int = 1,
    ) -> None:
        """``began_at`` in trio's time; ``received`` and ``sent`` are the bytes of both bodies.

        Without a ``status`` the client was gone before its answer. It may stand for so many
        ``alike`` that were refused at once.
        """
        others = None if status is None else self._others(status, alike)
        if others is not None:
            tell = partial(_log.warning, "request not served", others=others)
        elif self.tells_all():
            tell = partial(_log.debug, "request")
        else:
            return
        tell(
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

    def _others(self, status: int, alike: int) -> int | None:
        """If this is to be told as a warning: how many were not, since the last that was."""
        # 500 has an entry of its own, from whoever knows what failed.
        if status <= HTTPStatus.INTERNAL_SERVER_ERROR:
            return None
        unserved = self._unserved.setdefault(status, _Unserved())
        now = trio.current_time()
        if now < unserved.told_at + UNSERVED_S:
            unserved.others += alike
            return None
        others, unserved.others, unserved.told_at = unserved.others, 0, now
        return others + alike - 1

    def refused(self, status: int, error: str, peer: str) -> str:
        """Of what is no request that a lane could serve; what it is called."""
        request_id = Asked(self._below, None).id
        _log.debug("request refused", status=status, error=error, peer=peer, request_id=request_id)
        return request_id
