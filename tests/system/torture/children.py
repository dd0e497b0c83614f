"""Forked children that are told what to do, say what came of it, and may die of it."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

BROKEN: Final = 99  # what no child is meant to end with


class Ended(msgspec.Struct, frozen=True):
    """What a child said, and how it ended: ``killed`` by that signal, or with an exit code."""

    said: bytes
    exit_code: int
    killed: int = 0

    @property
    def is_killed(self) -> bool:
        return self.killed == signal.SIGKILL


class Voice:
    """Speaks to the parent: what was said is heard, whatever happens then."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def say(self, text: str) -> None:
        os.write(self._descriptor, f"{text}\n".encode())


def fork(work: Callable[[Voice], int], *, seconds: int = 20) -> Ended:
    """Runs the work in a child of this process; the exit code is what it returns.

    One that takes longer is killed by SIGALRM.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # a test runner may have its own
        signal.alarm(seconds)
        code = BROKEN
        try:
            code = work(Voice(writing))
        except BaseException:  # noqa: BLE001 - nothing may come out of here
            traceback.print_exc(file=sys.stderr)
        finally:
            os._exit(code)
    os.close(writing)
    said = bytearray()
    while heard := os.read(reading, 1 << 16):
        said += heard
    os.close(reading)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return Ended(bytes(said), BROKEN, os.WTERMSIG(status))
    return Ended(bytes(said), os.WEXITSTATUS(status))
