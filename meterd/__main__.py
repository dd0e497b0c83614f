"""The command ``meterd`` from its first moment on, and how it ends when it is interrupted.

What it is made of takes half a second to import. Until that is done nothing has begun, and a signal
ends it at once; from then on it unwinds what a command has begun, and ``serve`` has its own way to
stop. Nothing that takes time may be imported here before the signals are seen to.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, Final, NoReturn

if TYPE_CHECKING:
    from types import FrameType

_INTERRUPTS: Final = (signal.SIGINT, signal.SIGTERM)


def main() -> None:
    """Ends with what the command ended with; interrupted, with 130 (SIGINT) or 143 (SIGTERM), as
    shells count. ``serve`` was told to stop: 0, also where it had not begun.
    """
    serves = sys.argv[1:2] == ["serve"]
    _stand_in_for_closed(serves)
    if getattr(sys, "frozen", False):  # the single binary, as PyInstaller says it
        from meterd.frozen import settle  # noqa: PLC0415 -- nobody else has a use for it

        settle()
    _on_interrupts(_stop_at_once if serves else _end_at_once)
    if serves:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # what it is to read again it has not read yet
    from meterd.cli import main as run  # noqa: PLC0415 -- takes half a second

    if not serves:
        _on_interrupts(_unwind)
        _on(signal.SIGHUP, _unwind)  # the terminal is gone, and with it whoever waits
    try:
        run(prog_name="meterd")
    finally:
        _on_interrupts(signal.SIG_IGN)  # it has ended, and has said with what


def _stand_in_for_closed(serves: bool) -> None:
    """What is opened next has the number of what whoever started this has closed: the store would
    be stderr, and get what is said there. A command whose answer nobody can get fails when it
    writes; ``serve`` has none.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            access = os.O_RDONLY if name == "stdout" and not serves else os.O_RDWR
            assert os.open(os.devnull, access) == descriptor, "it is the lowest that is free"
            os.set_inheritable(descriptor, True)
            mode = "r" if descriptor == 0 else "w"
            setattr(sys, name, os.fdopen(descriptor, mode, closefd=False))


def _on_interrupts(act: signal.Handlers | signal._HANDLER) -> None:
    for number in _INTERRUPTS:
        _on(number, act)


def _on(number: signal.Signals, act: signal.Handlers | signal._HANDLER) -> None:
    if signal.getsignal(number) is not signal.SIG_IGN:  # whoever started it wants it so
        signal.signal(number, act)


def _stop_at_once(_number: int, _: FrameType | None) -> NoReturn:
    os._exit(0)


def _end_at_once(number: int, _: FrameType | None) -> NoReturn:
    os._exit(128 + number)


def _unwind(number: int, _: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    main()
