"""meterd, but for a reload in which its loop hangs for ever.

``python -m tests.system.hanging_loop serve ...``
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from meterd.cli import main
from meterd.daemon import Daemon

if TYPE_CHECKING:
    from meterd.domain.config import Config


def hang(self: Daemon, config: Config) -> None:
    while True:
        signal.pause()


if __name__ == "__main__":
    Daemon.reconfigure = hang  # type: ignore[method-assign]
    main()
