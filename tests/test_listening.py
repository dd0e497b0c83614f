"""meterd/listening.py: of this process, which listens here and there."""

from __future__ import annotations

import os
import socket
import sys
from contextlib import ExitStack

import pytest

from meterd.domain.addresses import Server
from meterd.listening import other_address

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="nobody can tell")


def test_the_same_address_is_no_other() -> None:
    """By its number or a name, of either family; a port that the system chooses is any."""
    for host, name in (("127.0.0.1", "localhost"), ("::1", "0::1"), ("0.0.0.0", "0.0.0.0")):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.create_server((host, 0), family=family) as listener:
            port = listener.getsockname()[1]
            assert other_address(os.getpid(), Server(host, port)) == ""
            assert other_address(os.getpid(), Server(name, port)) == ""
            assert other_address(os.getpid(), Server(host, 0)) == ""


def test_another_address_is_told() -> None:
    """Another port, another host: all that it listens on."""
    with ExitStack() as stack:
        listeners = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0))),
            stack.enter_context(socket.create_server(("::1", 0), family=socket.AF_INET6)),
        ]
        ports = [one.getsockname()[1] for one in listeners]
        told = other_address(os.getpid(), Server("127.0.0.2", ports[0]))
        assert told == f"127.0.0.1:{ports[0]}, [::1]:{ports[1]}"
        assert other_address(os.getpid(), Server("127.0.0.1", ports[1])) == told


def test_nothing_is_told_of_what_cannot_be_seen() -> None:
    """A process that listens nowhere yet, or is no more."""
    assert other_address(os.getpid(), Server("127.0.0.1", 1)) == ""
    assert other_address(1 << 30, Server("127.0.0.1", 1)) == ""
