"""Sockets that were handed over: which are taken, and what is said of those that are unfit."""

from __future__ import annotations

import os
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from meterd import inherited
from meterd.domain.errors import MeterdError
from meterd.inherited import handed_over, take_sockets

if TYPE_CHECKING:
    from collections.abc import Iterator

PID = 4711


def variables(count: str, names: str | None = None, pid: int = PID) -> dict[str, str]:
    found = {"LISTEN_PID": str(pid), "LISTEN_FDS": count}
    return found if names is None else {**found, "LISTEN_FDNAMES": names}


@pytest.mark.parametrize(
    ("environ", "found"),
    [
        ({}, {}),
        (variables("0"), {}),
        (variables("2", "http:https"), {3: "http", 4: "https"}),
        (variables("2", "http"), {3: "http", 4: ""}),
        (variables("1"), {3: ""}),
        (variables("1", pid=PID + 1), {}),
        ({"LISTEN_FDS": "1"}, {}),
    ],
)
def test_what_is_handed_over(environ: dict[str, str], found: dict[int, str]) -> None:
    """To this process; a parent's variables may be left."""
    assert handed_over(environ, PID) == found


@pytest.mark.parametrize("count", ["", "-1", "one", "²"])
def test_a_number_that_is_none(count: str) -> None:
    """It is an error: what was meant is not known."""
    with pytest.raises(MeterdError, match="LISTEN_FDS must be the number of sockets"):
        handed_over(variables(count), PID)


@contextmanager
def from_descriptor(first: int) -> Iterator[None]:
    """Descriptors of this process are not free from 3 on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inherited, "_FIRST", first)
        yield


def test_sockets_are_taken_and_nobody_else_gets_them() -> None:
    """The variables are gone, and a child has none of the sockets."""
    with socket.create_server(("127.0.0.1", 0)) as opened:
        descriptor = os.dup(opened.fileno())
        os.set_inheritable(descriptor, True)
        environ = {**variables("1", "http"), "HOME": "/root"}
        with from_descriptor(descriptor):
            [taken] = take_sockets(environ, PID)
        with taken:
            assert taken.fileno() == descriptor
            assert taken.getsockname() == opened.getsockname()
            assert not taken.get_inheritable()
    assert environ == {"HOME": "/root"}


def unfit() -> Iterator[tuple[str, int]]:
    connecting = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    local = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    local.bind("\0meterd-tests/unfit")
    local.listen()
    for name, one in (("connecting", connecting), ("datagrams", datagrams), ("local", local)):
        yield name, one.detach()


def test_what_does_not_listen_for_tcp_is_refused() -> None:
    """By its name; it stays open, since it is somebody's."""
    for name, descriptor in unfit():
        with (
            from_descriptor(descriptor),
            pytest.raises(MeterdError, match=rf"'{name}' .* does not listen for TCP: .*Accept=no"),
        ):
            take_sockets(variables("1", name), PID)
        os.close(descriptor)


def test_what_is_no_socket_is_refused() -> None:
    """A file, or nothing at all."""
    descriptor = os.open(os.devnull, os.O_RDONLY)
    with from_descriptor(descriptor), pytest.raises(MeterdError, match=r"'unknown' .* is none: "):
        take_sockets(variables("1"), PID)
    os.close(descriptor)
    with from_descriptor(descriptor), pytest.raises(MeterdError, match="is none: Bad file"):
        take_sockets(variables("1"), PID)
