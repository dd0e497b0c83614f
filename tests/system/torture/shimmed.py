"""A process whose disk is in our hands: ``faultshim.c`` stands between, and is spoken to here.

What has to be preloaded cannot be had in a process that runs already, so a harness runs its
``torture`` in one of its own, which does all the forking (``run_shimmed``).
"""

from __future__ import annotations

import ctypes
import importlib
import os
import shutil
import subprocess
import sys
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from tests.system.torture import mutants
from tests.system.torture.harness import Run, Tally

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT: Final = Path(__file__).parent.parent.parent.parent
_SOURCE: Final = Path(__file__).with_name("faultshim.c")
FOR_EVER: Final = -1


class How(IntEnum):
    """What is done at an operation that is hit."""

    FAIL = 0
    DO_AND_FAIL = 1
    HALF = 2
    KILL_BEFORE = 3
    KILL_HALF_WAY = 4
    KILL_AFTER = 5


KILLS: Final = (How.KILL_BEFORE, How.KILL_HALF_WAY, How.KILL_AFTER)


class Shim:
    """The shim in this process; it does nothing until it is told which folder to watch."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None)
        self._library.fault_room.argtypes = [ctypes.c_longlong]
        self._library.fault_arm.argtypes = [
            ctypes.c_long,
            ctypes.c_long,
            ctypes.c_int,
            ctypes.c_int,
        ]
        self._library.fault_mark.argtypes = [ctypes.c_uint64]
        self._library.fault_last.restype = ctypes.c_char_p

    def watch(self, folder: Path) -> None:
        """Operations on what lies in there are counted from now on."""
        self._library.fault_watch(os.fsencode(folder))

    def arm(self, first: int, count: int, how: How, error: int = 0) -> None:
        """The operations from the first of these on, counted from now: the first is number 1."""
        self._library.fault_arm(first, count, how, error)

    def disarm(self) -> None:
        self._library.fault_arm(0, 0, 0, 0)

    def room(self, bytes_left: int) -> None:
        """What ``statvfs`` shall say is left on the disk."""
        self._library.fault_room(bytes_left)

    def seen(self) -> int:
        """How many operations there were since it was armed."""
        return int(self._library.fault_seen())

    def hits(self) -> int:
        """How many of these were hit."""
        return int(self._library.fault_hits())

    def last(self) -> str:
        """Which operation on which file was hit first: ``sync store/data.mdb``."""
        return os.fsdecode(self._library.fault_last())

    def record(self, file: Path | None) -> None:
        """All operations and marks go there from now on."""
        self._library.fault_record(b"" if file is None else os.fsencode(file))

    def mark(self, number: int) -> None:
        self._library.fault_mark(number)


def hindrance() -> str | None:
    """Why it cannot be had on this machine, if it cannot."""
    if sys.platform != "linux":
        return "the shim speaks to Linux"
    return None if shutil.which("gcc") else "gcc is missing: it compiles tests/system/torture"


def run_shimmed(run: Run, module: str) -> Tally:
    """Runs that module's ``torture`` in a process with the shim, as the run's mutant."""
    library = run.folder / "faultshim.so"
    compiler = ["gcc", "-O2", "-shared", "-fPIC", "-o", str(library), str(_SOURCE), "-ldl"]
    subprocess.run(compiler, check=True)
    told = {"count": run.count, "seed": run.seed, "folder": str(run.folder), "mutant": run.mutant}
    process = subprocess.Popen(
        [sys.executable, "-m", __name__, module, msgspec.json.encode(told).decode()],
        cwd=ROOT,
        # The order of sets too is the same each time.
        env={**os.environ, "LD_PRELOAD": str(library), "PYTHONHASHSEED": "0"},
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    with process, process.stdout as answers:
        tally = None
        for line in answers:
            answer = msgspec.json.decode(line, type=int | Tally, dec_hook=made_of)
            if isinstance(answer, Tally):
                tally = answer
            else:
                run.done(answer)
    assert process.returncode == 0, f"{module} ended with {process.returncode}"
    assert tally is not None, f"{module} said nothing"
    return tally


def made_of(kind: type[Any], found: Any) -> Any:
    """For msgspec: a Path from text, a Counter from an object."""
    return kind(found)


def _tell(answer: int | Tally) -> None:
    print(msgspec.json.encode(answer).decode(), flush=True)


def _main() -> None:
    module, told = sys.argv[1:]
    run = msgspec.json.decode(told, type=Run, dec_hook=made_of)
    run = msgspec.structs.replace(run, done=_tell)
    torture: Callable[[Run], Tally] = importlib.import_module(module).torture
    mutants.apply(run.mutant)
    _tell(torture(run))


if __name__ == "__main__":
    _main()
