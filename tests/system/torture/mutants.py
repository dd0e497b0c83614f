"""meterd with one promise taken out. A harness that does not notice proves nothing.

Each mutant is a function in a file of ``mutated``, whose docstring says what was taken out. It is
applied for good, by patching, in a process of its own: a forked child, or a daemon started with
`python -m tests.system.torture.mutants NAME serve ...`.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

_FOLDER: Final = Path(__file__).parent / "mutated"
_MUTANTS: Final[dict[str, Callable[[], None]]] = {}


def mutant(change: Callable[[], None]) -> Callable[[], None]:
    """Names a mutant after its function."""
    assert change.__name__ not in _MUTANTS, f"two mutants have the name {change.__name__}"
    _MUTANTS[change.__name__] = change
    return change


def patch(where: object, name: str, value: object) -> None:
    """For as long as this process lives."""
    assert hasattr(where, name), f"there is no {name} to be mutated"
    setattr(where, name, value)


def module(name: str) -> Any:
    """One of meterd's, whatever of it is to be replaced."""
    return importlib.import_module(f"meterd.{name}")


def load() -> None:
    """Before a fork, so that children need not."""
    for path in sorted(_FOLDER.glob("[a-z]*.py")):
        importlib.import_module(f"tests.system.torture.mutated.{path.stem}")


def apply(name: str | None) -> None:
    """Makes this process that mutant; None leaves meterd as it is."""
    if name is not None:
        load()
        _MUTANTS[name]()


def _main() -> None:
    from meterd.cli import main
    from tests.system.torture import mutants  # not this module, which is __main__

    mutants.apply(sys.argv.pop(1))
    main()


if __name__ == "__main__":
    _main()
