"""Listening sockets that a service manager has opened and hands over: sd_listen_fds(3).

It keeps them open itself. So a connection that comes while no meterd runs waits in the kernel for
the next one, and a restart refuses nobody. What is handed over and cannot be served is an error:
to listen somewhere else instead would be found out by clients.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Final

from meterd.domain.errors import MeterdError

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping

_FIRST: Final = 3  # SD_LISTEN_FDS_START: the one behind stderr
_PID: Final = "LISTEN_PID"
_COUNT: Final = "LISTEN_FDS"
_NAMES: Final = "LISTEN_FDNAMES"
_FAMILIES: Final = {socket.AF_INET, socket.AF_INET6}


def take_sockets(environ: MutableMapping[str, str], pid: int) -> list[socket.socket]:
    """Those for this process, in their order; the variables are gone, and no child gets any.

    Raises MeterdError, which names the socket, where one is not a listening one of TCP.
    """
    found = handed_over(environ, pid)
    for name in (_PID, _COUNT, _NAMES):
        environ.pop(name, None)
    return [_listening(descriptor, name) for descriptor, name in found.items()]


def handed_over(environ: Mapping[str, str], pid: int) -> dict[int, str]:
    """The names of the descriptors that are for that process, which may be empty.

    Raises MeterdError where their number is none.
    """
    if environ.get(_PID) != str(pid):
        return {}  # none, or they were for a parent that left its variables behind
    count = environ.get(_COUNT, "")
    if not (count.isascii() and count.isdigit()):
        raise MeterdError(f"{_COUNT} must be the number of sockets handed over, not {count!r}")
    names = environ.get(_NAMES, "").split(":")
    return {
        _FIRST + place: names[place] if place < len(names) else "" for place in range(int(count))
    }


def _listening(descriptor: int, name: str) -> socket.socket:
    what = f"the socket handed over as {name or 'unknown'!r} (descriptor {descriptor})"
    try:
        os.set_inheritable(descriptor, False)
        found = socket.socket(fileno=descriptor)
    except OSError as fault:
        raise MeterdError(f"{what} is none: {fault.strerror}") from fault
    is_stream = found.type == socket.SOCK_STREAM and found.family in _FAMILIES
    if is_stream and found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return found
    found.detach()  # it is whose it was
    raise MeterdError(
        f"{what} does not listen for TCP: its unit takes ListenStream= with an address and a port,"
        " and Accept=no"
    )
