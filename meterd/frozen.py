"""What only the single binary needs, which runs as two processes: one unpacks and waits, the other,
its child, is meterd.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
from typing import Final

_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h


def started_pid() -> int:
    """The process that a service manager has started and watches: this one, or of the single
    binary its parent. Sockets are not for that one: who unpacks passes them on in this one's name.
    """
    return os.getppid() if getattr(sys, "frozen", False) else os.getpid()


def settle() -> None:
    """Ends here where this is a worker of `meterd verify`, which the binary starts as itself.

    The one that unpacked passes signals on, but SIGKILL it cannot: meterd is then killed, too, or
    it would go on unseen and hold the data folder.
    """
    multiprocessing.freeze_support()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
