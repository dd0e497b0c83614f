"""A load that does not wait: requests go out when they are due, whatever becomes of those before.

``python -m tests.benchmarks.flood`` reads a Flood as JSON from stdin, prints a line when it begins,
and at the end a Flooded as JSON; SIGTERM ends it early. Requests are sent ahead of the answers to
those before (pipelined), as far as sockets take them; what comes due while no socket takes any is
dropped and counted, as by a client that has given up. Without a rate each connection sends its next
request when it has its answer, which is how capacity is found.

Every answer is counted by its status, each of 503 must say when to come again, and what was never
answered is counted too: so what the server stored can be held against what it acknowledged.
"""

from __future__ import annotations

import gc
import re
import select
import signal
import socket
import subprocess
import sys
import time
from array import array
from collections import Counter, deque
from contextlib import contextmanager
from itertools import cycle, repeat
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from tests.benchmarks.pacing import percentile
from tests.benchmarks.plan import Errand, Kind, Plan
from tests.benchmarks.traffic import large_batch, requests_of
from tests.daemon_process import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

BEGUN: Final = "begun"
PIECE_BYTES: Final = 256 * 1024
# What a connection has in front of the server's own buffer, some sixty singles or two batches: left
# to itself Linux takes 4 MiB, and the client would be sending long after it has ended.
SEND_BUFFER_BYTES: Final = {"single": 16 * 1024, "batch": 256 * 1024, "large": 256 * 1024}
BIN_S: Final = 0.25
_MADE: Final = {"single": 500, "batch": 20, "large": 1}
_STATUS: Final = re.compile(rb"HTTP/1\.1 (\d\d\d) ")
_RETRY_AFTER: Final = re.compile(rb"retry-after: \d+\r\n", re.IGNORECASE)
_LAST_ANSWER: Final = re.compile(rb"connection: close\r\n", re.IGNORECASE)
_RETRY_BYTES: Final = len(b"Retry-After: 30\r\n")


class Flood(msgspec.Struct, frozen=True, kw_only=True):
    """``large`` is batches as large as may be; ``rate`` is requests a second, None a closed loop;
    ``source`` is the client's address.
    """

    address: str
    key: str
    kind: Literal["single", "batch", "large"]
    connections: int
    seconds: float
    rate: float | None = None
    customers: int = 1000
    source: str = "127.0.0.1"
    # How long answers are waited for behind the end.
    patience_s: float = 30.0


class Flooded(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it. ``unanswered`` were sent whole or in part, and their outcome is not known.

    ``accepted_in`` has the accepted requests of each quarter of a second since ``began_s`` on the
    machine's monotonic clock. Latencies are of accepted ones, since they were given to the socket.
    """

    began_s: float
    ended_s: float
    last_answer_s: float
    due: int
    dropped: int
    sent: int
    statuses: dict[str, int]
    without_retry_after: int
    unanswered: int
    closed_by_server: int
    accepted_in: list[int]
    p50_ms: float
    p99_ms: float
    max_ms: float

    @property
    def accepted(self) -> int:
        return self.statuses.get("201", 0)

    @property
    def broken(self) -> dict[str, int]:
        """What an overload may not do to a request: any answer but 201, and 503 that says when to
        come again; no answer; a connection closed by the server.
        """
        found = {
            **{f"status {s}": n for s, n in self.statuses.items() if s not in ("201", "503")},
            "503 without Retry-After": self.without_retry_after,
            "not answered": self.unanswered,
            "closed by the server": self.closed_by_server,
        }
        return {what: count for what, count in found.items() if count}

    def accepted_per_s(self, from_s: float, until_s: float) -> float:
        """Over whole quarters of a second between the two moments."""
        first = int((from_s - self.began_s) / BIN_S + 1)
        last = int((until_s - self.began_s) / BIN_S)
        return sum(self.accepted_in[first:last]) / max(1, last - first) / BIN_S


class _Connection:
    __slots__ = ("pending", "socket", "tail", "turned_away", "unsent")

    def __init__(self, flood: Flood) -> None:
        host, _, port = flood.address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), source_address=(flood.source, 0))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        size = SEND_BUFFER_BYTES[flood.kind]
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
        self.socket.setblocking(False)
        # When each request that has no answer was given to the socket, and how many at once.
        self.pending: deque[list[float]] = deque()
        self.unsent = memoryview(b"")
        self.tail = b""
        # It was told that this is the last answer, as is said also to who has not asked yet.
        self.turned_away = False


class Flooder:
    """Carries out one flood."""

    def __init__(self, flood: Flood) -> None:
        self._flood = flood
        kind: Kind = "single" if flood.kind == "single" else "batch"
        plan = Plan(kind=kind, connections=0, customers=flood.customers)
        errand = Errand(flood.address, flood.key, plan)
        made = repeat(large_batch(errand)) if flood.kind == "large" else requests_of(errand)
        self._requests = cycle([next(made).data for _ in range(_MADE[flood.kind])])
        self._poll = select.epoll()
        self._connections: dict[int, _Connection] = {}
        self._ready: deque[_Connection] = deque()
        for _ in range(flood.connections):
            self._connect()
        self._due = self._dropped = self._sent = self._unanswered = self._closed = 0
        self._statuses: Counter[str] = Counter()
        self._retry_afters = 0
        self._took_s = array("d")
        self._accepted_in: Counter[int] = Counter()
        self._began = self._last_answer = time.monotonic()
        self._until = self._began + flood.seconds

    def stop(self) -> None:
        self._until = min(self._until, time.monotonic())

    def run(self) -> Flooded:
        while (now := time.monotonic()) < self._until:
            self._send_due(now)
            self._poll_once(0.001)
        ended = now
        while self._outstanding() and time.monotonic() < ended + self._flood.patience_s:
            self._poll_once(0.05)
        for connection in list(self._connections.values()):
            self._unanswered += self._waiting_on(connection)
            connection.socket.close()
        return self._outcome(ended)

    def _send_due(self, now: float) -> None:
        if self._flood.rate is None:
            while self._ready:
                self._due += 1
                self._send(self._ready.popleft(), now, 1)
            return
        due = int((now - self._began) * self._flood.rate) - self._due
        self._due += due
        # Singles go in bunches, or the client would be slower than what it is put to.
        while due and self._ready:
            bunch = min(due, 16 if self._flood.kind == "single" else 1)
            self._send(self._ready.popleft(), now, bunch)
            due -= bunch
        self._dropped += due

    def _send(self, connection: _Connection, now: float, requests: int) -> None:
        connection.pending.append([now, requests])
        self._sent += requests
        data = b"".join(next(self._requests) for _ in range(requests))
        connection.unsent = memoryview(data)
        self._send_rest(connection)

    def _send_rest(self, connection: _Connection) -> None:
        try:
            sent = connection.socket.send(connection.unsent)
        except BlockingIOError:
            sent = 0
        except OSError:
            return  # reading says so too
        connection.unsent = connection.unsent[sent:]
        if connection.unsent:
            self._poll.modify(connection.socket.fileno(), select.EPOLLIN | select.EPOLLOUT)
        elif self._flood.rate is not None:
            self._ready.append(connection)

    def _poll_once(self, seconds: float) -> None:
        waits = self._flood.rate is not None and self._ready
        for descriptor, happened in self._poll.poll(0 if waits else seconds):
            connection = self._connections[descriptor]
            if happened & select.EPOLLOUT and connection.unsent:
                self._send_rest(connection)
                if not connection.unsent:
                    self._poll.modify(descriptor, select.EPOLLIN)
            if happened & ~select.EPOLLOUT:
                self._receive(connection)

    def _receive(self, connection: _Connection) -> None:
        try:
            data = connection.socket.recv(PIECE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        now = time.monotonic()
        if not data:
            self._replace(connection)
            return
        seen = connection.tail + data
        connection.turned_away |= _LAST_ANSWER.search(seen) is not None
        end = 0
        for found in _STATUS.finditer(seen):
            end = found.end()
            self._count(connection, found[1].decode(), now)
        # A Retry-After stands behind its status: what is cut short is looked at again.
        self._retry_afters += sum(
            1 for found in _RETRY_AFTER.finditer(seen) if found.end() > len(connection.tail)
        )
        connection.tail = seen[max(end, len(seen) - _RETRY_BYTES) :]

    def _count(self, connection: _Connection, status: str, now: float) -> None:
        self._statuses[status] += 1
        self._last_answer = now
        if connection.pending:
            first = connection.pending[0]
            if status == "201":
                self._took_s.append(now - first[0])
                self._accepted_in[int((now - self._began) / BIN_S)] += 1
            first[1] -= 1
            if not first[1]:
                connection.pending.popleft()
        if self._flood.rate is None and now < self._until and not connection.turned_away:
            self._ready.append(connection)

    def _replace(self, connection: _Connection) -> None:
        self._closed += not connection.turned_away
        self._unanswered += self._waiting_on(connection)
        del self._connections[connection.socket.fileno()]
        connection.socket.close()
        if connection in self._ready:
            self._ready.remove(connection)
        if time.monotonic() < self._until:
            self._connect()

    def _connect(self) -> None:
        connection = _Connection(self._flood)
        self._connections[connection.socket.fileno()] = connection
        self._poll.register(connection.socket.fileno(), select.EPOLLIN)
        self._ready.append(connection)

    def _outstanding(self) -> bool:
        return any(connection.pending for connection in self._connections.values())

    def _waiting_on(self, connection: _Connection) -> int:
        return int(sum(requests for _, requests in connection.pending))

    def _outcome(self, ended: float) -> Flooded:
        took_s = sorted(self._took_s)
        last = max(self._accepted_in, default=0)
        return Flooded(
            began_s=self._began,
            ended_s=ended,
            last_answer_s=self._last_answer,
            due=self._due,
            dropped=self._dropped,
            sent=self._sent,
            statuses=dict(self._statuses),
            without_retry_after=self._statuses["503"] - self._retry_afters,
            unanswered=self._unanswered,
            closed_by_server=self._closed,
            accepted_in=[self._accepted_in[number] for number in range(last + 1)],
            p50_ms=percentile(took_s, 0.5) * 1000,
            p99_ms=percentile(took_s, 0.99) * 1000,
            max_ms=percentile(took_s, 1) * 1000,
        )


class Flooding:
    """A flood under way in a process of its own."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def is_over(self) -> bool:
        """Whether ``outcome`` would not wait."""
        assert self._process.stdout is not None
        return bool(select.select([self._process.stdout], [], [], 0)[0])

    def outcome(self) -> Flooded:
        """Waits for its end."""
        assert self._process.stdout is not None
        return msgspec.json.decode(self._process.stdout.read(), type=Flooded)


@contextmanager
def flooding(flood: Flood, *before_command: str) -> Iterator[Flooding]:
    """Entered when it has begun."""
    with subprocess.Popen(
        [*before_command, sys.executable, "-m", "tests.benchmarks.flood"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(msgspec.json.encode(flood))
        process.stdin.close()
        process.stdin = None
        try:
            assert process.stdout.readline().strip() == BEGUN.encode(), "the flood did not begin"
            yield Flooding(process)
        finally:
            process.kill()


def main() -> None:
    flood = msgspec.json.decode(sys.stdin.buffer.read(), type=Flood)
    flooder = Flooder(flood)
    signal.signal(signal.SIGTERM, lambda *_: flooder.stop())
    print(BEGUN, flush=True)
    gc.disable()
    sys.stdout.buffer.write(msgspec.json.encode(flooder.run()))


if __name__ == "__main__":
    main()
