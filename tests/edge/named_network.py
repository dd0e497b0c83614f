"""Posts over a network of their own, whose names a name server of ours gives away.

``unshare --net --mount python -m tests.edge.named_network`` reads Cases from its stdin and prints
what came of each, as JSON. The network has nothing but its own loopback interface, which also has
two public addresses; the system's resolver asks the name server. A receiver listens everywhere.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import subprocess
import sys
import tempfile
from ipaddress import IPv6Address, ip_network
from pathlib import Path
from typing import Final

import msgspec
import trio

from meterd.domain.endpoints import Endpoint
from meterd.domain.outcomes import Outcome
from meterd.edge.egress import open_sender
from tests.edge.name_server import NameServer
from tests.edge.receivers import BODY, HEADERS, OK, TRUSTING_NOBODY, Stream, request_from

PUBLIC: Final = "1.2.3.4"
PUBLIC_V6: Final = "2606:4700::1111"
PORT: Final = 8000

_SIOCSIFFLAGS, _SIOCSIFADDR = 0x8914, 0x8916  # linux/sockios.h
_IFF_UP: Final = 1
_MS_BIND, _MS_REC, _MS_PRIVATE = 0x1000, 0x4000, 0x40000  # linux/mount.h
_FILES: Final = {
    "/etc/resolv.conf": "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n",
    "/etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "/etc/nsswitch.conf": "hosts: files dns\n",
}


class Case(msgspec.Struct, frozen=True):
    """So many posts to that host, each over its own connection. ``answers`` are its successive
    addresses.
    """

    host: str
    answers: list[list[str]] = []
    posts: int = 1
    allow: list[str] = []


class Found(msgspec.Struct):
    """``reached`` are the addresses at which connections arrived, ``asked`` the questions for the
    host's name.
    """

    outcomes: list[Outcome]
    reached: list[str]
    asked: int


def hindrance() -> str | None:
    """Why there can be no such network here."""
    if sys.platform != "linux":
        return "only Linux has namespaces"
    try:
        tried = subprocess.run([*_unshare(), "true"], capture_output=True)
    except OSError:
        return "needs unshare (Debian's util-linux)"
    return "needs namespaces of its own, which are not allowed here" if tried.returncode else None


def try_out(cases: dict[str, Case]) -> dict[str, Found]:
    """In a process with its own network."""
    command = [*_unshare(), sys.executable, "-m", "tests.edge.named_network"]
    ended = subprocess.run(
        command, input=msgspec.json.encode(cases), capture_output=True, timeout=120
    )
    assert not ended.returncode, ended.stderr.decode()
    return msgspec.json.decode(ended.stdout, type=dict[str, Found])


def _unshare() -> list[str]:
    root = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return ["unshare", *root, "--net", "--mount"]


def _set_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for name, address in (("lo", "127.0.0.1"), ("lo:1", PUBLIC)):
            family = struct.pack("=HH4s8x", socket.AF_INET, 0, socket.inet_aton(address))
            fcntl.ioctl(control, _SIOCSIFADDR, struct.pack("16s16s8x", name.encode(), family))
            flags = struct.pack("16sh22x", name.encode(), _IFF_UP)
            fcntl.ioctl(control, _SIOCSIFFLAGS, flags)
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as control:
        packed = IPv6Address(PUBLIC_V6).packed
        fcntl.ioctl(
            control, _SIOCSIFADDR, struct.pack("=16sIi", packed, 128, socket.if_nametoindex("lo"))
        )
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None) == 0
    folder = Path(tempfile.mkdtemp())
    for number, (path, text) in enumerate(_FILES.items()):
        file = folder / str(number)
        file.write_text(text)
        bound = libc.mount(bytes(file), path.encode(), None, _MS_BIND, None)
        assert bound == 0, os.strerror(ctypes.get_errno())
        file.unlink()
    folder.rmdir()


async def _find(cases: dict[str, Case]) -> dict[str, Found]:
    reached: list[str] = []

    async def receive(stream: trio.SocketStream) -> None:
        reached.append(stream.socket.getsockname()[0])
        async with stream:
            await _answer(stream)

    found = {}
    async with trio.open_nursery() as nursery:
        listeners = [
            *await trio.open_tcp_listeners(PORT, host="0.0.0.0"),
            *await trio.open_tcp_listeners(PORT, host="::"),
        ]
        nursery.start_soon(trio.serve_listeners, receive, listeners)
        names = NameServer({case.host: case.answers for case in cases.values() if case.answers})
        at = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        await at.bind(("127.0.0.1", 53))
        nursery.start_soon(names.serve, at)
        for name, case in cases.items():
            reached.clear()
            names.asked.clear()
            outcomes = await _posts(case)
            asked = sum(1 for host, _ in names.asked if host.lower() == case.host.lower())
            found[name] = Found(outcomes, list(reached), asked)
        nursery.cancel_scope.cancel()
    return found


async def _posts(case: Case) -> list[Outcome]:
    allowed = tuple(ip_network(text) for text in case.allow)
    endpoint = Endpoint("billing", "http://billing.test/", ("secret",), allow_private=allowed)
    async with open_sender(endpoint, TRUSTING_NOBODY) as sender:
        url = f"http://{case.host}:{PORT}/"
        return [await sender.post(url, HEADERS, BODY, deadline_s=10) for _ in range(case.posts)]


async def _answer(stream: Stream) -> None:
    if await request_from(stream):
        await stream.send_all(OK.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))


if __name__ == "__main__":
    _set_up()
    given = msgspec.json.decode(sys.stdin.buffer.read(), type=dict[str, Case])
    sys.stdout.buffer.write(msgspec.json.encode(trio.run(_find, given)))
