"""A service manager's end of NOTIFY_SOCKET: a real datagram socket, and what it was told."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from pathlib import Path

PATIENCE_S = 20.0


class Manager:
    """``told`` has each message as its assignments, in order."""

    def __init__(self, address: Path | str) -> None:
        """A path, or a name that begins with ``@``."""
        self.name = str(address)
        self.told: list[dict[str, str]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{self.name[1:]}" if self.name.startswith("@") else self.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    @property
    def environ(self) -> dict[str, str]:
        return {"NOTIFY_SOCKET": self.name}

    def next(self, seconds: float = PATIENCE_S) -> dict[str, str]:
        """The next message. Raises TimeoutError where none comes."""
        self._socket.settimeout(seconds)
        text = self._socket.recv(65536).decode()
        message = dict(line.split("=", 1) for line in text.split("\n"))
        self.told.append(message)
        return message

    def wait_for(self, name: str) -> dict[str, str]:
        """The next message with that assignment."""
        ends_at = time.monotonic() + PATIENCE_S
        while name not in (message := self.next(ends_at - time.monotonic())):
            pass
        return message

    def rest(self) -> list[dict[str, str]]:
        """What has come and was not looked at yet."""
        found = []
        self._socket.setblocking(False)
        try:
            while True:
                text = self._socket.recv(65536).decode()
                found.append(dict(line.split("=", 1) for line in text.split("\n")))
        except BlockingIOError:
            self.told += found
            return found
