"""An attacker in a process of its own: one thread, plain sockets, epoll, bounded in all it does.

``python -m tests.benchmarks.attacks.attacker`` reads an Errand as JSON from stdin, prints a line
when it begins, and at the end what it did and got as JSON. It opens at most so many connections at
once and so many each second, and ends after its time.
"""

from __future__ import annotations

import itertools
import re
import select
import socket
import ssl
import struct
import sys
import time
from typing import Final

import msgspec

from tests.benchmarks.attacks.weapons import ATTACKS, Attack, payloads

PIECE_BYTES: Final = 256 * 1024
TICK_S: Final = 0.002
# Of connections opened at once, where the attacker had to wait for its core.
BURST_MAX: Final = 10
BEGUN: Final = b"begun"
# So that a reset, and not a socket in TIME_WAIT, ends each connection: ports would run out.
_LINGER: Final = struct.pack("ii", 1, 0)
_STATUS: Final = re.compile(rb"HTTP/1\.1 (\d{3}) ")
_CALM_DOWN: Final = b"\x7f\xff\xff\xff\0\0\0\x0b"


class Errand(msgspec.Struct, frozen=True):
    """Which attack of ``ATTACKS`` on which port, for how long."""

    name: str
    port: int
    seconds: float


class Blow(msgspec.Struct):
    """What an attacker did and got. ``got`` counts statuses, ``calm down`` and ``ended``."""

    opened: int = 0
    held: int = 0
    requests: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0
    got: dict[str, int] = msgspec.field(default_factory=dict)


class Connection:
    """One that attacks: what is left to send, and when it sends again."""

    __slots__ = ("again_at", "answered", "socket", "tail", "unsent")

    def __init__(self, opened: socket.socket, first: bytes, now: float, every_s: float) -> None:
        self.socket = opened
        self.unsent = memoryview(first)
        self.again_at = now + every_s
        self.answered = False
        self.tail = b""


class Attacker:
    def __init__(self, attack: Attack, port: int) -> None:
        self._attack = attack
        self._port = port
        self._payloads = payloads(attack)
        self._peers = itertools.cycle([f"127.0.0.{2 + each}" for each in range(attack.peers)])
        self._poll = select.epoll()
        self._connections: dict[int, Connection] = {}
        self._context = client_context(attack.protocol) if attack.protocol else None
        self.blow = Blow()

    def run(self, seconds: float) -> Blow:
        began = time.perf_counter()
        opened_until = 0.0
        while (now := time.perf_counter()) < began + seconds:
            due = min(int((now - began) * self._attack.per_s) + 1 - self.blow.opened, BURST_MAX)
            for _ in range(due):
                if len(self._connections) >= self._attack.connections:
                    break
                self._open(now)
            opened_until = now
            self.blow.held = max(self.blow.held, len(self._connections))
            for descriptor, happened in self._poll.poll(TICK_S):
                connection = self._connections.get(descriptor)
                if connection is not None:
                    self._act(connection, happened)
            self._repeat(time.perf_counter())
        assert opened_until
        for connection in list(self._connections.values()):
            self._close(connection)
        return self.blow

    def _open(self, now: float) -> None:
        self.blow.opened += 1
        try:
            raw = socket.create_connection(("127.0.0.1", self._port), 5, (next(self._peers), 0))
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER)
            if not self._attack.reads:
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            opened = raw
            if self._context is not None:
                opened = self._context.wrap_socket(raw, server_hostname="127.0.0.1")
        except OSError as refused:
            self._count(type(refused).__name__)
            return
        opened.setblocking(False)
        connection = Connection(opened, next(self._payloads), now, self._attack.every_s)
        self._connections[opened.fileno()] = connection
        self._poll.register(opened.fileno(), select.EPOLLIN if self._attack.reads else 0)
        self._send(connection)
        if self._attack.leaves_at_once and not connection.unsent:
            self._close(connection)

    def _act(self, connection: Connection, happened: int) -> None:
        if happened & select.EPOLLOUT and not self._send(connection):
            return
        if happened & ~select.EPOLLOUT:
            self._receive(connection)

    def _send(self, connection: Connection) -> bool:
        """Whether the connection lives."""
        try:
            while connection.unsent:
                sent = connection.socket.send(connection.unsent[:PIECE_BYTES])
                self.blow.sent_bytes += sent
                connection.unsent = connection.unsent[sent:]
                if not connection.unsent:
                    self.blow.requests += 1
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        except OSError as gone:
            self._ended(connection, type(gone).__name__)
            return False
        wanted = select.EPOLLOUT if connection.unsent else 0
        self._poll.modify(
            connection.socket.fileno(), wanted | (select.EPOLLIN if self._attack.reads else 0)
        )
        return True

    def _receive(self, connection: Connection) -> None:
        try:
            data = connection.socket.recv(PIECE_BYTES)
        except (BlockingIOError, ssl.SSLWantReadError):
            return
        except OSError as gone:
            self._ended(connection, type(gone).__name__)
            return
        if not data:
            self._ended(connection, "ended")
            return
        self.blow.received_bytes += len(data)
        text = connection.tail + data
        found = _STATUS.findall(text)
        for status in found:
            self._count(status.decode())
        if _CALM_DOWN in text:
            self._count("calm down")
            text = b""
        connection.tail = text[-12:] if not _STATUS.search(text[-13:]) else b""
        connection.answered = connection.answered or bool(found)

    def _repeat(self, now: float) -> None:
        """Sends again where that is due: each time, or each time that it was answered."""
        attack = self._attack
        if not (attack.more or attack.asks_again):
            return
        for connection in list(self._connections.values()):
            if connection.unsent or now < connection.again_at:
                continue
            if attack.asks_again and not connection.answered:
                continue
            connection.again_at = now + attack.every_s
            connection.answered = False
            connection.unsent = memoryview(
                next(self._payloads) if attack.asks_again else attack.more
            )
            self._send(connection)

    def _count(self, what: str) -> None:
        self.blow.got[what] = self.blow.got.get(what, 0) + 1

    def _ended(self, connection: Connection, how: str) -> None:
        self._count(how)
        self._close(connection)

    def _close(self, connection: Connection) -> None:
        self._connections.pop(connection.socket.fileno(), None)
        connection.socket.close()


def client_context(protocol: str) -> ssl.SSLContext:
    """Trusts whom it attacks."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([protocol])
    return context


def main() -> None:
    errand = msgspec.json.decode(sys.stdin.buffer.read(), type=Errand)
    attacker = Attacker(ATTACKS[errand.name], errand.port)
    sys.stdout.buffer.write(BEGUN + b"\n")
    sys.stdout.buffer.flush()
    blow = attacker.run(errand.seconds)
    sys.stdout.buffer.write(msgspec.json.encode(blow))


if __name__ == "__main__":
    main()
