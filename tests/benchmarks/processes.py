"""The processes of a benchmark: pinned to a core, started, reckoned up, ended."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from tests.benchmarks.load import BEGUN
from tests.benchmarks.plan import Errand, Outcome
from tests.daemon_process import KEY, ROOT, surroundings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.benchmarks.plan import Plan

SERVER_CORE: Final = 0
LOAD_CORE: Final = 1
STOP_S: Final = 20.0
_TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")


class StartError(Exception):
    """A server did not start; the message is the last that it said."""


class Memory(msgspec.Struct, frozen=True):
    """Resident megabytes: all, and without the pages of files, which the kernel takes back."""

    resident_mb: float
    anonymous_mb: float


class Load:
    """A load client at work."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        """Returns when it has begun. Raises StartError."""
        self._process = process
        assert process.stdout is not None
        if process.stdout.readline().strip() != BEGUN.encode():
            raise StartError("the load client did not begin")

    def outcome(self) -> Outcome:
        """Waits for its end."""
        assert self._process.stdout is not None
        text = self._process.stdout.read()
        if self._process.wait() != 0:
            raise StartError(f"the load client ended with {self._process.returncode}")
        return msgspec.json.decode(text, type=Outcome)

    def stop(self) -> Outcome:
        """Ends it early; what came until now."""
        self._process.send_signal(signal.SIGTERM)
        return self.outcome()


class Server:
    """A server that is running: one process, or with others that it stands on."""

    def __init__(
        self, process: subprocess.Popen[str], url: str, others: Sequence[int] = ()
    ) -> None:
        self.process = process
        self.url = url
        self._pids = (process.pid, *others)

    def step(self, seconds: float) -> None:
        """Sets the clock of a stepped meterd forward."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{seconds}\n")
        self.process.stdin.flush()

    def cpu_seconds(self) -> float:
        """User and system time of its processes until now, of all their children too."""
        return cpu_seconds(self._pids)

    def memory(self) -> Memory:
        return memory(self.process.pid)

    def load(self, plan: Plan) -> Outcome:
        with self.loading(plan) as load:
            return load.outcome()

    @contextmanager
    def loading(self, plan: Plan) -> Iterator[Load]:
        """The load at work within; ``outcome`` or ``stop`` must be called."""
        with subprocess.Popen(
            [*pinned(LOAD_CORE), sys.executable, "-m", "tests.benchmarks.load"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdin is not None
            errand = Errand(self.url.removeprefix("http://"), KEY, plan)
            process.stdin.write(msgspec.json.encode(errand))
            process.stdin.close()
            process.stdin = None
            try:
                yield Load(process)
            finally:
                process.kill()


def pinned(core: int) -> list[str]:
    """What to put before a command to keep it on that core, if there are several and taskset."""
    several = (os.cpu_count() or 1) > 1 and shutil.which("taskset")
    return ["taskset", "-c", str(core)] if several else []


def python(module: str, *arguments: str) -> list[str]:
    """The command that runs a server of ours."""
    return [sys.executable, "-m", f"tests.benchmarks.servers.{module}", *arguments]


@contextmanager
def started(
    command: Sequence[str],
    *,
    environ: dict[str, str] | None = None,
    others: Sequence[int] = (),
    reads_log: bool = False,
) -> Iterator[Server]:
    """A server that prints its URL first and ends with its stdin. Raises StartError.

    With ``reads_log`` the caller reads its stderr, or it will stand still.
    """
    with subprocess.Popen(
        [*pinned(SERVER_CORE), *command],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE if reads_log else None,
        text=True,
        env={**surroundings(), "BENCHMARK_KEY": KEY, **(environ or {})},
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            url = process.stdout.readline().strip()
            if not url.startswith("http://"):
                raise StartError(f"{command[-1]} did not start: {url or 'see above'}")
            yield Server(process, url, others)
            process.stdin.close()
            process.stdin = None
            process.wait(timeout=STOP_S)
        finally:
            process.kill()


def cpu_seconds(pids: Sequence[int]) -> float:
    """Of these processes and of their descendants, living and waited for."""
    parents, spent = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue  # it has ended meanwhile; its parent has its time
            fields = stat.rpartition(")")[2].split()
            parents[int(entry.name)] = int(fields[1])
            spent[int(entry.name)] = sum(map(int, fields[11:15]))
    family = set(pids)
    while grown := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= grown
    return sum(spent.get(pid, 0) for pid in family) * _TICK_S


def memory(pid: int) -> Memory:
    status = Path(f"/proc/{pid}/status").read_text()

    def megabytes(name: str) -> float:
        return int(status.split(f"{name}:")[1].split()[0]) / 1024

    return Memory(megabytes("VmRSS"), megabytes("RssAnon"))
