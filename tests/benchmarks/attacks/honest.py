"""An honest client in a process of its own, and how it fares.

``python -m tests.benchmarks.attacks.honest`` prints a line when it is there, then reads an
Errand as JSON from stdin and prints a Fare.
It posts events at a steady rate: most of its connections stay, on one each request is on a new
connection. How long a request took counts from when it was due; threads sleep until then, so that
the core is left to others.
"""

from __future__ import annotations

import socket
import ssl
import sys
import threading
import time
from typing import Final

import msgspec

from tests.benchmarks.answers import AnswerReader, MalformedAnswerError
from tests.benchmarks.attacks.attacker import client_context
from tests.daemon_process import KEY

READY: Final = b"ready"
STAYING: Final = 4
PATIENCE_S: Final = 20.0
EVENT: Final = b'{"customerId":"honest","value":1}'
REQUEST: Final = (
    b"POST /usage/api.calls HTTP/1.1\r\nHost: a\r\nx-apikey: %b\r\nContent-Length: %d\r\n\r\n%b"
) % (KEY.encode(), len(EVENT), EVENT)


class Errand(msgspec.Struct, frozen=True):
    """``rate`` is of requests a second, over all connections; ``host`` is its own address."""

    port: int
    seconds: float
    rate: float
    by_tls: bool
    host: str = "127.0.0.1"


class Fare(msgspec.Struct):
    """How long each request took, and what else happened to some."""

    took_ms: list[float] = msgspec.field(default_factory=list)
    failures: dict[str, int] = msgspec.field(default_factory=dict)


class Client:
    def __init__(self, errand: Errand) -> None:
        self._errand = errand
        self._context = client_context("http/1.1") if errand.by_tls else None
        self.fare = Fare()

    def run(self) -> Fare:
        threads = [
            threading.Thread(target=self._post, args=(number, number < STAYING))
            for number in range(STAYING + 1)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return self.fare

    def _post(self, number: int, stays: bool) -> None:
        errand = self._errand
        every_s = (STAYING + 1) / errand.rate
        due = time.perf_counter() + number / errand.rate
        until = due + errand.seconds
        connection: socket.socket | None = None
        while due < until:
            time.sleep(max(0.0, due - time.perf_counter()))
            try:
                connection = connection or self._connect()
                status = _ask(connection)
            except (OSError, MalformedAnswerError) as fault:
                self._fail(f"{'staying' if stays else 'new'}: {fault!r}")
                connection = None
            else:
                if status != 201:
                    self._fail(str(status))
                self.fare.took_ms.append((time.perf_counter() - due) * 1000)
            if connection is not None and not stays:
                connection.close()
                connection = None
            due += every_s

    def _fail(self, how: str) -> None:
        self.fare.failures[how] = self.fare.failures.get(how, 0) + 1

    def _connect(self) -> socket.socket:
        address = ("127.0.0.1", self._errand.port)
        opened = socket.create_connection(address, PATIENCE_S, (self._errand.host, 0))
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._context is not None:
            try:
                return self._context.wrap_socket(opened, server_hostname="127.0.0.1")
            except ssl.SSLError as fault:
                raise ConnectionError(str(fault)) from fault
        return opened


def _ask(connection: socket.socket) -> int:
    connection.sendall(REQUEST)
    reader = AnswerReader()
    status = None
    while status is None:
        data = connection.recv(65536)
        if not data:
            raise ConnectionError("closed by the server")
        status = reader.feed(data)
    return status


def main() -> None:
    sys.stdout.buffer.write(READY + b"\n")
    sys.stdout.buffer.flush()
    errand = msgspec.json.decode(sys.stdin.buffer.read(), type=Errand)
    sys.stdout.buffer.write(msgspec.json.encode(Client(errand).run()))


if __name__ == "__main__":
    main()
