"""meterd over a disk that takes its time for each transaction: METERD_DISK_SECONDS of it.

``python -m tests.system.slow_disk serve ...``
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Final, TypeVar

from meterd.cli import main
from meterd.embedded.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable

    from meterd.embedded.transaction import Transaction

T = TypeVar("T")

TAKES_SECONDS: Final = "METERD_DISK_SECONDS"
_write = Store.write


def slowly(store: Store, work: Callable[[Transaction], T]) -> T:
    time.sleep(float(os.environ[TAKES_SECONDS]))
    return _write(store, work)


if __name__ == "__main__":
    Store.write = slowly  # type: ignore[method-assign, assignment]
    main()
