"""The single binary, made by `make binary` and run where no Python is: in a bare Debian."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.daemon_process import ROOT, DaemonProcess
from tests.docs.reading import DOCS, blocks_of
from tests.receiver import Receiver
from tests.system.shipped import debian
from tests.system.shipped.job import does_its_job, reloads, stops, webhook_to
from tests.system.torture.hindered import skip_if

BYTES_MAX = 40 << 20
# Of a core's time. It is to be less than 1.5 s, and is on a quiet machine (docs/performance.md);
# beside other tests, which have its caches, up to twice as much.
START_SECONDS_MAX = 3.0
# $1 the bare root, $2 the binary, $3 what is seen as /srv.
BARE = """
mount --make-rprivate /
mount --bind "$1" "$1"
mount -t tmpfs -o size=200m tmpfs "$1/tmp"
mount -t proc proc "$1/proc"
mount --bind "$3" "$1/srv"
mount --bind "$2" "$1/usr/local/bin/meterd"
root=$1; shift 3
exec chroot "$root" env -i PATH=/usr/local/bin:/usr/bin:/bin "$@"
"""


class Bare:
    """A root without Python, and the binary in it."""

    def __init__(self, root: Path, binary: Path, folder: Path) -> None:
        self._places = [str(root), str(binary), str(folder)]
        (root / "usr/local/bin/meterd").touch()

    def command(self, *command: str) -> list[str]:
        return ["unshare", "--mount", "sh", "-ec", BARE, "sh", *self._places, *command]

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.command(*command), capture_output=True, text=True)


class BareDaemon(DaemonProcess):
    def __init__(self, folder: Path, bare: Bare, **given: Any) -> None:
        self._bare = bare
        super().__init__(folder, **given)

    def command(self) -> list[str]:
        environ = [f"METERD_API_KEY={self.key}", "METERD_DATA_DIR=/srv/data"]
        serve = ["meterd", "serve", "--config", "/srv/systemconfig.toml"]
        return self._bare.command(*environ, *serve)

    def start_seconds(self) -> float:
        """The processor's time until it served: of the one that unpacked, and of its child."""
        pids = [self.process.pid, int((self.data / "lock").read_text())]
        stats = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
        ticks = sum(int(one) for fields in stats for one in fields[11:13])  # utime, stime
        return ticks / os.sysconf("SC_CLK_TCK")

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """What was started is the one that unpacked; the daemon itself is its child."""
        held = self.data / "lock"
        pid = int(held.read_text() or 0) if held.exists() else 0
        code = super().stop(number)
        until = time.monotonic() + 10
        while pid and Path(f"/proc/{pid}").exists():
            assert time.monotonic() < until, "it goes on without the one that unpacked it"
            time.sleep(0.01)
        return code


@pytest.fixture(scope="module")
def binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    skip_if(debian.hindrance("unshare", "make"))
    folder = tmp_path_factory.mktemp("binary")
    places = [f"PYTHON={sys.executable}", f"BUILD={folder / 'build'}", f"DIST={folder}"]
    [block] = [one for one in blocks_of(DOCS / "running.md", "bash") if "make binary" in one.text]
    command = shlex.split(block.text, comments=True)
    made = subprocess.run([*command, *places], cwd=ROOT, capture_output=True, text=True)
    assert made.returncode == 0, made.stdout + made.stderr
    return folder / "meterd"


@pytest.mark.timeout(1200)
def test_the_binary_does_its_job_where_no_python_is(binary: Path, tmp_path: Path) -> None:
    """From a start over an empty folder to a verified webhook, kill -9, reload and verify."""
    assert binary.stat().st_size < BYTES_MAX
    root = debian.debian_in(tmp_path / "debian")
    bare = Bare(root, binary, tmp_path)
    assert bare.run("sh", "-c", "command -v python3 python").returncode == 127
    assert not list(root.glob("usr/lib*/**/libpython*"))
    told = bare.run("meterd", "--version")
    assert told.stdout.startswith("meterd "), told.stderr
    with Receiver() as receiver:
        daemon = BareDaemon(tmp_path, bare, webhooks=webhook_to(receiver))
        try:
            assert daemon.start_seconds() < START_SECONDS_MAX
            does_its_job(daemon, receiver)
            reloads(daemon, receiver)
            in_bare("healthcheck", bare, "--url", daemon.url)
            in_bare("verify", bare, "/srv/data", "--processes", "2")
            in_bare("backup", bare, "/srv/backup")
            stops(daemon)
        finally:
            daemon.stop(signal.SIGKILL)
    in_bare("verify", bare, "/srv/backup")


def in_bare(command: str, bare: Bare, *arguments: str) -> None:
    config = [] if command == "healthcheck" else ["--config", "/srv/systemconfig.toml"]
    environ = ["METERD_DATA_DIR=/srv/data", "LC_ALL=C.UTF-8"]
    done = bare.run(*environ, "meterd", command, *config, *arguments)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
