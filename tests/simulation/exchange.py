"""HTTP/1.1 as a client speaks it, over a connection in memory."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec
import trio

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from tests.simulation.network import ClientEnd

KEY = "key-of-the-simulated-clients-0123456789"


class Answer(msgspec.Struct, frozen=True):
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class GoneError(Exception):
    """The server ended the connection in front of the end of its answer."""


def request(method: str, path: str, body: bytes = b"", headers: Sequence[str] = ()) -> bytes:
    head = [
        f"{method} {path} HTTP/1.1",
        "Host: meterd",
        f"x-apikey: {KEY}",
        *headers,
        *([f"Content-Length: {len(body)}"] if body else []),
    ]
    return "\r\n".join([*head, "", ""]).encode() + body


class Conversation:
    """One connection, one request after another."""

    def __init__(self, connection: ClientEnd, random: Random) -> None:
        self._connection = connection
        self._random = random
        self._received = b""

    async def ask(self, data: bytes) -> Answer:
        """Raises GoneError where no whole answer comes."""
        await self._send(data)
        head = await self._until(b"\r\n\r\n")
        status_line, *fields = head.decode().split("\r\n")[:-2]
        headers = {
            name.lower(): value.strip() for name, _, value in (one.partition(":") for one in fields)
        }
        if headers.get("transfer-encoding") == "chunked":
            body = await self._chunks()
        else:
            body = await self._exactly(int(headers.get("content-length", "0")))
        return Answer(int(status_line.split(" ")[1]), headers, body)

    async def _send(self, data: bytes) -> None:
        """Now and then in pieces, with pauses that are within a server's patience."""
        pieces = [data]
        if self._random.random() < 0.05:
            cut = self._random.randrange(1, len(data))
            pieces = [data[:cut], data[cut:]]
        for number, piece in enumerate(pieces):
            if number:
                await trio.sleep(self._random.uniform(0, 4))
            try:
                self._connection.send(piece)
            except trio.BrokenResourceError:
                raise GoneError from None

    async def _receive(self) -> None:
        data = await self._connection.receive()
        if not data:
            raise GoneError
        self._received += data

    async def _until(self, end: bytes) -> bytes:
        while end not in self._received:
            await self._receive()
        found, _, self._received = self._received.partition(end)
        return found + end

    async def _exactly(self, count: int) -> bytes:
        while len(self._received) < count:
            await self._receive()
        found, self._received = self._received[:count], self._received[count:]
        return found

    async def _chunks(self) -> bytes:
        body = b""
        while True:
            size = int(await self._until(b"\r\n"), 16)
            body += await self._exactly(size)
            await self._until(b"\r\n")
            if not size:
                return body
