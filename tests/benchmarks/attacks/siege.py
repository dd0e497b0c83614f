"""A real meterd under one attack after another, and what an honest client notices: the table.

The daemon has one core to itself, as clients are on other machines. The attacker has the other, and
the honest client too, to which it gives way. Calm and attack take turns on the same daemon, and a
ratio is of the p99 under attack to that of the calm just before.
Each attack must have happened: what it had to reach is compared with what the attacker counted.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import httpx
import msgspec
from rich.table import Table

from tests.benchmarks.attacks import attacker, honest
from tests.benchmarks.attacks.attacker import Blow
from tests.benchmarks.attacks.honest import Fare
from tests.benchmarks.attacks.weapons import ATTACKS
from tests.benchmarks.pacing import percentile
from tests.benchmarks.processes import LOAD_CORE, SERVER_CORE, cpu_seconds, pinned
from tests.daemon_process import KEY, ROOT, DaemonProcess
from tests.edge.encrypted import certificate_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from tests.benchmarks.attacks.weapons import Attack

RATE: Final = 200.0
# The attack is well under way when the honest client is looked at, and goes on behind its end.
LEAD_S: Final = 2.0
# What ends the attack is none, and some take so long to be heard of.
BEHIND_S: Final = 4.0
WARM_UP_S: Final = 1.0
# What was attacked may still be lingering over closed connections.
SETTLE_S: Final = 2.5
SECONDS: Final = 4.0
# An honest client's p99 to that in calm stays under this; of so many rounds it is the median.
RATIO_MAX: Final = 2.0
ROUNDS_MIN: Final = 3
# Of two that want the core, this one has nearly all of it; needs root. Not real-time priority: its
# slices are 100 ms long, and a twentieth of each second is taken from it in one piece.
PREFERRED: Final = ("nice", "-n", "-15")
# The attacker, which shares its core with the honest client, is not what that one waits for.
GIVING_WAY: Final = ("nice", "-n", "5")
# Where each session has its share of the cores, priorities count only within it.
SESSION: Final = Path("/proc/self/autogroup")
# For whoever reads as many as may be asked for, and more: where such an answer ends is counted.
EVENTS_STORED: Final = 150_000
T = TypeVar("T")


class Round(msgspec.Struct, frozen=True):
    """One calm and one attack; how busy the daemon's core was with the daemon in each."""

    calm: Fare
    attacked: Fare
    blow: Blow
    peak_mb: float
    seconds: float
    calm_busy: float
    attacked_busy: float

    @property
    def ratio(self) -> float:
        return p99(self.attacked) / p99(self.calm)

    def shortfalls(self, attack: Attack) -> list[str]:
        """What the attack had to reach and did not."""
        reached = {**self.blow.got, **msgspec.structs.asdict(self.blow)}
        return [
            f"{what}: {reached.get(what, 0)} of {least}"
            for what, least in attack.least.items()
            if reached.get(what, 0) < least
        ]


class PinnedDaemon(DaemonProcess):
    """On the server's core, threads and all."""

    def __init__(self, folder: Path, before: Sequence[str], types: str) -> None:
        self._before = [*before, *pinned(SERVER_CORE)]
        super().__init__(folder, event_types=types, options='grace = "1d"\nlog_level = "info"')

    def command(self) -> list[str]:
        return [*self._before, *super().command()]


def p99(fare: Fare) -> float:
    return percentile(sorted(fare.took_ms), 0.99)


def measure(
    folder: Path,
    names: Sequence[str],
    *,
    seconds: float,
    rounds: int,
    undisturbed: bool,
    tell: Callable[[str], None],
) -> dict[str, list[Round]]:
    """Each attack on a daemon of its own.

    ``undisturbed``: what else the machine does takes no time from the daemon and the honest client.
    """
    before = PREFERRED if undisturbed else ()
    if undisturbed and SESSION.exists():
        SESSION.write_text("-20")
    found: dict[str, list[Round]] = {}
    for name in names:
        place = folder / name.replace(" ", "-").replace(",", "")
        place.mkdir()
        with _daemon(place, ATTACKS[name], before) as daemon:
            _fare(daemon, ATTACKS[name], WARM_UP_S, before)
            found[name] = [_round(daemon, name, seconds, before) for _ in range(rounds)]
        tell(line(name, found[name]))
    return found


def _round(daemon: PinnedDaemon, name: str, seconds: float, before: Sequence[str]) -> Round:
    attack = ATTACKS[name]
    pid = daemon.process.pid
    used = cpu_seconds([pid])
    calm = _fare(daemon, attack, seconds, before)
    calm_busy = (cpu_seconds([pid]) - used) / seconds
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak begins anew
    errand = attacker.Errand(name, _port(daemon), LEAD_S + seconds + BEHIND_S)
    # Started before the attack: an interpreter that starts would keep the attacker from its core
    # for as long, and what that then makes up for is a burst.
    with (
        _client(before) as client,
        _process("attacker", [*GIVING_WAY, *pinned(LOAD_CORE)], attacker.BEGUN, errand) as process,
    ):
        time.sleep(LEAD_S)
        used = cpu_seconds([pid])
        attacked = _fare_of(client, daemon, attack, seconds)
        attacked_busy = (cpu_seconds([pid]) - used) / seconds
        blow = _result(process, Blow)
    peak = Path(f"/proc/{pid}/status").read_text().split("VmHWM:")[1].split()[0]
    time.sleep(SETTLE_S)
    return Round(calm, attacked, blow, int(peak) / 1024, errand.seconds, calm_busy, attacked_busy)


def _fare(daemon: PinnedDaemon, attack: Attack, seconds: float, before: Sequence[str]) -> Fare:
    with _client(before) as client:
        return _fare_of(client, daemon, attack, seconds)


def _fare_of(
    client: subprocess.Popen[bytes], daemon: PinnedDaemon, attack: Attack, seconds: float
) -> Fare:
    _tell(client, honest.Errand(_port(daemon), seconds, RATE, by_tls=attack.is_by_tls))
    return _result(client, Fare)


def _client(before: Sequence[str]) -> AbstractContextManager[subprocess.Popen[bytes]]:
    return _process("honest", [*before, *pinned(LOAD_CORE)], honest.READY)


def _result(process: subprocess.Popen[bytes], kind: type[T]) -> T:
    assert process.stdout is not None
    text = process.stdout.read()
    assert process.wait() == 0
    return msgspec.json.decode(text, type=kind)


@contextmanager
def _process(
    module: str, before: Sequence[str], says: bytes, errand: Any = None
) -> Iterator[subprocess.Popen[bytes]]:
    """One that has said so; told its errand before that, where there is one."""
    command = [sys.executable, "-m", f"tests.benchmarks.attacks.{module}"]
    with subprocess.Popen(
        [*before, *command], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        try:
            if errand is not None:
                _tell(process, errand)
            assert process.stdout is not None
            assert process.stdout.readline().strip() == says, f"the {module} did not begin"
            yield process
        finally:
            process.kill()


def _tell(process: subprocess.Popen[bytes], errand: Any) -> None:
    assert process.stdin is not None
    process.stdin.write(msgspec.json.encode(errand))
    process.stdin.close()
    process.stdin = None


@contextmanager
def _daemon(folder: Path, attack: Attack, before: Sequence[str] = ()) -> Iterator[PinnedDaemon]:
    types = '[events."api.calls"]\nop = "sum"'
    if attack.is_by_tls:
        certificate, key = certificate_in(folder)
        # What stands in front of the first table belongs to the one before it, [server].
        types = f'tls_certificate = "{certificate}"\ntls_key = "{key}"\n{types}'
    daemon = PinnedDaemon(folder, before, types)
    try:
        if attack.stored:
            _store(daemon)
        yield daemon
    finally:
        daemon.stop()


def _store(daemon: PinnedDaemon) -> None:
    event = {"customerId": "c", "eventType": "api.calls", "value": 1, "metadata": {"a": "b" * 100}}
    with httpx.Client(base_url=daemon.url, headers={"x-apikey": KEY}, timeout=30) as http:
        for _ in range(EVENTS_STORED // 1000):
            assert http.post("/usagebatch", json=[event] * 1000).status_code == 201


def _port(daemon: PinnedDaemon) -> int:
    return int(daemon.url.rpartition(":")[2])


# -- what is shown --------------------------------------------------------------------------------


def row(name: str, rounds: Sequence[Round]) -> tuple[str, ...]:
    attack = ATTACKS[name]
    ratios = sorted(one.ratio for one in rounds)
    failures = sum(sum(one.attacked.failures.values()) for one in rounds)
    failures += sum(sum(one.calm.failures.values()) for one in rounds)
    shortfalls = [text for one in rounds for text in one.shortfalls(attack)]
    answered = sum(len(one.attacked.took_ms) for one in rounds)
    every = [took for one in rounds for took in one.attacked.took_ms]
    return (
        name,
        _done(rounds) + (f"; FELL SHORT: {shortfalls}" if shortfalls else ""),
        f"{answered / (len(rounds) * _honest_s(rounds)):.0f}",
        f"{statistics.median(p99(one.calm) for one in rounds):.1f}",
        f"{percentile(sorted(every), 0.5):.1f}",
        f"{statistics.median(p99(one.attacked) for one in rounds):.1f}",
        f"{ratios[0]:.1f} / {statistics.median(ratios):.1f} / {ratios[-1]:.1f}",
        f"{_busy(rounds, 'calm_busy')} / {_busy(rounds, 'attacked_busy')}",
        str(failures),
        f"{max(one.peak_mb for one in rounds):.0f}",
    )


def _busy(rounds: Sequence[Round], which: str) -> str:
    return f"{statistics.median(getattr(one, which) for one in rounds) * 100:.0f} %"


def _honest_s(rounds: Sequence[Round]) -> float:
    return statistics.mean(one.seconds - LEAD_S - BEHIND_S for one in rounds)


def _done(rounds: Sequence[Round]) -> str:
    """What the attacker did and got, for each second."""
    seconds = sum(one.seconds for one in rounds)
    blows = [one.blow for one in rounds]
    opened, sent = sum(each.opened for each in blows), sum(each.sent_bytes for each in blows)
    total: dict[str, int] = {}
    for each in blows:
        for what, count in each.got.items():
            total[what] = total.get(what, 0) + count
    got = ", ".join(f"{what} {count / seconds:,.0f}" for what, count in sorted(total.items()))
    held = max(each.held for each in blows)
    return (
        f"held {held}, opened {opened / seconds:,.0f}/s, {sent / seconds / 1e6:.2f} MB/s; got {got}"
    )


def line(name: str, rounds: Sequence[Round]) -> str:
    return " | ".join(row(name, rounds))


def table(found: dict[str, list[Round]]) -> Table:
    shown = Table(
        "attack", "what it did, and got for each second", "honest/s", "calm p99 ms", "p50 ms",
        "p99 ms", "p99 to calm\nmin / median / max", "failed", "peak MB",
        title=f"An honest client at {RATE:.0f} requests/s under attack",
    )  # fmt: skip
    for name, rounds in found.items():
        shown.add_row(*row(name, rounds))
    return shown


def complaints(found: dict[str, list[Round]]) -> list[str]:
    """Attacks that did not happen, honest requests that failed, and those that waited too long: by
    the median, where there are rounds enough to have one.
    """
    complaining = []
    for name, rounds in found.items():
        ratio = statistics.median(one.ratio for one in rounds)
        if len(rounds) >= ROUNDS_MIN and ratio >= RATIO_MAX:
            complaining.append(f"{name}: p99 is {ratio:.1f} times calm, and not under {RATIO_MAX}")
        for one in rounds:
            complaining += [f"{name} fell short: {text}" for text in one.shortfalls(ATTACKS[name])]
            for fare in (one.calm, one.attacked):
                complaining += [
                    f"{name}: {count} times {what}" for what, count in fare.failures.items()
                ]
    return complaining


def can_be_pinned() -> bool:
    return (os.cpu_count() or 1) > 1
