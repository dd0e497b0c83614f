"""A webhook receiver that notes what it was sent, and is not always well.

Only a request whose body was read to its whole Content-Length counts as an arrival: a sender that
is killed leaves the beginning of one, which is no webhook.
"""

from __future__ import annotations

import random
import socket
import threading
import time
from typing import TYPE_CHECKING, Final, Self

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

# Each path is an endpoint of its own. What becomes of a request to it, one of these at random.
MOODS: Final = {
    "billing": ("200",),
    "moody": ("200", "200", "500", "hang up"),
    "bulk": ("200", "200", "500", "hang up"),
}
# Of so many deliveries are the batches of an endpoint: of its customers two batches, one not full.
BATCHES: Final = {"bulk": 4}
_SILENCE_S: Final = 30.0


class Arrival(msgspec.Struct, frozen=True):
    """``start`` says which daemon sent it, ``at_s`` when, by a clock that no daemon has."""

    endpoint: str
    headers: dict[str, str]
    body: bytes
    start: int
    taken: bool
    at_s: float = 0.0

    @property
    def is_batch(self) -> bool:
        return self.body.startswith(b'{"type":"aggregation.batch"')


class Sink:
    """Listens within ``with``. ``start`` is asked when a request has come whole: what one daemon
    sent is to be ``drain``-ed before there is another.
    """

    def __init__(self, seed: str, start: Callable[[], int]) -> None:
        self.arrivals: dict[str, list[Arrival]] = {}
        self.cut_short = 0
        self.is_well = False
        self._arrived: Callable[[], None] | None = None
        self._start = start
        self._open = 0
        self._closed = threading.Condition()
        self._random = random.Random(seed)
        self._noting = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def url(self, endpoint: str) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}/{endpoint}"

    def tell(self, arrived: Callable[[], None] | None) -> None:
        """Called at each arrival, before it is answered, until another is given."""
        with self._noting:
            self._arrived = arrived

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with self._closed:
                self._open += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def drain(self) -> None:
        """Returns when all that has come is noted, its sender being dead."""
        with socket.create_connection(self._listener.getsockname()) as last:
            last.shutdown(socket.SHUT_WR)
            last.recv(1)  # it is closed, so those before it were accepted
        with self._closed:
            assert self._closed.wait_for(lambda: self._open == 0, _SILENCE_S)

    def _serve(self, connection: socket.socket) -> None:
        try:
            self._answer(connection)
        finally:
            with self._closed:
                self._open -= 1
                self._closed.notify_all()

    def _answer(self, connection: socket.socket) -> None:
        connection.settimeout(_SILENCE_S)
        with connection, connection.makefile("rb") as reading:
            try:
                while request_line := reading.readline():
                    status = self._take(request_line, reading.readline, reading.read)
                    if status is None:
                        return
                    connection.sendall(b"HTTP/1.1 %s -\r\nContent-Length: 0\r\n\r\n" % status)
            except OSError:
                return  # the sender was killed

    def _take(
        self, request_line: bytes, line: Callable[[], bytes], read: Callable[[int], bytes]
    ) -> bytes | None:
        """The status to answer with, None to hang up."""
        headers: dict[str, str] = {}
        while (field := line()) not in (b"\r\n", b""):
            name, _, value = field.decode().partition(":")
            headers[name.lower()] = value.strip()
        length = int(headers.get("content-length", "-1"))
        body = read(length) if field == b"\r\n" and length >= 0 else b""
        if len(body) != length:
            with self._noting:
                self.cut_short += 1
            return None
        endpoint = request_line.split(b" ")[1].decode().removeprefix("/")
        with self._noting:
            mood = "200" if self.is_well else self._random.choice(MOODS[endpoint])
            taken, at_s = mood == "200", time.monotonic()
            arrival = Arrival(endpoint, headers, body, self._start(), taken, at_s)
            self.arrivals.setdefault(headers["webhook-id"], []).append(arrival)
            if self._arrived is not None:
                self._arrived()
        return None if mood == "hang up" else mood.encode()
