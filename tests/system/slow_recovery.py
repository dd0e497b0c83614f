"""meterd, but for a recovery that takes 0.2 s for each append.

``python -m tests.system.slow_recovery serve ...``
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from meterd.cli import main
from meterd.embedded import recovery

if TYPE_CHECKING:
    from meterd.embedded.recovery import Posted
    from meterd.embedded.transaction import Transaction

APPEND_SECONDS: Final = 0.2
_post_some = recovery.post_some


def slowly(txn: Transaction, parts: int) -> Posted:
    time.sleep(APPEND_SECONDS)
    return _post_some(txn, parts)


if __name__ == "__main__":
    recovery._BLOCKS_AT_ONCE = 1  # type: ignore[misc]
    recovery.post_some = slowly
    main()
