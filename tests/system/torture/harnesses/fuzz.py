"""Coverage-guided fuzzing of everything that decodes bytes from outside: ``fuzzing/targets.py``."""

from __future__ import annotations

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from tests.daemon_process import ROOT
from tests.system.torture.harness import Harness, Tally

if TYPE_CHECKING:
    from tests.system.torture.harness import Run

NAMES: Final = ("event", "batch", "head", "key", "cursor", "signature")
# Each mutant, and whose promise it breaks.
MUTANTS: Final = {
    "no_utf8_check": "event",
    "coding_beside_length": "head",
    "key_with_a_tail": "key",
    "cursor_of_any_length": "cursor",
    "signature_begun": "signature",
}
AT_ONCE: Final = 2
_RUNS: Final = re.compile(rb"\nDone (\d+) in ")
_COVERED: Final = re.compile(rb" cov: (\d+) ")
_FOUND: Final = re.compile(rb"=== Uncaught Python exception: ===\s*(.*?)\n(?:==|MS:)", re.DOTALL)


def run(run: Run) -> Tally:
    """Of all targets together so many runs: an equal part for each."""
    tally = Tally()
    names = NAMES if run.mutant is None else (MUTANTS[run.mutant],)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for each in pool.map(lambda name: _fuzz(run, name), names):
            tally.add(each)
            run.done(tally.done)
    return tally


def _fuzz(run: Run, name: str) -> Tally:
    runs = -(-run.count // len(NAMES))
    command = [sys.executable, "-m", "tests.system.torture.fuzzing", name, str(runs)]
    mutant = [] if run.mutant is None else [run.mutant]
    folder = run.folder / name
    folder.mkdir()
    done = subprocess.run(
        [*command, str(run.seed & 0x7FFFFFFF or 1), str(folder), *mutant],
        cwd=ROOT,
        capture_output=True,
    )
    said = done.stderr
    tally = Tally()
    counted = _RUNS.findall(said)
    tally.done = int(counted[-1]) if counted else 0
    covered = _COVERED.findall(said)
    tally.seen[f"{name} covers"] = int(covered[-1]) if covered else 0
    if done.returncode != 0:
        crashes = [path.read_bytes()[:300] for path in folder.glob("crash-*")]
        found = _FOUND.search(done.stdout + said)
        why = found[1].decode(errors="replace")[:500] if found else said[-800:].decode("latin-1")
        tally.find(f"{name}: {crashes} {why}", wrong=1)
    return tally


def hindrance() -> str | None:
    return None if find_spec("atheris") else "there is no atheris for this Python or machine"


HARNESS: Final = Harness(
    name="fuzz",
    unit="runs of decoders",
    promise="whatever comes in is decoded the same by both lanes, or refused by name",
    # Some twenty seconds of each decoder on a slow machine.
    short=720_000,
    long=10_000_000,
    run=run,
    mutants=tuple(MUTANTS),
    mutant_count=300_000,
    hindrance=hindrance,
)
