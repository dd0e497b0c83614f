"""What parts of meterd do by themselves, within a process: no ceiling can be broken.

``python -m tests.benchmarks.ceilings NAME SECONDS FOLDER`` prints a Round as JSON.
"""

from __future__ import annotations

import subprocess
import sys
import time
from itertools import count, cycle
from pathlib import Path
from typing import TYPE_CHECKING, Final

import lmdb
import msgspec

from meterd.domain.events import Batch, UsageEvent, decode_batch, decode_event
from tests.benchmarks.plan import EVENT_TYPES, Errand, Plan
from tests.benchmarks.processes import SERVER_CORE, pinned
from tests.benchmarks.results import Round
from tests.benchmarks.traffic import requests_of
from tests.daemon_process import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_MAP_BYTES: Final = 8 << 30
_EVENT_BYTES: Final = 120  # about what a stored event takes with its metadata


def decoding_singles(_: Path) -> Iterator[int]:
    """The domain's decoder over the bodies of single events."""
    for body in cycle(_bodies(Plan(kind="single", connections=1))):
        assert isinstance(decode_event(body, EVENT_TYPES[0], EVENT_TYPES), UsageEvent)
        yield 1


def decoding_batches(_: Path) -> Iterator[int]:
    """The domain's decoder over batches of 1000."""
    for body in cycle(_bodies(Plan(kind="batch", connections=1, customers=300))):
        decoded = decode_batch(body, EVENT_TYPES, lenient=False)
        assert isinstance(decoded, Batch)
        yield len(decoded.events)


def appending(events: int, folder: Path) -> Iterator[int]:
    """LMDB alone: so many records in a synced transaction, in the order of their keys."""
    value = b"x" * _EVENT_BYTES
    numbers = count()
    with lmdb.open(str(folder), map_size=_MAP_BYTES, lib_version=0) as env:
        while True:
            with env.begin(write=True) as txn:
                for _ in range(events):
                    txn.put(next(numbers).to_bytes(16, "big"), value, append=True)
            yield events


CEILINGS: Final[dict[str, Callable[[Path], Iterator[int]]]] = {
    "decoding alone": decoding_singles,
    "decoding batches alone": decoding_batches,
    "LMDB alone, 64 in a transaction": lambda folder: appending(64, folder),
    "LMDB alone, 1000 in a transaction": lambda folder: appending(1000, folder),
}


def measure(name: str, seconds: float, folder: Path) -> Round:
    """In a process of its own on the servers' core."""
    command = [sys.executable, "-m", "tests.benchmarks.ceilings", name, str(seconds), str(folder)]
    out = subprocess.run(
        [*pinned(SERVER_CORE), *command], cwd=ROOT, stdout=subprocess.PIPE, check=True
    ).stdout
    return msgspec.json.decode(out, type=Round)


def _bodies(plan: Plan) -> list[bytes]:
    requests = requests_of(Errand("localhost:0", "key", plan))
    return [next(requests).data.partition(b"\r\n\r\n")[2] for _ in range(20)]


def _run(steps: Iterator[int], seconds: float) -> Round:
    next(steps)  # sets everything up
    began, cpu_began = time.perf_counter(), time.process_time()
    events = 0
    while time.perf_counter() - began < seconds:
        events += next(steps)
    took, cpu = time.perf_counter() - began, time.process_time() - cpu_began
    return Round(events / took, cpu / events * 1e6)


if __name__ == "__main__":
    _, name, seconds, folder = sys.argv
    Path(folder).mkdir(parents=True, exist_ok=True)
    found = _run(CEILINGS[name](Path(folder)), float(seconds))
    sys.stdout.buffer.write(msgspec.json.encode(found))
