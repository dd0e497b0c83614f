"""meterd with one promise taken out. A harness that does not notice proves nothing.

Each mutant is applied for good, by patching, in a process of its own: a forked child, or a daemon
started with `python -m tests.system.torture.mutants NAME serve ...`.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

MUTANTS: Final[dict[str, Callable[[], None]]] = {}


def mutant(change: Callable[[], None]) -> Callable[[], None]:
    """Names a mutant after its function, whose docstring says what was taken out."""
    MUTANTS[change.__name__] = change
    return change


def apply(name: str | None) -> None:
    """Makes this process that mutant; None leaves meterd as it is."""
    if name is not None:
        MUTANTS[name]()


def _main() -> None:
    from meterd.cli import main

    apply(sys.argv.pop(1))
    main()


if __name__ == "__main__":
    _main()
