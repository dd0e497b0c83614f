"""Every limit of the serving side, with the reason for its number.

A limit here protects the process from its clients; what an event may contain is bounded in
``domain/events.py``. Sizes are bytes, durations seconds on trio's clock.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec

from meterd.domain.endpoints import ENDPOINTS_MAX, SLOTS_MAX
from meterd.domain.errors import OverloadedError

if TYPE_CHECKING:
    from collections.abc import Iterator

KIB = 1024
MIB = 1024 * KIB

# What is handed between socket and parser at once, in both directions: the pipe that Linux gives a
# socket by default is about this long, and more would only raise the memory of each connection.
PIECE_BYTES = 64 * KIB

# What the kernel may hold of a connection that is not read: left to itself, Linux gives 32 MiB
# to each, outside of every other limit here, and what is in there is a backlog that everybody waits
# for behind an overload. Over 0.1 s of round trip a client still sends 640 kB/s.
UNREAD_BYTES_MAX = 64 * KIB

# And of what its client does not take: left to itself, 4 MB, a tenth of a second's work for each
# listing that is not read. Over 0.1 s of round trip a client still takes 1 MB/s.
UNTAKEN_BYTES_MAX = 128 * KIB

# Of what was sent ahead of its answers, how much is read and refused in one go: what both kernels
# hold of a connection, with defaults of the client's that are no larger than ours.
SENT_AHEAD_BYTES = 4 * UNREAD_BYTES_MAX

# Honest clients send a head and a body, or each of both in two.
_SMALL_PIECE_BYTES = 128
_SMALL_PIECES_MAX = 4
_AT_ONCE_S = 0.001

# After the graceful deadline the application still says good-bye (lifespan shutdown).
APPLICATION_STOP_S = 2.0

# SIGTERM must have ended everything within 10 s; deliveries and the ledger need the rest.
SERVING_STOP_MAX_S = 7.0


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one front door grants its clients."""

    # 1024 open files is the usual limit where a start may not raise it: ``FILES_MAX``. 128 of them
    # are left for the store, the log and a few receivers.
    connections_max: int = 896
    # One address may take more than half, because a reverse proxy is one address, but not all.
    connections_per_peer_max: int = 512

    # What hypercorn and Quart work on at once for one address. They answer about a thousand
    # requests a second: with a disk that takes 10 ms for a commit, 16 keep them busy.
    requests_per_peer_at_once: int = 16

    # Nobody makes room for another of its own address before it was idle for so long: a proxy that
    # needs more connections than it may have would lose requests on all of them. Another address's
    # is let in at once, or who asks a little on each connection would keep everybody out.
    idle_for_own_s: float = 1.0

    # Of each address: a deployment with a wrong key retries a few times on each of its machines.
    wrong_keys_max: int = 100
    wrong_key_s: float = 1.0
    # How long those over it are kept waiting for each answer, as Retry-After tells them to.
    wrong_keys_wait_s: float = 1.0
    # 200 bytes each: 2 MB at most.
    wrong_key_peers_max: int = 10_000

    # The common limits of nginx and Apache are 8 KiB for a line and 8 to 32 KiB for the whole head.
    head_bytes_max: int = 16 * KIB
    request_line_bytes_max: int = 8 * KIB
    # Browsers behind two proxies send about 30.
    fields_max: int = 64
    # A batch of 1000 events with metadata is 150-300 kB.
    body_bytes_max: int = 4 * MIB
    # All bodies that are being read or answered: 896 of the largest would be 3.5 GiB. With what is
    # decoded and written of them, memory grows by two and a half times as much.
    bodies_bytes_max: int = 48 * MIB

    # For TLS, from the connection on: two or three round trips, one of them lost and repeated.
    handshake_s: float = 5.0
    # Counted from the first byte of a head: an honest client sends it in one piece.
    head_s: float = 5.0
    # Between requests. Shorter than the 90 s for which clients commonly keep a pooled connection,
    # yet long enough that a request seldom meets the close (with 5 s it often does).
    keep_alive_s: float = 75.0
    # A body may stall so long in all, and earns the time back with what it sends: 4 MiB take 17
    # minutes at the slowest. 10 s is two or three retransmissions of a lost packet.
    body_stall_s: float = 10.0
    body_bytes_per_s_min: int = 4 * KIB
    # Each piece wakes its connection's task, and hundreds of connections that drip a byte together
    # wake all of theirs, in front of everybody else's: who goes on so is read once a second.
    dripping_rest_s: float = 1.0
    # How long a request that was sent ahead of the answers to others may wait for its turn. Clients
    # that send faster than they are served would else have a backlog of a minute in their sockets,
    # which everyone waits for behind an overload.
    sent_ahead_s: float = 1.0
    # For each piece that a client takes: one that does not read blocks no longer than this.
    send_s: float = 30.0
    # How long a closing connection is still read, so that the client sees the answer and no reset.
    linger_s: float = 2.0
    # A shutdown ends whoever is idle, but who came so shortly ago is about to ask.
    # A TLS handshake with the other side of the earth takes as long.
    newcomer_s: float = 0.5
    # From the beginning of the shutdown until what is still open is cut.
    graceful_s: float = 5.0

    def __post_init__(self) -> None:
        assert self.connections_per_peer_max <= self.connections_max
        assert self.request_line_bytes_max < self.head_bytes_max
        assert self.body_bytes_max <= self.bodies_bytes_max
        assert self.head_bytes_max <= PIECE_BYTES, "a whole head must fit into one read"
        assert self.graceful_s + APPLICATION_STOP_S <= SERVING_STOP_MAX_S


class BodyBudget:
    """How many bytes of bodies are in memory at once, over all connections."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._held = 0

    def take(self, body_bytes: int) -> bool:
        """Counts them until they are given back; False, and nothing counted, if they do not fit."""
        if self._held + body_bytes > self._bytes_max:
            return False
        self._held += body_bytes
        return True

    def give_back(self, body_bytes: int) -> None:
        self._held -= body_bytes

    @contextmanager
    def holding(self, body_bytes: int) -> Iterator[None]:
        """Counts them within. Raises OverloadedError where they do not fit in."""
        if not self.take(body_bytes):
            raise OverloadedError("too many large requests are under way")
        try:
            yield
        finally:
            self.give_back(body_bytes)


class Drip:
    """Whether a request comes in one small piece after another: by hand, or to keep us busy."""

    def __init__(self, rest_s: float) -> None:
        self._rest_s = rest_s
        self._small_pieces = 0

    def record(self, waited_s: float, received_bytes: int) -> None:
        """What came at once was sent with the piece before: over TLS a record is one."""
        is_small = received_bytes < _SMALL_PIECE_BYTES and waited_s > _AT_ONCE_S
        self._small_pieces = self._small_pieces + 1 if is_small else 0

    @property
    def has_begun(self) -> bool:
        """The last piece was a small one, that came by itself."""
        return self._small_pieces > 0

    @property
    def rest_s(self) -> float:
        """How long the next piece is left where it is."""
        return self._rest_s if self._small_pieces > _SMALL_PIECES_MAX else 0.0


class Pace:
    """How long a sender may still keep us waiting: a stall that is earned back by sending.

    Only time spent waiting for the sender counts, not time in which nobody read.
    """

    def __init__(self, stall_s: float, bytes_per_s_min: int) -> None:
        self.left_s = self._stall_s = stall_s
        self._bytes_per_s_min = bytes_per_s_min

    def record(self, waited_s: float, received_bytes: int) -> None:
        earned_s = received_bytes / self._bytes_per_s_min
        self.left_s = max(0.0, min(self._stall_s, self.left_s - waited_s + earned_s))


# All clients, a connection for each slot and test of every endpoint, and the store, the log, pipes.
FILES_MAX = Limits().connections_max + ENDPOINTS_MAX * (SLOTS_MAX + 1) + 128
