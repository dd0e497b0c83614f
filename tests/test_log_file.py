"""Log lines are written whole, and where they cannot be nothing else happens."""

from __future__ import annotations

import itertools
import os
import pty
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from meterd import log_file
from meterd.log_file import WINDOW_S, LogFile
from tests.daemon_process import KEY, ROOT, DaemonProcess

LINE = "x" * 299 + "\n"
CTRL_S, CTRL_Q = b"\x13", b"\x11"


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


def lines_read(reading: int) -> list[str]:
    """What is in there now."""
    os.set_blocking(reading, False)
    read = b""
    while data := _more(reading):
        read += data
    return read.decode().splitlines()


def _more(reading: int) -> bytes:
    try:
        return os.read(reading, 65536)
    except BlockingIOError:
        return b""


def test_a_reader_that_hangs_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pipe is full and stays open: a thousand lines are lost, in the patience that one gets.
    Whoever reads again gets whole lines, and how many there were is known until it does.
    """
    monkeypatch.setattr(log_file, "PATIENCE_S", 0.05)
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stderr:
        log = LogFile(stderr)
        began_at = time.monotonic()
        written = 0
        for _ in range(1000):
            log.write(LINE)
            written += not log.lost
        assert time.monotonic() - began_at < 5
        assert (log.lost, os.get_blocking(writing)) == (1000 - written, True)
        assert lines_read(reading) == [LINE.strip()] * written
        log.write(LINE)
        assert (log.lost, lines_read(reading)) == (0, [LINE.strip()])
    os.close(reading)


def test_a_long_line_is_cut_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A traceback may be longer than what a pipe has room for."""
    monkeypatch.setattr(log_file, "PATIENCE_S", 0.05)
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stderr:
        log = LogFile(stderr)
        log.write("y" * 100_000 + "\n")
        assert log.lost == 1
        [cut] = lines_read(reading)
        assert set(cut) == {"y"}
        log.write("whole\n")
        assert lines_read(reading) == ["", "whole"]
    os.close(reading)


def test_a_slow_reader_loses_nothing() -> None:
    """As long as it does not keep everything waiting."""
    reading, writing = os.pipe()
    read = bytearray()

    def read_all() -> None:
        while data := os.read(reading, 4096):
            read.extend(data)

    reader = threading.Thread(target=read_all)
    reader.start()
    with os.fdopen(writing, "w") as stderr:
        log = LogFile(stderr)
        for _ in range(5000):
            log.write(LINE)
    reader.join()
    os.close(reading)
    assert (log.lost, len(read)) == (0, 5000 * len(LINE))


def test_patience_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the next window of time a reader is waited for again."""
    monkeypatch.setattr(log_file, "PATIENCE_S", 0.05)
    now_s = itertools.chain([0.0, 1.0, 1.05, 2.0], itertools.repeat(WINDOW_S))
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stderr:
        log = LogFile(stderr, now_s.__next__)
        while not log.lost:  # waits until 1.05
            log.write(LINE)
        log.write(LINE)  # at 2, without
        reader = threading.Timer(0.01, lines_read, [reading])
        monkeypatch.setattr(log_file, "PATIENCE_S", 30.0)
        reader.start()
        log.write(LINE)
        reader.join()
        assert log.lost == 0
    os.close(reading)


@pytest.mark.parametrize("is_stopped", [True, False], ids=["stopped", "not shown"])
def test_a_terminal_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, *, is_stopped: bool) -> None:
    """By Ctrl-S, or since what shows it hangs; and what others share stays as it was."""
    monkeypatch.setattr(log_file, "PATIENCE_S", 0.05)
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as stderr:
        if is_stopped:
            os.write(ours, CTRL_S)
        log = LogFile(stderr)
        for _ in range(1000):
            log.write(LINE)
        assert log.lost
        assert os.get_blocking(theirs)
        lines_read(ours)
        os.write(ours, CTRL_Q)
        log.write("back\n")
        assert log.lost == 0
    os.close(ours)


@pytest.mark.parametrize("stderr", ["2> /dev/full", "2>&-", "<&- >&- 2>&-"])
def test_meterd_serves_without_a_log(tmp_path: Path, stderr: str) -> None:
    """Also where nobody has opened one, and then no file of meterd's is in its place; and ends with
    the exit code that it means.
    """
    daemon = DaemonProcess(tmp_path)
    daemon.stop()
    with socket.create_server(("127.0.0.1", 0)) as free:
        bind = "127.0.0.1:{1}".format(*free.getsockname())
    environ = {"METERD_BIND": bind, "METERD_API_KEY": KEY, "METERD_DATA_DIR": str(daemon.data)}
    command = shlex.join(daemon.command())
    process = subprocess.Popen(
        ["sh", "-c", f"exec {command} {stderr}"], cwd=ROOT, env={**os.environ, **environ}
    )
    while not is_alive(f"http://{bind}/healthz"):
        assert process.poll() is None, "it ended"
    if "&-" in stderr:
        assert Path(f"/proc/{process.pid}/fd/2").readlink() == Path(os.devnull)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=15) == 0


def is_alive(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False
