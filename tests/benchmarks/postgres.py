"""A PostgreSQL of the benchmark's own: a fresh cluster behind a unix socket, ended with the run."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from tests.benchmarks.processes import SERVER_CORE, STOP_S, StartError, pinned

if TYPE_CHECKING:
    from collections.abc import Iterator

START_S: Final = 20.0
# Durable as it comes; the memory that its manual gives a server of its own, and fewer checkpoints.
OPTIONS: Final = {
    "listen_addresses": "",
    "fsync": "on",
    "synchronous_commit": "on",
    "shared_buffers": "256MB",
    "max_wal_size": "2GB",
}


class Cluster(msgspec.Struct, frozen=True):
    """A running one, as asyncpg is told of it."""

    url: str
    pid: int


def binary(name: str) -> str | None:
    """The path of one of PostgreSQL's programs; Debian keeps them off the PATH."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return shutil.which(name) or shutil.which(name, path=os.pathsep.join(map(str, versions)))


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """A fresh cluster in the folder. Raises StartError with the reason where there is none."""
    initdb, postgres = binary("initdb"), binary("postgres")
    if initdb is None or postgres is None:
        raise StartError("no initdb and postgres here")
    owner = _owner()
    # A socket's path may have 107 bytes, so it does not go into the folder, which may be deep.
    with tempfile.TemporaryDirectory(prefix="bench-") as socket_folder:
        data = folder / "cluster"
        data.mkdir(mode=0o700)
        for place in (data, Path(socket_folder)):
            if owner:
                os.chown(place, owner["user"], owner["group"])
        made = subprocess.run(
            [
                initdb,
                "--pgdata",
                data,
                "--username",
                "bench",
                "--auth",
                "trust",
                "--no-instructions",
            ],
            capture_output=True,
            text=True,
            cwd=data,
            **owner,
        )
        if made.returncode != 0:
            raise StartError(f"initdb failed: {(made.stderr.strip() or '?').splitlines()[-1]}")
        options = [f"--{name}={value}" for name, value in OPTIONS.items()]
        with (
            (folder / "postgres.log").open("w") as log,
            subprocess.Popen(
                [*pinned(SERVER_CORE), postgres, "-D", data, "-k", socket_folder, *options],
                stdout=log,
                stderr=log,
                cwd=data,
                **owner,
            ) as process,
        ):
            try:
                _wait_until_ready(process, Path(socket_folder), folder / "postgres.log")
                yield Cluster(f"postgresql://bench@/postgres?host={socket_folder}", process.pid)
                process.send_signal(signal.SIGINT)  # its fast shutdown
                process.wait(timeout=STOP_S)
            finally:
                process.kill()


def _owner() -> dict[str, Any]:
    """Who it runs as, for subprocess: PostgreSQL refuses to be root."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _wait_until_ready(process: subprocess.Popen[bytes], socket_folder: Path, log: Path) -> None:
    give_up_at = time.monotonic() + START_S
    while "ready to accept connections" not in log.read_text():
        if process.poll() is not None or time.monotonic() > give_up_at:
            raise StartError(f"postgres does not start: {log.read_text()[-200:]}")
        time.sleep(0.05)
