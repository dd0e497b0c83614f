"""The fast lane: serves plain ingest requests itself, between whatever else a connection says.

It reads a connection while no other request is under way on it. What begins as a plain request and
is one is answered here, by the same ``Ingest`` as in the other lane and with the same bytes;
everything else is given back unread, from its first byte, and hypercorn serves it. So this file
refuses no request but one that is here whole and has no key: what it is not sure of, or a body that
stops coming, is foreign.

Measured reasons for how it is written (docs/performance.md): the descriptor is read and written
directly, a head's parse is remembered, and no cancel scope is opened while a connection is idle.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, Protocol
from wsgiref.handlers import format_date_time

import structlog
import trio

from meterd.domain.counts import WATCHED_STATUSES
from meterd.domain.credentials import Scope
from meterd.edge.ingest import is_lenient
from meterd.edge.limits import PIECE_BYTES, SENT_AHEAD_BYTES, BodyBudget, Drip, Limits, Pace
from meterd.edge.plain_request import (
    BEGINNING,
    END_OF_HEAD,
    HEAD_MAX,
    PlainHead,
    parse_plain_head,
)
from meterd.edge.problems import BROKEN, ON_EVERY_ANSWER, overloaded
from meterd.edge.request_ids import HEADER
from meterd.edge.spare_time import Answers
from meterd.edge.transports import read_all_now

if TYPE_CHECKING:
    from collections.abc import Callable

    from meterd.domain.counts import RequestCounts
    from meterd.edge.access import Access
    from meterd.edge.ingest import Ingest
    from meterd.edge.problems import Answer
    from meterd.edge.request_log import Asked, RequestLog
    from meterd.edge.spare_time import SpareTime
    from meterd.edge.transports import Transport

_log = structlog.get_logger("api")
_END_BYTES: Final = len(END_OF_HEAD)
_EVENT: Final = "/usage/{eventType}"
_BATCH: Final = "/usagebatch"
_WAITED_TOO_LONG: Final = overloaded("too many requests were sent ahead of their answers")
_ALWAYS: Final = b"".join(b"%b: %b\r\n" % field for field in ON_EVERY_ANSWER)
_ID: Final = HEADER.encode()
# As numbers: the members of an enumeration are slow to find.
_BAD_REQUEST: Final = int(HTTPStatus.BAD_REQUEST)
_BROKEN: Final = int(HTTPStatus.INTERNAL_SERVER_ERROR)


class Wire(Protocol):
    """A connection while the plain lane has it.

    ``pace`` is the time that is left for a body that has not come whole: it is the request's,
    whichever lane reads. At ``expires_at`` whoever waits for the socket is woken and told so.
    """

    pace: Pace
    expires_at: float
    peer: str
    spare_time: SpareTime

    @property
    def host(self) -> str:
        """The client's address."""

    @property
    def transport(self) -> Transport: ...

    @property
    def leaving(self) -> bool:
        """Whether the connection is to end when it is idle."""

    def begin_wait(self) -> None:
        """The connection is idle from now on: it may be expired."""

    def end_wait(self) -> None:
        """Bytes have come: it is not idle any more."""

    async def send_all(self, data: bytes) -> None:
        """Sends what the socket's buffer does not hold, within the limit for sends."""


class PlainLane:
    """Holds nothing of a connection: one serves them all."""

    def __init__(
        self,
        ingest: Ingest,
        access: Access,
        bodies: BodyBudget,
        limits: Limits,
        now_ms: Callable[[], int],
        requests: RequestLog,
    ) -> None:
        self._ingest = ingest
        self._access = access
        self._bodies = bodies
        self._limits = limits
        self._now_ms = now_ms
        self._log = requests
        self.answers = Answers()
        # By status, and no Counter: to count by all that tells requests apart, or with a method of
        # Python's, takes several times as long.
        self._events: defaultdict[int, int] = defaultdict(int, dict.fromkeys(WATCHED_STATUSES, 0))
        self._batches = self._events.copy()

    async def serve(self, wire: Wire, buffer: bytes) -> bytes:
        """Answers plain requests until something else comes, and returns what has come of that.

        ``buffer`` is what has been read already. Empty when the client has gone, or the connection
        is to end. Raises trio.BrokenResourceError as sends do.
        """
        asked = self._log.asked()
        try:
            return await self._serve(wire, buffer, asked)
        finally:
            self._log.forget()

    async def _serve(self, wire: Wire, buffer: bytes, asked: Asked) -> bytes:
        transport = wire.transport
        last_raw, last_head = b"", None
        came_at = trio.current_time()
        while True:
            if not buffer:
                if wire.leaving:
                    return transport.read_now() or b""
                buffer = await self._wait(wire, transport)
                came_at = trio.current_time()
            elif trio.current_time() > came_at + self._limits.sent_ahead_s:
                buffer = await self._turn_away(wire, buffer, asked, came_at)
                came_at = trio.current_time()
                if not buffer:
                    continue
            head_end = buffer.find(END_OF_HEAD, 0, HEAD_MAX)
            head = None
            if head_end > 0 and buffer.startswith(BEGINNING):
                raw = buffer[:head_end]
                if raw != last_raw:  # most clients repeat theirs
                    last_raw, last_head = raw, parse_plain_head(raw)
                head = last_head
            if head is None or head.body_bytes > self._limits.body_bytes_max:
                return buffer
            end = head_end + _END_BYTES + head.body_bytes
            asked.given, asked.made = head.request_id, ""  # as ``begin`` does, without a call
            if not self._access.lets_in(Scope.INGEST, head.apikey, head.authorization):
                if len(buffer) < end:
                    return buffer  # its body is not waited for
                refused = await self._refuse(wire, head)
                self._count(head, refused.status)
                await self._give(wire, head, asked, refused, came_at)
                buffer = buffer[end:]
                continue
            # One piece for each connection is allowed for; what is longer is counted.
            counted = max(0, end - PIECE_BYTES)
            if not self._bodies.take(counted):
                return buffer
            try:
                if len(buffer) < end:
                    buffer = await self._read_body(wire, buffer, end)
                    if len(buffer) < end:
                        return buffer
                    came_at = trio.current_time()
                # In two: while it waits for the disk, no body is held twice.
                body, buffer = buffer[head_end + _END_BYTES : end], buffer[end:]
                self.answers.begin()
                try:
                    answer = await self._answer(head, body)
                finally:
                    self.answers.end()
                del body
            finally:
                self._bodies.give_back(counted)
            if head.event_type is None:  # as in ``_count``, without a call
                self._batches[answer.status] += 1
            else:
                self._events[answer.status] += 1
            await self._give(wire, head, asked, answer, came_at)

    def _count(self, head: PlainHead, status: HTTPStatus) -> None:
        counts = self._batches if head.event_type is None else self._events
        counts[status] += 1

    def requests(self) -> RequestCounts:
        """Those answered since the start."""
        found: RequestCounts = Counter()
        for route, counts in ((_EVENT, self._events), (_BATCH, self._batches)):
            for status, count in counts.items():
                found["plain", "POST", route, status] = count
        return found

    async def _turn_away(self, wire: Wire, buffer: bytes, asked: Asked, came_at: float) -> bytes:
        """Refuses the plain requests that have come whole, and returns what is behind them.

        Those too that the kernel holds, and what comes of those that the client's kernel holds:
        else what is sent ahead would be served a second for each piece that is read of it, long
        after its client has ended.
        """
        left = SENT_AHEAD_BYTES
        while True:
            refused, buffer = self._without_whole(buffer)
            if not refused:
                return buffer
            asked.begin(None)  # those without a name of their client's share one
            answers = {
                name: self._rendered(_WAITED_TOO_LONG, name or asked.id)
                for name in {head.request_id for head in refused}
            }
            told, each = (refused, 1) if self._log.tells_all() else (refused[:1], len(refused))
            for head in told:
                asked.given = head.request_id
                self._tell(wire, head, asked, _WAITED_TOO_LONG, came_at, each)
            await wire.send_all(b"".join([answers[head.request_id] for head in refused]))
            # At an end nothing comes, and whoever reads next learns of it.
            more = wire.transport.read_now() if left > 0 else None
            if not more:
                return buffer
            buffer += more
            left -= len(more)

    def _without_whole(self, buffer: bytes) -> tuple[list[PlainHead], bytes]:
        """The plain requests that have come whole, counted as refused, and what is behind them.

        All in one go, because a client that sends faster than it is served has hundreds of them.
        """
        place, whole = 0, list[PlainHead]()
        heads: dict[bytes, PlainHead] = {}  # a client repeats a few
        while buffer.startswith(BEGINNING, place):
            head_end = buffer.find(END_OF_HEAD, place, place + HEAD_MAX)
            if head_end < 0:
                break
            raw = buffer[place:head_end]
            if raw not in heads:
                head = parse_plain_head(raw)
                if head is None or head.body_bytes > self._limits.body_bytes_max:
                    break
                if not self._access.lets_in(Scope.INGEST, head.apikey, head.authorization):
                    break
                heads[raw] = head
            end = head_end + _END_BYTES + heads[raw].body_bytes
            if end > len(buffer):
                break
            self._count(heads[raw], _WAITED_TOO_LONG.status)
            whole.append(heads[raw])
            place = end
        return whole, buffer[place:]

    async def _wait(self, wire: Wire, transport: Transport) -> bytes:
        """The next bytes; when told to end, those that are here already."""
        wire.begin_wait()
        data = None
        try:
            while data is None:
                await transport.wait_readable()
                data = transport.read_now()
        except trio.ClosedResourceError:
            data = transport.read_now() or b""
        wire.end_wait()
        return data

    async def _read_body(self, wire: Wire, begun: bytes, end: int) -> bytes:
        """What has come when the body is whole, or will not be in time."""
        transport = wire.transport
        pieces = [begun]
        missing = end - len(begun)
        pace = Pace(self._limits.body_stall_s, self._limits.body_bytes_per_s_min)
        drip = Drip(self._limits.dripping_rest_s)
        while missing > 0:
            began_at = trio.current_time()
            wire.expires_at = began_at + pace.left_s
            if drip.rest_s:
                await trio.sleep(min(drip.rest_s, pace.left_s))
            try:
                await transport.wait_readable()
                waited_s = trio.current_time() - began_at
                if drip.has_begun:
                    await wire.spare_time.wait(wire.peer)
                data = read_all_now(transport)
            except trio.ClosedResourceError:
                waited_s, data = trio.current_time() - began_at, b""
            # Nothing yet is possible too: part of a TLS record, which takes its time like silence.
            piece = data or b""
            pieces.append(piece)
            missing -= len(piece)
            drip.record(waited_s, len(piece))
            pace.record(waited_s, len(piece))
            if data == b"":
                wire.pace = pace
                break
        wire.expires_at = math.inf
        return b"".join(pieces)

    async def _refuse(self, wire: Wire, head: PlainHead) -> Answer:
        """Here too, because whoever guesses keys would have hypercorn and Quart work for it."""
        refused = await self._access.refuse(
            Scope.INGEST, head.apikey, head.authorization, wire.host
        )
        assert refused is not None, "it was not let in a moment ago"
        return refused

    async def _give(
        self, wire: Wire, head: PlainHead, asked: Asked, answer: Answer, came_at: float
    ) -> None:
        # As ``is_told`` has it, without a call.
        is_told = asked.given is not None or answer.status >= _BAD_REQUEST
        data = self._rendered(answer, asked.id if is_told else "")
        sent = wire.transport.write_now(data)
        if sent < len(data):
            await wire.send_all(data[sent:])
        if answer.status > _BROKEN or self._log.tells_all():
            self._tell(wire, head, asked, answer, came_at)

    def _tell(
        self,
        wire: Wire,
        head: PlainHead,
        asked: Asked,
        answer: Answer,
        came_at: float,
        alike: int = 1,
    ) -> None:
        self._log.answered(
            asked,
            lane="plain",
            method="POST",
            path="/usagebatch" if head.event_type is None else f"/usage/{head.event_type}",
            status=answer.status,
            began_at=came_at,
            peer=wire.host,
            received=head.body_bytes,
            sent=len(answer.body),
            apikey=head.apikey,
            authorization=head.authorization,
            alike=alike,
        )

    async def _answer(self, head: PlainHead, body: bytes) -> Answer:
        try:
            if head.event_type is None:
                lenient = is_lenient(head.prefer)
                return await self._ingest.batch(
                    body, lenient=lenient, header_keys=head.idempotency_keys
                )
            return await self._ingest.event(head.event_type, body, head.idempotency_keys)
        except Exception as fault:  # noqa: BLE001 - our own mistake costs this request, as in api
            _log.error("request failed", event_type=head.event_type, exc_info=fault)
            return BROKEN

    def _rendered(self, answer: Answer, request_id: str = "") -> bytes:
        """The answer as the other lane writes it, to the byte."""
        body = answer.body
        head = _head(answer.status, len(body), answer.headers, self._now_ms() // 1000)
        if not request_id:
            return head + body
        before, always, behind = head.partition(_ALWAYS)
        return b"%b%b: %b\r\n%b%b%b" % (before, _ID, request_id.encode(), always, behind, body)


# Answers of one second differ in little: as many heads as there are usual lengths.
@lru_cache(maxsize=512)
def _head(
    status: HTTPStatus, body_bytes: int, headers: tuple[tuple[str, str], ...], second: int
) -> bytes:
    more = "".join(f"{name.lower()}: {value}\r\n" for name, value in headers)
    return (
        f"HTTP/1.1 {status:d} \r\ncontent-type: application/json\r\n"
        f"content-length: {body_bytes}\r\n{more}{_ALWAYS.decode()}"
        f"date: {format_date_time(second)}\r\n\r\n"
    ).encode()
