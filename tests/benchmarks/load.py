"""A load client in a process of its own: one thread, plain sockets, epoll, keep-alive.

``python -m tests.benchmarks.load`` reads an Errand as JSON from stdin, prints a line when it begins
with all connections open, and at the end an Outcome as JSON. SIGTERM ends the load early, with
its outcome. Every answer is read to its end and its status compared; whatever is not as it should
be counts as a failure. It costs less CPU for a request than the servers that it is put to, or it
would be its own speed that is measured: so no event loop, no parser, no task.
"""

from __future__ import annotations

import gc
import select
import signal
import socket
import sys
import time
from array import array
from collections import Counter
from typing import TYPE_CHECKING, Final

import msgspec

from tests.benchmarks.answers import AnswerReader, MalformedAnswerError
from tests.benchmarks.pacing import Schedule, percentile
from tests.benchmarks.plan import Errand, Outcome
from tests.benchmarks.traffic import requests_of

if TYPE_CHECKING:
    from tests.benchmarks.traffic import Request

PIECE_BYTES: Final = 64 * 1024
# How long answers are waited for behind the end.
PATIENCE_S: Final = 30.0
# epoll waits in whole milliseconds: what is due sooner is waited for awake.
AWAKE_S: Final = 0.0015
LONGEST_WAIT_S: Final = 0.1
BEGUN: Final = "begun"


class Connection:
    """A socket and the request under way on it, which came due at ``since``."""

    __slots__ = ("reader", "request", "since", "socket", "unsent")

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.reader = AnswerReader()
        self.request: Request | None = None
        self.since = 0.0
        self.unsent = memoryview(b"")


class Client:
    """Carries out one plan."""

    def __init__(self, errand: Errand) -> None:
        host, _, port = errand.address.rpartition(":")
        self._address = host, int(port)
        self._requests = requests_of(errand)
        self._has_more = True
        self._poll = select.epoll()
        self._connections: dict[int, Connection] = {}
        self._idle = [self._connect() for _ in range(errand.plan.connections)]
        self._took_s = array("d")
        self._acknowledged = self._measured_events = 0
        self._failures: Counter[str] = Counter()
        began = self._began = time.perf_counter()
        self._cpu_before_s = time.process_time()
        self._measured_from = began + errand.plan.warm_up_s
        until = self._measured_from + errand.plan.seconds
        self._schedule = Schedule(began, until, errand.plan.rate)

    def stop(self) -> None:
        """Nothing more comes due."""
        self._schedule.until = min(self._schedule.until, time.perf_counter())

    def run(self) -> Outcome:
        """Until the plan's end, and until every answer is there or was waited for too long."""
        while True:
            now = time.perf_counter()
            while self._idle and self._send_due(self._idle[-1], now):
                self._idle.pop()
            if self._is_over(now) and len(self._idle) == len(self._connections):
                break
            if now > self._schedule.until + PATIENCE_S:
                self._failures["not answered"] += len(self._connections) - len(self._idle)
                self._failures["not sent"] += self._schedule.overdue(now)
                break
            for descriptor, happened in self._poll.poll(self._wait_s(now)):
                connection = self._connections[descriptor]
                if happened & select.EPOLLOUT:
                    self._send_rest(connection)
                if happened & ~select.EPOLLOUT:
                    self._receive(connection)
        ended = min(time.perf_counter(), self._schedule.until)
        for connection in self._connections.values():
            connection.socket.close()
        self._poll.close()
        return self._outcome(ended)

    def _connect(self) -> Connection:
        connection = Connection(self._address)
        self._connections[connection.socket.fileno()] = connection
        self._poll.register(connection.socket.fileno(), select.EPOLLIN)
        return connection

    def _is_over(self, now: float) -> bool:
        return not self._has_more or self._schedule.is_over(now)

    def _wait_s(self, now: float) -> float:
        """How long nothing but answers can come."""
        if not self._idle or self._is_over(now):
            return LONGEST_WAIT_S
        wait_s = self._schedule.wait_s(now)
        return 0.0 if wait_s < AWAKE_S else min(LONGEST_WAIT_S, wait_s - AWAKE_S)

    def _send_due(self, connection: Connection, now: float) -> bool:
        """Sends what is due by this connection; whether something was."""
        since = self._schedule.take(now) if self._has_more else None
        if since is None:
            return False
        request = next(self._requests, None)
        if request is None:
            self._has_more = False
            return False
        connection.request, connection.since = request, since
        sent = self._send(connection, request.data)
        if sent < len(request.data):
            connection.unsent = memoryview(request.data)[sent:]
            self._poll.modify(connection.socket.fileno(), select.EPOLLIN | select.EPOLLOUT)
        return True

    def _send_rest(self, connection: Connection) -> None:
        connection.unsent = connection.unsent[self._send(connection, connection.unsent) :]
        if not connection.unsent:
            self._poll.modify(connection.socket.fileno(), select.EPOLLIN)

    def _send(self, connection: Connection, data: bytes | memoryview) -> int:
        try:
            return connection.socket.send(data)
        except BlockingIOError:
            return 0
        except OSError:
            return len(data)  # reset: reading says so too, and counts it

    def _receive(self, connection: Connection) -> None:
        try:
            data = connection.socket.recv(PIECE_BYTES)
            status = connection.reader.feed(data) if data else None
        except BlockingIOError:
            return
        except (OSError, MalformedAnswerError) as fault:
            self._replace(connection, type(fault).__name__)
            return
        if not data:
            self._replace(connection, "closed by the server")
        elif status is not None:
            self._record(connection, status)

    def _record(self, connection: Connection, status: int) -> None:
        now = time.perf_counter()
        request = connection.request
        if request is None:
            self._replace(connection, "an answer that nobody asked for")
            return
        connection.request = None
        if status != request.status:
            self._failures[f"status {status}"] += 1
        else:
            self._acknowledged += request.events
            if now >= self._measured_from:
                self._took_s.append(now - connection.since)
                if now <= self._schedule.until:
                    self._measured_events += request.events
        if not self._send_due(connection, now):
            self._idle.append(connection)

    def _replace(self, connection: Connection, failure: str) -> None:
        """A connection that failed is closed, its request has failed, and another takes its place.

        The first failure while nothing was asked is one too: a server keeps connections alive.
        """
        self._failures[failure] += 1
        if connection.request is None and connection in self._idle:
            self._idle.remove(connection)
        del self._connections[connection.socket.fileno()]
        connection.socket.close()
        self._idle.append(self._connect())

    def _outcome(self, ended: float) -> Outcome:
        seconds = max(ended - self._measured_from, 1e-9)
        took_s = sorted(self._took_s)
        return Outcome(
            events=self._acknowledged,
            events_per_s=self._measured_events / seconds,
            requests_per_s=len(took_s) / seconds,
            p50_ms=percentile(took_s, 0.5) * 1000,
            p99_ms=percentile(took_s, 0.99) * 1000,
            max_ms=percentile(took_s, 1) * 1000,
            failures=dict(self._failures),
            busy=(time.process_time() - self._cpu_before_s) / (time.perf_counter() - self._began),
        )


def main() -> None:
    errand = msgspec.json.decode(sys.stdin.buffer.read(), type=Errand)
    client = Client(errand)  # its time begins here
    signal.signal(signal.SIGTERM, lambda *_: client.stop())
    print(BEGUN, flush=True)
    gc.disable()  # nothing here makes cycles, and a collection would look like a slow answer
    sys.stdout.buffer.write(msgspec.json.encode(client.run()))


if __name__ == "__main__":
    main()
