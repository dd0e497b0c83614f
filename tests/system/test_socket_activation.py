"""A restart on a socket that somebody else keeps open: nobody is refused, nothing is lost."""

from __future__ import annotations

import socket
import threading
from http.client import HTTPConnection, HTTPSConnection
from typing import TYPE_CHECKING

import pytest

from tests.daemon_process import KEY, DaemonProcess, shipped_event_types
from tests.edge.encrypted import certificate_in, trusting

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator
    from pathlib import Path

CLIENTS = 4
RESTARTS = 3
PATIENCE_S = 30.0
TLS = 'tls_certificate = "{}"\ntls_key = "{}"\n'


@pytest.fixture
def kept() -> Iterator[socket.socket]:
    """What the service manager holds, as long as it lives."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listening:
        yield listening


class Client(threading.Thread):
    """Posts events, each over a connection of its own, until it is told to stop or one fails."""

    def __init__(self, number: int, port: int, tls: ssl.SSLContext | None) -> None:
        super().__init__(daemon=True)
        self.customer = f"customer_{number}"
        self._port, self._tls = port, tls
        self.acknowledged = 0
        self.one_more = threading.Semaphore(0)
        self.failure: object = None
        self._stop_now = threading.Event()

    def run(self) -> None:
        while not self._stop_now.is_set():
            try:
                status = self._post()
            except OSError as failed:
                self.failure = failed
                return
            if status == 201:
                self.acknowledged += 1
                self.one_more.release()
            else:
                self.failure = status
                return

    def _post(self) -> int:
        address = ("127.0.0.1", self._port)
        connection = (
            HTTPConnection(*address, timeout=PATIENCE_S)
            if self._tls is None
            else HTTPSConnection(*address, timeout=PATIENCE_S, context=self._tls)
        )
        headers = {"x-apikey": KEY, "Connection": "close"}
        body = f'{{"customerId": "{self.customer}", "value": 1}}'
        try:
            connection.request("POST", "/usage/api.calls", body, headers)
            answer = connection.getresponse()
            answer.read()
            return answer.status
        finally:
            connection.close()

    def stop(self) -> None:
        self._stop_now.set()
        self.join(PATIENCE_S)


@pytest.mark.parametrize("has_tls", [False, True], ids=["plain", "tls"])
def test_a_restart_refuses_no_connection(
    tmp_path: Path, kept: socket.socket, *, has_tls: bool
) -> None:
    """Clients that send all the time, without keys to repeat themselves: every connection is
    served, some only behind the restart, and what is stored is what was acknowledged.
    """
    port = kept.getsockname()[1]
    tls, verify = (trusting("http/1.1"),) * 2 if has_tls else (None, True)
    files = TLS.format(*certificate_in(tmp_path)) if has_tls else ""
    daemon = DaemonProcess(
        tmp_path,
        event_types=files + shipped_event_types(),  # what stands in front of them is the server's
        program=f"tests.system.handed_over {kept.fileno()}",
        pass_fds=[kept.fileno()],
    )
    clients = [Client(number, port, tls) for number in range(CLIENTS)]
    try:
        assert daemon.url.endswith(f":{port}")
        for client in clients:
            client.start()
        for _ in range(RESTARTS):
            for client in clients:
                assert client.one_more.acquire(timeout=PATIENCE_S), client.failure
            assert daemon.stop() == 0
            daemon.start()
        for client in clients:
            client.stop()
        assert [client.failure for client in clients] == [None] * CLIENTS
        for client in clients:
            path = f"/customers/{client.customer}/usage"
            usage = daemon.request("GET", path, verify=verify).json()["usage"]
            assert usage["api.calls"]["count"] == client.acknowledged
    finally:
        daemon.stop()
