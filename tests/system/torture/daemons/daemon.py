"""meterd as it is, `meterd serve`, in a process of its own, but for the time of day.

Its clock is the machine's and an offset that the harness writes into a file that both have mapped,
so all daemons of a run, one after another, live in one time, which can be set forward.

Most of a start is Python reading the code: 0.75 s of 0.8. So one process reads it once, opens
nothing, and forks each daemon (``serve_forks``); some are started cold all the same.
"""

from __future__ import annotations

import json
import mmap
import os
import signal
import struct
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

import meterd.serving
from meterd.cli import main
from meterd.embedded import posting, pruning, recovery, sweeping
from meterd.embedded.store import Store
from meterd.work import clock, forgetter
from tests.system.torture import mutants
from tests.system.torture.disks.mounts import die_with_parent

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from meterd.embedded.transaction import Transaction

_OFFSET: Final = struct.Struct("=q")
# How late a step of the clock is noticed; meterd's own 15 s would outlive most daemons here.
_NAP_S: Final = 0.01
# There is little to recover from so short a life: in many transactions, to be killed between them.
_BLOCKS_AT_ONCE: Final = 20
# A record of the log at a time, and so long a rest that many daemons come to prune.
_PRUNED_AT_ONCE: Final = 1
_RESTS: Final = 12


class Order(msgspec.Struct, frozen=True):
    """How to start a daemon.

    ``post_s`` is what ``POST_SECONDS`` is: most live for less than it. ``disk_s`` is how long a
    transaction takes, half of it before it is on disk and half behind: a folder in memory is too
    quick to be caught in between.
    """

    config: str
    offset: str
    log: str
    post_s: float
    disk_s: float
    environ: dict[str, str]
    mutant: str | None = None


class Offset:
    """By how much the daemons' clock is ahead, in milliseconds; shared by all who map the file."""

    def __init__(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        os.ftruncate(descriptor, _OFFSET.size)
        self._memory = mmap.mmap(descriptor, _OFFSET.size)
        os.close(descriptor)

    def get(self) -> int:
        found: int = _OFFSET.unpack_from(self._memory)[0]
        return found

    def set(self, offset_ms: int) -> None:
        _OFFSET.pack_into(self._memory, 0, offset_ms)


class OffsetClock(clock.WallClock):
    """The machine's clock and the offset."""

    def __init__(self, offset: Offset) -> None:
        super().__init__()
        self._offset = offset

    def now_ms(self) -> int:
        return super().now_ms() + self._offset.get()


def serve(order: Order) -> NoReturn:
    """Becomes the daemon, and ends with its exit code."""
    log = os.open(order.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for descriptor, place in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(descriptor, place)
    os.environ.update(order.environ)
    mutants.apply(order.mutant)
    clock.NAP_SECONDS = _NAP_S  # type: ignore[misc]
    posting.POST_SECONDS = order.post_s  # type: ignore[misc]
    assert "_BLOCKS_AT_ONCE" in vars(recovery)
    vars(recovery)["_BLOCKS_AT_ONCE"] = _BLOCKS_AT_ONCE
    pruning.EVENTS_AT_ONCE = _PRUNED_AT_ONCE  # type: ignore[misc]
    sweeping.NAMES_AT_ONCE = _PRUNED_AT_ONCE  # type: ignore[misc]
    assert "_RESTS" in vars(forgetter)
    vars(forgetter)["_RESTS"] = _RESTS
    _slow_down(order.disk_s)
    offset = Offset(Path(order.offset))
    vars(meterd.serving)["WallClock"] = partial(OffsetClock, offset)
    sys.argv = ["meterd", "serve", "--config", order.config]
    main()
    raise AssertionError("click ends the process")


def _slow_down(disk_s: float) -> None:
    write = Store.write

    def write_slowly(store: Store, work: Callable[[Transaction], Any]) -> Any:
        time.sleep(disk_s / 2)
        written = write(store, work)
        time.sleep(disk_s / 2)
        return written

    Store.write = write_slowly  # type: ignore[method-assign,assignment]


def serve_forks() -> None:
    """An order a line on stdin: an Order starts a daemon and is answered with its process id;
    an empty one waits for its end and is answered with its exit code.
    """
    daemon = 0
    for line in sys.stdin:
        if line == "\n":
            _, status = os.waitpid(daemon, 0)
            daemon = 0
            print(os.waitstatus_to_exitcode(status), flush=True)
            continue
        order = msgspec.json.decode(line, type=Order)
        daemon = os.fork()
        if not daemon:
            _leave_with(order)
        print(daemon, flush=True)
    if daemon:  # the harness is gone
        os.kill(daemon, signal.SIGKILL)


def _leave_with(order: Order) -> NoReturn:
    """The forked daemon never goes back into the loop of the process that it is a copy of."""
    code = 1
    try:
        die_with_parent()
        serve(order)
    except SystemExit as told:
        code = told.code if isinstance(told.code, int) else 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        serve(msgspec.convert(json.loads(sys.argv[1]), Order))
    serve_forks()
