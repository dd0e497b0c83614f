"""Which harnesses there are: every file of ``harnesses`` that has a ``HARNESS``."""

from __future__ import annotations

import importlib
import os
import random
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.system.torture.harness import Harness

_FOLDER = Path(__file__).parent / "harnesses"
# Memory as a disk: what is killed and cut off here needs no real syncs to be slow.
_MEMORY = Path("/dev/shm")


def harnesses() -> list[Harness]:
    """All of them, by name."""
    names = sorted(path.stem for path in _FOLDER.glob("[a-z]*.py"))
    modules = (importlib.import_module(f"tests.system.torture.harnesses.{name}") for name in names)
    return [module.HARNESS for module in modules if hasattr(module, "HARNESS")]


def new_seed() -> int:
    """TORTURE_SEED, to do a run again; else a new one."""
    return int(os.environ.get("TORTURE_SEED") or random.SystemRandom().randrange(1 << 32))


@contextmanager
def empty_folder() -> Iterator[Path]:
    """In memory where that can be had; gone afterwards."""
    place = _MEMORY if os.access(_MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="meterd-torture-", dir=place) as folder:
        yield Path(folder)
