"""A real daemon under attack, and what an honest client notices.

``python -m tests.system.attacks``, for each attack: some seconds of calm, then the same with an
attacker, a process of its own at another address. An honest client posts events at a steady rate
on a few connections all the while.
The table says its p99 in both, their ratio, what failed, and the daemon's memory. Nothing is
asserted on time, since a machine has other things to do; a request of the honest client that fails
ends the program with 1.
"""

from __future__ import annotations

import argparse
import http.client
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Final

import trio

from tests.daemon_process import KEY, ROOT, DaemonProcess
from tests.edge.test_http2_frames import PING, RESET, SETTINGS, frame

ATTACKER: Final = "127.0.0.2"
HONEST_CONNECTIONS: Final = 4
HONEST_RATE: Final = 100.0
EVENT: Final = b'{"customerId":"honest","value":1}'

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, stream=0)
# HPACK's static table: GET, /, http.
GET_BLOCK: Final = b"\x82\x84\x86\x41\x01a"


def post(body: bytes, *, length: int | None = None, key: str = KEY, batch: bool = False) -> bytes:
    path = "/usagebatch" if batch else "/usage/api.calls"
    size = len(body) if length is None else length
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nx-apikey: {key}\r\nContent-Length: {size}\r\n\r\n"
    return head.encode() + body


def http2_requests(*after: bytes, count: int = 1000) -> bytes:
    """So many streams, each a request and what follows it."""
    return b"".join(
        frame(1, GET_BLOCK, flags=5, stream=stream)
        + b"".join(each[:5] + stream.to_bytes(4, "big") + each[9:] for each in after)
        for stream in range(1, 2 * count, 2)
    )


NO_WINDOW: Final = frame(4, b"\0\x04\0\0\0\0", stream=0)

# What each connection sends at once, what it drips then, and how many there are.
ATTACKS: Final[dict[str, tuple[bytes, bytes, int]]] = {
    "idle": (b"", b"", 600),
    "slow heads": (b"POST /usage/api.calls HTTP/1.1\r\nHost: a\r\nX: ", b"a", 400),
    "slow bodies": (post(b"", length=100_000), b"x", 400),
    "slow bodies, HTTP/2": (PREFACE + frame(1, b"\x83" + GET_BLOCK[1:], flags=4), b"", 200),
    "wrong keys": (post(EVENT, key="wrong") * 50, b"", 20),
    "oversize heads": (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 64_000, b"", 50),
    "header flood": (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: a\r\n" * 10_000, b"", 50),
    "oversize bodies": (post(b"x" * 500_000, length=10**9), b"", 20),
    "deep JSON": (post(b"[" * 200_000), b"", 20),
    "unread answers": (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 200, b"", 20),
    "rapid reset": (PREFACE + http2_requests(RESET), b"", 20),
    "CONTINUATION": (PREFACE + frame(1, GET_BLOCK) + frame(9, b"") * 10_000, b"", 20),
    "PING": (PREFACE + PING * 5_000, b"", 20),
    "SETTINGS": (PREFACE + SETTINGS * 5_000, b"", 20),
    "window 0": (PREFACE + NO_WINDOW + http2_requests(count=100), PING, 20),
}


async def _attacker(port: int, name: str, seconds: float) -> None:
    """Opens connections anew as they end, a bounded number of them each second."""
    first, drip, connections = ATTACKS[name]

    async def connection(number: int) -> None:
        await trio.sleep(number / connections)
        while True:
            try:
                stream = await trio.open_tcp_stream("127.0.0.1", port, local_address=ATTACKER)
                async with stream:
                    await stream.send_all(first)
                    if name == "unread answers":
                        await trio.sleep_forever()
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(_drip, stream, drip)
                        while await stream.receive_some(65536):
                            pass
                        nursery.cancel_scope.cancel()
            except* OSError:
                pass
            except* trio.BrokenResourceError:
                pass
            await trio.sleep(1)

    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            for number in range(connections):
                nursery.start_soon(connection, number)


async def _drip(stream: trio.SocketStream, drip: bytes) -> None:
    while drip:
        await trio.sleep(0.5)
        await stream.send_all(drip)


class Honest:
    """Posts events at a steady rate; how long each took, from when it was due."""

    def __init__(self, port: int, seconds: float) -> None:
        self.took_ms: list[float] = []
        self.failures: list[str] = []
        threads = [
            threading.Thread(target=self._post, args=(port, seconds, number))
            for number in range(HONEST_CONNECTIONS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def percentile_ms(self, share: float) -> float:
        return sorted(self.took_ms)[int(share * (len(self.took_ms) - 1))]

    def _post(self, port: int, seconds: float, number: int) -> None:
        every_s = HONEST_CONNECTIONS / HONEST_RATE
        began = time.perf_counter() + number / HONEST_RATE
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        for turn in range(int(seconds / every_s)):
            due = began + turn * every_s
            time.sleep(max(0.0, due - time.perf_counter()))
            try:
                connection.request("POST", "/usage/api.calls", EVENT, {"x-apikey": KEY})
                answer = connection.getresponse()
                answer.read()
            except (OSError, http.client.HTTPException) as fault:
                self.failures.append(repr(fault))
                connection.close()
                continue
            if answer.status != 201:
                self.failures.append(str(answer.status))
            self.took_ms.append((time.perf_counter() - due) * 1000)
        connection.close()


def resident_mb(pid: int) -> int:
    [line] = [
        line
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith("VmRSS")
    ]
    return int(line.split()[1]) // 1024


def _measure(name: str, seconds: float) -> bool:
    """One row, of a daemon of its own; whether the honest client was always served."""
    with tempfile.TemporaryDirectory() as folder:
        daemon = DaemonProcess(Path(folder))
        port = int(daemon.url.rpartition(":")[2])
        Honest(port, 1.0)
        calm = Honest(port, seconds)
        command = [sys.executable, "-m", "tests.system.attacks", "--attacker", str(port)]
        with subprocess.Popen(
            [*command, "--seconds", str(seconds + 3), name], cwd=ROOT, stderr=subprocess.DEVNULL
        ) as attacker:
            time.sleep(1.5)
            attacked = Honest(port, seconds)
            attacker.wait()
        before, after = calm.percentile_ms(0.99), attacked.percentile_ms(0.99)
        print(
            f"{name:<20} {before:>8.1f} {after:>8.1f} {after / before:>6.1f}"
            f" {len(attacked.took_ms):>7} {len(attacked.failures):>7}"
            f" {resident_mb(daemon.process.pid):>7}",
            flush=True,
        )
        daemon.stop()
        return not attacked.failures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=", ".join(ATTACKS))
    parser.add_argument("--seconds", type=float, default=5.0, help="of calm, and of each attack")
    parser.add_argument("--attacker", type=int, metavar="PORT", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.attacker:
        trio.run(_attacker, given.attacker, given.names[0], given.seconds)
        return 0
    print(f"{'attack':<20} {'calm p99':>8} {'p99, ms':>8} {'ratio':>6}    sent  failed  RSS MB")
    served = [_measure(name, given.seconds) for name in given.names or ATTACKS]
    return 0 if all(served) else 1


if __name__ == "__main__":
    sys.exit(main())
