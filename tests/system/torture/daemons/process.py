"""The daemon as the harness has it: started, killed, waited for, asked; and the time it has."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import httpx
import msgspec

from meterd.domain.periods import HOUR_MS
from tests.daemon_process import KEY, ROOT
from tests.system.torture.daemons.daemon import Offset, Order

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

START_S: Final = 20.0
# Not those that the kernel gives to clients: one that knocks while no daemon runs could be given
# the very port that it knocks at, and be connected to itself.
_PORTS: Final = range(20_000, 30_000)
_HERE: Final = "tests.system.torture.daemons.daemon"


class Forks:
    """The process that has read meterd's code and forks the daemons."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", _HERE],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=START_S)
        self._process.stdout.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def tell(self, line: str) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


class Daemon:
    """One daemon after another over one folder, at one address, in one time.

    ``generation`` goes up in front of every signal that ends one; ``ready`` is the last generation
    that was seen ready. A request that fails although its connection is of the present generation,
    and that one is ready, was dropped. ``starts`` counts them.
    """

    def __init__(self, forks: Forks, folder: Path, start_ms: int, mutant: str | None) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.log = folder / "log"
        self.config = folder / "systemconfig.toml"
        self.port = _free_port()
        self.generation = 0
        self.ready = -1
        self.starts = 0
        self._forks = forks
        self._mutant = mutant
        self._offset = Offset(folder / "offset")
        self._offset.set(start_ms - time.time_ns() // 1_000_000)
        self._cold: subprocess.Popen[bytes] | None = None
        self.pid = 0
        self._client = httpx.Client(
            base_url=f"http://127.0.0.1:{self.port}",
            headers={"x-apikey": KEY},
            timeout=60,
            limits=httpx.Limits(max_keepalive_connections=0),
        )

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000 + self._offset.get()

    def step_to(self, instant_ms: int) -> None:
        """Sets the clock forward; backward is for other tests."""
        ahead_ms = instant_ms - self.now_ms()
        if ahead_ms > 0:
            self._offset.set(self._offset.get() + ahead_ms)

    def next_hour_ms(self) -> int:
        return (self.now_ms() // HOUR_MS + 1) * HOUR_MS

    def start(self, *, post_s: float, disk_s: float, cold: bool = False) -> None:
        """Returns while it starts."""
        self.starts += 1
        order = msgspec.json.encode(
            Order(
                config=str(self.config),
                offset=str(self.folder / "offset"),
                log=str(self.log),
                post_s=post_s,
                disk_s=disk_s,
                environ={
                    "METERD_API_KEY": KEY,
                    "METERD_DATA_DIR": str(self.data),
                    "METERD_BIND": f"127.0.0.1:{self.port}",
                    # No webhook goes by TLS: reading the authorities' certificates is 40 ms.
                    "SSL_CERT_FILE": os.devnull,
                },
                mutant=self._mutant,
            )
        ).decode()
        if cold:
            self._cold = subprocess.Popen([sys.executable, "-m", _HERE, order], cwd=ROOT)
            self.pid = self._cold.pid
        else:
            self._cold = None
            self.pid = self._forks.tell(order)

    def send(self, number: signal.Signals) -> None:
        if number != signal.SIGHUP:
            self.generation += 1
        os.kill(self.pid, number)

    def wait(self) -> int:
        """Its exit code, when it has ended."""
        code = self._forks.tell("") if self._cold is None else self._cold.wait(timeout=START_S)
        self.pid = 0
        return code

    def kill(self) -> None:
        """Whatever it is at."""
        if self.pid:
            self.send(signal.SIGKILL)
            self.wait()

    def close(self) -> None:
        """No more of them."""
        self.kill()
        self._client.close()

    def wait_ready(self) -> bool:
        """Returns when it serves, has recovered and has closed what was overdue; False if it ended
        or did not come to that in time.
        """
        deadline = time.monotonic() + START_S
        while not self._is_ready():
            if time.monotonic() > deadline or self.has_ended():
                return False
            time.sleep(0.01)
        self.ready = self.generation
        return True

    def pages(self, path: str) -> Iterator[bytes]:
        """All of a listing."""
        following: str | None = f"{path}?limit=100000"
        while following is not None:
            answer = self._client.get(following)
            assert answer.status_code == 200, answer.text
            yield answer.content
            following = answer.links.get("next", {}).get("url")

    def trigger(self) -> None:
        answer = self._client.post("/aggregations/trigger")
        assert answer.status_code in (200, 202), answer.text

    def request(self, method: str, path: str, body: dict[str, str] | None = None) -> httpx.Response:
        """Raises httpx.TransportError."""
        return self._client.request(method, path, json=body)

    def post(self, path: str, body: dict[str, object]) -> httpx.Response:
        """Raises httpx.TransportError."""
        return self._client.post(path, json=body)

    def ask(self, method: str, path: str) -> None:
        """For somebody who does not care for the answer."""
        try:
            self.request(method, path)
        except httpx.TransportError:
            pass

    def tail(self) -> list[str]:
        return self.log.read_text(errors="replace").splitlines()[-20:]

    def said(self, event: str) -> int:
        """How often the log says so."""
        return self.log.read_text(errors="replace").count(f'"event": "{event}"')

    def has_ended(self) -> bool:
        """Whether ``wait`` would return at once."""
        # Whoever started it waits for it later: until then it is there, as a zombie.
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"

    def _is_ready(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=START_S) as knocking:
                knocking.sendall(b"GET /readyz HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
                return knocking.recv(64).startswith(b"HTTP/1.1 200")
        except OSError:
            return False


def _free_port() -> int:
    # Which one decides nothing, so it need not come from the seed.
    for port in random.sample(_PORTS, 100):
        with socket.socket() as trying:
            try:
                trying.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free")
