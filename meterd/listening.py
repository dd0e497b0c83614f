"""Where another process listens, as Linux tells its owner; elsewhere nobody can tell."""

from __future__ import annotations

import socket
import sys
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meterd.domain.addresses import Server

_LISTENING: Final = "0A"  # TCP_LISTEN
_WORD: Final = 8  # hexadecimal digits of 32 bits, as this machine orders bytes
_TABLES: Final = (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6))


def other_address(pid: int, server: Server) -> str:
    """Where the process listens, if that is not where the configuration would have it; else, and
    where it cannot be told, empty.
    """
    found: list[Server] = []
    with suppress(OSError):  # not ours to look at, or it has ended meanwhile
        found = sorted(_listens(pid, type(server)), key=lambda one: one.bind)
    if server.port == 0 or any(_is_same(server, one) for one in found):
        return ""
    return ", ".join(one.bind for one in found)


def _listens(pid: int, kind: type[Server]) -> Iterator[Server]:
    process = Path(f"/proc/{pid}")
    sockets = set()
    for entry in (process / "fd").iterdir():
        with suppress(OSError):  # it was closed meanwhile
            sockets.add(str(entry.readlink()))
    for table, family in _TABLES:
        for line in (process / "net" / table).read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == _LISTENING and f"socket:[{inode}]" in sockets:
                host, port = local.split(":")
                yield kind(_address(family, host), int(port, 16))


def _address(family: socket.AddressFamily, text: str) -> str:
    words = [text[at : at + _WORD] for at in range(0, len(text), _WORD)]
    raw = b"".join(int(word, 16).to_bytes(4, sys.byteorder) for word in words)
    return socket.inet_ntop(family, raw)


def _is_same(server: Server, found: Server) -> bool:
    """A name may be of any address."""
    if server.port != found.port:
        return False
    try:
        return ip_address(server.host) == ip_address(found.host)
    except ValueError:
        return True
