"""What a daemon uses of the machine it runs on, but for the time of day.

Whoever tests a daemon as a whole gives it another one: a disk that fails on command, a network in
memory, receivers that hang (``tests/simulation``).
"""

from __future__ import annotations

import gc
import os
import resource
import secrets
import socket
import sys
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

import structlog
import trio

from meterd.domain.errors import MeterdError
from meterd.edge.egress import open_sender
from meterd.edge.limits import UNREAD_BYTES_MAX, UNTAKEN_BYTES_MAX
from meterd.edge.transports import transport_over
from meterd.embedded.store import Store
from meterd.trust import client_context

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

    from meterd.domain.addresses import Server
    from meterd.domain.config import Config
    from meterd.edge.transports import Transport
    from meterd.embedded.committer import Hop
    from meterd.work.surroundings import OpenSender

T = TypeVar("T")

_log = structlog.get_logger("meterd")

# How long a thread waits for the interpreter where another has it. The committer's gives it away
# and wants it back at each of some thousand calls of LMDB, and under overload the loop never rests:
# with Python's 5 ms a transaction of 20,000 events took up to 0.5 s, and now takes a tenth of that.
SWITCH_SECONDS: Final = 0.0005
# The first generation often, since what lives in it has not been looked at yet; the second seldom,
# since connections that come and go are all in it: with 900 of them that is 30 ms, and a flood has
# the first looked through a hundred times a second (``front_door``).
COLLECTOR_THRESHOLDS: Final = (500, 5000, 10)


class Machine:
    """The one that meterd runs on."""

    def __init__(self, inherited: Sequence[socket.socket] = ()) -> None:
        """``inherited`` listen already, and take the place of the configured address."""
        self._inherited = inherited

    def open_store(self, folder: Path) -> Store:
        """See ``Store``."""
        return Store(folder)

    def hop(self, at_once: int) -> Hop:
        """Where what reads the disk runs, that many at once."""
        return threads(at_once)

    def writer_hop(self) -> Hop:
        """Where what writes to the disk runs."""
        return writer_thread

    def below(self, limit: int) -> int:
        """A random number that is less, and not negative."""
        return secrets.randbelow(limit)

    async def listen(self, config: Config) -> list[trio.SocketListener]:
        """Raises MeterdError where somebody else does."""
        if self._inherited:
            listeners = _listeners_over(self._inherited, config.server)
        else:
            listeners = await _listeners_at(config.server)
        for listener in listeners:  # what it accepts has the same
            listener.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, UNREAD_BYTES_MAX)
            listener.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNTAKEN_BYTES_MAX)
        return listeners

    def transport(self, accepted: trio.SocketStream, tls: ssl.SSLContext | None) -> Transport:
        """Over what a listener has accepted. Raises trio.BrokenResourceError."""
        return transport_over(accepted, tls)

    def senders(self) -> OpenSender:
        """What opens connections to receivers."""
        return partial(open_sender, tls=client_context())


def _listeners_over(
    inherited: Sequence[socket.socket], server: Server
) -> list[trio.SocketListener]:
    ports = {each.getsockname()[1] for each in inherited}
    _log.info("listening on sockets that were handed over: server.bind is not used")
    if server.port not in ports:
        _log.warning(
            "commands look for meterd where it does not listen: set server.bind to the socket's"
            " address, or give them --url",
            bind=server.bind,
            ports=sorted(ports),
        )
    return [trio.SocketListener(trio.socket.from_stdlib_socket(each)) for each in inherited]


async def _listeners_at(server: Server) -> list[trio.SocketListener]:
    try:
        return await trio.open_tcp_listeners(server.port, host=server.host)
    except OSError as fault:
        raise MeterdError(f"cannot listen on {server.bind}: {fault.strerror}") from fault


def open_files_allowed(needed: int) -> int:
    """Raises this process's limit of open files to that, as far as it may; what the limit is then.

    The usual soft limit of 1024 is for programs that use select; the hard one is for all.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return needed
    allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return allowed


def threads(at_once: int) -> Hop:
    """Runs functions in worker threads, that many at once, none ever abandoned.

    A limiter of their own: name look-ups may take all of trio's, and must not hold up a commit.
    """
    limiter = trio.CapacityLimiter(at_once)

    def hop(work: Callable[[], T]) -> Awaitable[T]:
        return trio.to_thread.run_sync(work, abandon_on_cancel=False, limiter=limiter)

    return hop


async def writer_thread(work: Callable[[], T]) -> T:
    """Runs the work in a worker thread that begins before the loop goes on; it is never abandoned.

    A thread that wakes is put behind the one that runs on its core until that one's slice of 3 or
    4 ms is over (Linux 6.6 and later), and the loop runs that long at a stretch wherever something
    has always come for it: whoever keeps it busy would add as much to each transaction. So the loop
    yields, once: where it did so before each of its waits, other processes on the core had most of
    its time. It does so for the writer alone, for which everybody waits; a reader is asked by one.
    """
    await trio.lowlevel.checkpoint_if_cancelled()
    token, task = trio.lowlevel.current_trio_token(), trio.lowlevel.current_task()
    trio.lowlevel.start_thread_soon(
        work, lambda result: token.run_sync_soon(trio.lowlevel.reschedule, task, result)
    )
    os.sched_yield()
    result: T = await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.FAILED)
    return result


def tune_interpreter() -> None:
    """For this process as long as it lives."""
    gc.collect()
    gc.freeze()  # what the program itself is made of stays, and need not be looked through again
    gc.set_threshold(*COLLECTOR_THRESHOLDS)
    sys.setswitchinterval(SWITCH_SECONDS)
