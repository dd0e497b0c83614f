"""meterd with one promise taken out. A harness that does not notice proves nothing.

Each mutant is applied for good, by patching, in a process of its own: a forked child, or a daemon
started with `python -m tests.system.torture.mutants NAME serve ...`.
"""

from __future__ import annotations

import functools
import math
import sys
from typing import TYPE_CHECKING, Any, Final

from meterd.domain.deliveries import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

MUTANTS: Final[dict[str, Callable[[], None]]] = {}


def mutant(change: Callable[[], None]) -> Callable[[], None]:
    """Names a mutant after its function, whose docstring says what was taken out."""
    MUTANTS[change.__name__] = change
    return change


def patch(where: object, name: str, value: object) -> None:
    """For as long as this process lives."""
    assert hasattr(where, name), f"there is no {name} to be mutated"
    setattr(where, name, value)


def apply(name: str | None) -> None:
    """Makes this process that mutant; None leaves meterd as it is."""
    if name is not None:
        MUTANTS[name]()


@mutant
def no_deadline() -> None:
    """An attempt may take as long as its receiver likes."""
    from meterd.edge import egress

    made = egress.Sender.__init__

    def patient(self: egress.Sender, client: Any, guard: Any, _: float) -> None:
        made(self, client, guard, math.inf)

    patch(egress.Sender, "__init__", patient)


@mutant
def no_answer_limit() -> None:
    """An answer may be as long as its receiver likes."""
    from meterd.edge import egress

    patch(egress, "ANSWER_BYTES_MAX", sys.maxsize)


@mutant
def broken_off_is_delivered() -> None:
    """An answer that broke off counts as one."""
    from meterd.edge import egress

    post = egress.Sender.post

    async def easy(self: egress.Sender, *request: Any) -> Outcome:
        outcome = await post(self, *request)
        broken = (outcome.error or "").startswith(("read ", "Parse Error", "socket hang up"))
        return Outcome() if broken else outcome

    patch(egress.Sender, "post", easy)


@mutant
def sync_off() -> None:
    """LMDB does not wait for the disk."""
    import lmdb

    from meterd.embedded import store

    patch(lmdb, "open", functools.partial(lmdb.open, sync=False))
    patch(store, "_SAFE_FLAGS", {})


@mutant
def failed_commit_counts() -> None:
    """What could not be committed is taken for written."""
    from meterd.domain.errors import CommitFailedError
    from meterd.embedded.store import Store

    write = Store.write

    def write_regardless(self: Store, work: Any) -> Any:
        try:
            return write(self, work)
        except CommitFailedError:
            return None

    patch(Store, "write", write_regardless)


def _main() -> None:
    from meterd.cli import main

    apply(sys.argv.pop(1))
    main()


if __name__ == "__main__":
    _main()
