"""meterd with a listening socket as a service manager hands it over, which this process inherited.

``python -m tests.system.handed_over DESCRIPTOR serve ...``
"""

from __future__ import annotations

import os
import sys
from typing import Final

FIRST: Final = 3

if __name__ == "__main__":
    descriptor, *arguments = sys.argv[1:]
    if int(descriptor) != FIRST:
        os.dup2(int(descriptor), FIRST)
        os.close(int(descriptor))
    os.set_inheritable(FIRST, True)
    environ = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "http"}
    meterd = [sys.executable, "-m", "meterd", *arguments]
    # No shell: the process that is started is this one.
    os.execve(sys.executable, meterd, {**os.environ, **environ})  # noqa: S606
