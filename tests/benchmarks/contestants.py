"""Who is measured, how each is started, and why one is not there."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final, NamedTuple

from tests.benchmarks.postgres import cluster
from tests.benchmarks.processes import StartError, python, started
from tests.daemon_process import KEY, ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from tests.benchmarks.processes import Server

# What stays from run to run: packages of npm, results. It ignores itself, as mypy's folder does.
CACHE: Final = ROOT / ".bench"
EXPRESS: Final = "express@5"

CONFIG: Final = """
periods = ["hourly", "daily", "weekly", "monthly"]
grace = "{grace}"
log_level = "{log_level}"
[events."api.calls"]
op = "sum"
[events."storage.bytes"]
op = "max"
[events."response.time.ms"]
op = "avg"
[events."test.count"]
op = "count"
[events."test.last"]
op = "last"
[server]
bind = "127.0.0.1:0"
"""


class Contestant(NamedTuple):
    """One that takes loads. Those of the same ``start`` share a process.

    ``keeps`` says what of an event is there when it is acknowledged.
    """

    name: str
    keeps: str
    start: Callable[[Path], AbstractContextManager[Server]]
    by_quart: bool = False


@contextmanager
def meterd(
    folder: Path, *, grace: str = "1d", log_level: str = "warning", reads_log: bool = False
) -> Iterator[Server]:
    """A meterd over the folder, with a clock that can be set forward.

    With a day of grace no period closes during a load, whatever the time of day is.
    """
    config = write_config(folder, grace=grace, log_level=log_level)
    with started(
        python("meterd_stepped", str(config)), environ=environ(folder), reads_log=reads_log
    ) as server:
        yield server


def write_config(folder: Path, *, grace: str = "1d", log_level: str = "warning") -> Path:
    """Writes meterd's configuration into the folder."""
    path = folder / "systemconfig.toml"
    path.write_text(CONFIG.format(grace=grace, log_level=log_level))
    return path


def environ(folder: Path) -> dict[str, str]:
    """What meterd is told beside its configuration."""
    return {"METERD_API_KEY": KEY, "METERD_DATA_DIR": str(folder / "data")}


def _trio_alone(_: Path) -> AbstractContextManager[Server]:
    return started(python("trio_alone"))


def _hypercorn_alone(_: Path) -> AbstractContextManager[Server]:
    return started(python("hypercorn_alone"))


@contextmanager
def _express(_: Path) -> Iterator[Server]:
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise StartError("no node and npm here")
    place = CACHE / "npm"
    if not (place / "node_modules" / "express").is_dir():
        place.mkdir(parents=True, exist_ok=True)
        asked = [npm, "install", "--no-audit", "--no-fund", "--prefix", str(place), EXPRESS]
        made = subprocess.run(asked, capture_output=True, text=True)
        if made.returncode != 0:
            raise StartError(f"npm cannot install {EXPRESS}: {made.stderr.strip()[-200:]}")
    known = {"NODE_PATH": str(place / "node_modules"), "NODE_ENV": "production"}
    script = ROOT / "tests" / "benchmarks" / "servers" / "express_service.js"
    with started([node, str(script)], environ=known) as server:
        yield server


@contextmanager
def _sqlite(folder: Path) -> Iterator[Server]:
    _require("fastapi", "uvicorn")
    with started(python("fastapi_sqlite", str(folder / "events.sqlite"))) as server:
        yield server


@contextmanager
def _postgres(folder: Path) -> Iterator[Server]:
    _require("fastapi", "uvicorn", "asyncpg")
    with (
        cluster(folder) as found,
        started(python("fastapi_postgres", found.url), others=[found.pid]) as server,
    ):
        yield server


def _require(*modules: str) -> None:
    """Raises StartError unless these are installed."""
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise StartError(f"not installed: {', '.join(missing)} (the extra named bench)")


FAST_LANE: Final = "meterd"
QUART_LANE: Final = "meterd, by Quart"
HYPERCORN_ALONE: Final = "hypercorn and Quart alone"
CONTESTANTS: Final = (
    Contestant(FAST_LANE, "on disk", meterd),
    Contestant(QUART_LANE, "on disk", meterd, by_quart=True),
    Contestant("trio alone", "nothing", _trio_alone),
    Contestant(HYPERCORN_ALONE, "nothing", _hypercorn_alone),
    Contestant("Express", "in memory", _express),
    Contestant("FastAPI over SQLite", "on disk", _sqlite),
    Contestant("FastAPI over PostgreSQL", "on disk", _postgres),
)


def open_cache() -> Path:
    """The folder that stays, made where it is missing."""
    CACHE.mkdir(exist_ok=True)
    (CACHE / ".gitignore").write_text("*\n")
    return CACHE


def make_passable(folder: Path) -> None:
    """Lets PostgreSQL's own user reach what lies in the folder."""
    if os.geteuid() == 0:
        folder.chmod(0o711)
