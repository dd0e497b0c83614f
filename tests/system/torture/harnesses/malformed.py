"""Malformed requests at both lanes of a front door: ``tests/edge/malformed.py``."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import TYPE_CHECKING, Final

import msgspec

from tests.daemon_process import ROOT
from tests.system.torture.harness import Harness, Tally

if TYPE_CHECKING:
    from tests.system.torture.harness import Run

AT_ONCE: Final = 2
# A mutation goes to the front door with the plain lane, and to the one without.
LANES: Final = 2
# What a child uses as seeds is far from what the other one does.
APART: Final = 1 << 40


def run(run: Run) -> Tally:
    tally, lock = Tally(), Lock()

    def send(number: int) -> None:
        mutations = -(-run.count // (AT_ONCE * LANES))
        command = [sys.executable, "-m", "tests.edge.malformed", str(mutations)]
        mutant = [] if run.mutant is None else [run.mutant]
        with subprocess.Popen(
            [*command, str(run.seed + number * APART), *mutant], cwd=ROOT, stdout=subprocess.PIPE
        ) as child:
            assert child.stdout is not None
            for line in child.stdout:
                with lock:
                    said = msgspec.json.decode(line)
                    tally.add(Tally(**{**said, "seen": Counter(said["seen"])}))
                    run.done(tally.done)
        assert child.returncode == 0, "the child says on stderr what it failed on"

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(send, range(AT_ONCE)))
    return tally


HARNESS: Final = Harness(
    name="malformed",
    unit="malformed requests",
    promise="both lanes answer alike, refuse what has two readings, store what they acknowledge",
    short=20_000,
    long=1_000_000,
    run=run,
    mutants=("coding_beside_length", "no_framing_check"),
    mutant_count=8_000,
)
