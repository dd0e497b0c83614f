"""Log lines are written whole, and where they cannot be nothing else happens."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from meterd.log_file import LogFile
from tests.daemon_process import KEY, ROOT, DaemonProcess

if TYPE_CHECKING:
    import pytest


def test_lines_are_written_at_once(tmp_path: Path) -> None:
    """Nothing waits in a buffer; what is no Unicode is shown all the same."""
    path = tmp_path / "log"
    with path.open("w") as stderr:
        log = LogFile(stderr)
        log.write("one\n")
        log.write("zwölf \udc80\n")
        assert path.read_text() == "one\nzwölf \\udc80\n"


def test_what_is_no_file_is_written_to(capsys: pytest.CaptureFixture[str]) -> None:
    """As tests have it."""
    LogFile(sys.stderr).write("one\n")
    assert capsys.readouterr().err == "one\n"


def test_a_full_disk_costs_lines_only(tmp_path: Path) -> None:
    """A line that was cut short ends there, and the next one begins on its own."""
    path = tmp_path / "log"
    program = (
        "import resource, sys; from meterd.log_file import LogFile; log = LogFile(sys.stderr)\n"
        "def limit(size): resource.setrlimit(resource.RLIMIT_FSIZE, (size, -1))\n"
        "limit(12)\n"
        "for number in range(4): log.write(f'line {number}\\n')\n"
        "limit(-1)\n"
        "log.write('room\\n')"
    )
    with path.open("w") as stderr:
        ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, stderr=stderr)
    assert ended.returncode == 0
    assert path.read_text() == "line 0\nline \nroom\n"


def test_a_log_that_is_not_waited_for_loses_lines() -> None:
    """Whoever shares it may have made it so: what nobody reads is lost, and nobody waits."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    program = (
        "import sys; from meterd.log_file import LogFile; log = LogFile(sys.stderr)\n"
        "for number in range(3): log.write('x' * 100_000 + '\\n')"
    )
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, stderr=writing, timeout=20)
    os.close(writing)
    os.close(reading)
    assert ended.returncode == 0


def test_meterd_serves_without_a_log(tmp_path: Path) -> None:
    """And ends with the exit code that it means."""
    daemon = DaemonProcess(tmp_path)
    daemon.stop()
    with socket.create_server(("127.0.0.1", 0)) as free:
        bind = "127.0.0.1:{1}".format(*free.getsockname())
    environ = {"METERD_BIND": bind, "METERD_API_KEY": KEY, "METERD_DATA_DIR": str(daemon.data)}
    with Path("/dev/full").open("w") as full:
        process = subprocess.Popen(
            [sys.executable, "-m", "meterd", "serve", "--config", str(daemon.config)],
            cwd=ROOT,
            stderr=full,
            env={**os.environ, **environ},
        )
    while not is_alive(f"http://{bind}/healthz"):
        assert process.poll() is None, "it ended"
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=15) == 0


def is_alive(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False
