"""A disk runs full under a daemon, and has room again."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import httpx

from meterd.domain.instants import parse_instant
from meterd.domain.periods import HOUR_MS
from tests.daemon_process import ROOT
from tests.system.torture.daemons.checks import Checks, is_delivered, read_offline, read_online
from tests.system.torture.daemons.clients import Books
from tests.system.torture.daemons.configuration import GRACE_MS, configuration
from tests.system.torture.daemons.process import Daemon, Forks
from tests.system.torture.daemons.sink import Sink
from tests.system.torture.daemons.threshold_checks import reached
from tests.system.torture.full_disk.fillers import BATCH, Filler
from tests.system.torture.full_disk.places import fill

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.system.torture.full_disk.places import Place
    from tests.system.torture.harness import Tally

# What a daemon whose start found no room ends with.
_NO_START: Final = 1
_PATIENCE_S: Final = 20.0
_FAR_MS: Final = 400 * 24 * HOUR_MS
_START: Final = "2026-02-01T00:00:00Z"
# Whether or not it is full.
_READS: Final = ("/ping", "/healthz", "/readyz", "/", "/config", "/events?limit=3")
_QUERIES: Final = ("/events?limit=3&customerId=customer-1", "/aggregations?limit=3")


class Cycle:
    """One daemon, or two if the first is killed; one folder."""

    def __init__(
        self, seed: str, folder: Path, place: Place, mutant: str | None, tally: Tally
    ) -> None:
        self._random = random.Random(seed)
        self._seed = seed
        self._place = place
        self._tally = tally
        self._folder = folder
        self._mutant = mutant
        self._books = Books()

    def run(self, forks: Forks) -> None:
        began_ms = parse_instant(_START)
        assert began_ms is not None
        self._place.hold(forks.pid)
        self._daemon = Daemon(forks, self._folder, began_ms - 10 * 60_000, self._mutant)
        self._daemon.data = self._place.folder / "data"
        if self._random.random() < 0.5:
            self._daemon.log = self._place.folder / "log"
            self._see("log on the disk")
        self._sink = Sink(f"{self._seed} sink", lambda: self._daemon.generation)
        self._checks = Checks(self._books, self._sink, self._tally)
        self._fillers = [
            Filler(f"{name}{keyed}", f"{self._seed} {name} {keyed}", self._daemon, self._books,
                   size=size, keyed=keyed)
            for name, size in (("one", 1), ("batch", BATCH))
            for keyed in (False, True)
        ]  # fmt: skip
        self._daemon.config.write_text(configuration(self._sink))
        with self._sink:
            try:
                self._fill_and_make_room()
                if not self._tally.broken:
                    self._check_at_rest()
            except httpx.TransportError as fault:
                self._wrong(f"it does not answer ({fault}): {self._daemon.tail()}")
            finally:
                self._daemon.close()
        self._tally.done += 1
        self._tally.acknowledged += len(self._books.acknowledged)

    def _fill_and_make_room(self) -> None:
        self._start()
        self._wait_ready()
        self._warm_up()
        for filler in self._fillers:
            filler.start()
        try:
            self._wait("507", lambda: any(filler.refusals for filler in self._fillers))
            serves = self._while_it_is_full()
            self._place.give_room()
            self._see("room again")
            if not serves:
                self._start()
            self._wait_ready()
            served = [filler.served for filler in self._fillers]
            self._wait(
                "201 for everyone",
                lambda: all(
                    filler.served > before
                    for filler, before in zip(self._fillers, served, strict=True)
                ),
            )
        finally:
            for filler in self._fillers:
                filler.stop()
        self._see("507", sum(filler.refusals for filler in self._fillers))
        self._see("503", sum(filler.unknown for filler in self._fillers))

    def _warm_up(self) -> None:
        """Some are there before it is full: an hour that has ended, and webhooks in the air."""
        early = Filler(
            "early", f"{self._seed} early", self._daemon, self._books, size=1, keyed=True
        )
        early.start()
        self._wait("events", lambda: early.served >= 20)
        early.stop()
        self._daemon.step_to(self._daemon.next_hour_ms() + GRACE_MS)

    def _while_it_is_full(self) -> bool:
        """Whether a daemon serves at the end of it."""
        self._read()
        if self._random.random() < 0.5:
            self._daemon.step_to(self._daemon.next_hour_ms() + GRACE_MS)
            self._see("hours that ended meanwhile")
        if self._random.random() < 0.3:
            self._make_a_key()
        elif self._random.random() < 0.5 and self._place.is_full_for_all:
            self._start_another()
        self._trigger()
        time.sleep(self._random.random() * 1.5)
        self._read()
        if self._random.random() < 0.5:
            return True
        self._daemon.send(signal.SIGKILL)
        self._daemon.wait()
        self._see("killed while full")
        self._start()
        return self._starts_or_says_why()

    def _starts_or_says_why(self) -> bool:
        """A start needs a little room: what was freed in the store before may do."""
        deadline = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline:
            if self._daemon.has_ended():
                code = self._daemon.wait()
                self._see("starts refused")
                if code != _NO_START:
                    self._wrong(f"a start without room ended with {code}: {self._daemon.tail()}")
                self._check_message()
                return False
            if self._answers("/healthz"):
                self._see("starts while full")
                self._read_open()
                return True
            time.sleep(0.005)
        self._wrong(f"a start without room neither serves nor ends: {self._daemon.tail()}")
        return False

    def _check_message(self) -> None:
        if self._daemon.log.parent == self._place.folder:
            return  # there was no room for it
        if not _says_what_to_do(self._daemon.tail()[-1], self._daemon.data):
            self._wrong(f"nobody could know what to do: {self._daemon.tail()}")

    def _start(self) -> None:
        self._daemon.start(post_s=self._random.choice((0.05, 0.5, 10.0)), disk_s=0.0)
        self._place.hold(self._daemon.pid)

    def _wait_ready(self) -> None:
        if not self._daemon.wait_ready():
            self._wrong(f"it does not serve: {self._daemon.tail()}")

    # Meanwhile

    def _read_open(self) -> None:
        for path in ("/ping", "/healthz", "/"):
            self._expect(200, "GET", path)

    def _read(self) -> None:
        for path in (*_READS, *_QUERIES):
            self._expect(200, "GET", path)
            self._see("reads while full")
        if not self._daemon.request("GET", "/readyz").json().get("disk", "").startswith("full"):
            self._wrong("/readyz does not say that the disk is full")
        self._read_usage()

    def _read_usage(self) -> None:
        """Of every customer all that is in the log is read, posted or not."""
        before = self._log()
        customers = {one["customerId"] for one in self._get("/customers?limit=1000")}
        for customer_id in sorted(before):
            events = len(self._get(f"/events?limit=100000&customerId={customer_id}"))
            usage = self._get(f"/customers/{customer_id}/usage?period=yearly")["usage"]
            counted = sum(totals["count"] for totals in usage.values())
            at_most = self._log()[customer_id]
            for what, found in (("events", events), ("in usage", counted)):
                if not before[customer_id] <= found <= at_most:
                    self._wrong(f"{found} {what} of {before[customer_id]}, while full")
            if customer_id not in customers:
                self._wrong(f"{customer_id} is not listed while full")
            self._see("usage read while full")

    def _log(self) -> Counter[str]:
        return Counter(event["customerId"] for event in self._get("/events?limit=100000"))

    def _get(self, path: str) -> Any:
        answer = self._daemon.request("GET", path)
        if answer.status_code != 200:
            self._wrong(f"GET {path} while full: {answer.status_code} {answer.text}")
            return []
        return answer.json()

    def _trigger(self) -> None:
        """Makes nothing of what it cannot write."""
        self._expect(507, "POST", "/aggregations/trigger")

    def _start_another(self) -> None:
        """A folder that is not there yet cannot be made: who starts it is told why."""
        data, rest = self._place.folder / "another", self._place.folder / "rest"
        fill(rest)
        ended = self._command("serve", data)
        rest.unlink()
        self._see("first starts refused")
        if ended.returncode != _NO_START or not _says_what_to_do(ended.stderr, data):
            self._wrong(f"meterd serve of a new folder: {ended.returncode} {ended.stderr}")

    def _command(self, what: str, data: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "meterd", *what.split(), "--config", self._daemon.config],
            cwd=ROOT,
            env={"METERD_DATA_DIR": str(data), "METERD_BIND": "127.0.0.1:0"},
            capture_output=True,
            text=True,
            timeout=_PATIENCE_S,
        )

    def _make_a_key(self) -> None:
        """A command says that it could not, or has; the keys that were there are there."""
        made = self._command("keys create", self._daemon.data)
        listed = self._command("keys list", self._daemon.data)
        is_clear = made.returncode == 0 or (
            made.returncode == 1 and _says_what_to_do(made.stderr, self._daemon.data)
        )
        self._see("keys made while full" if made.returncode == 0 else "keys not made while full")
        if not is_clear or listed.returncode != 0:
            self._wrong(f"meterd keys: {made.stderr} {listed.stderr}")

    def _expect(self, status: int, method: str, path: str) -> None:
        try:
            answer = self._daemon.request(method, path)
        except httpx.TransportError as fault:
            self._wrong(f"{method} {path} while full: {fault!r}; {self._daemon.tail()}")
            return
        if answer.status_code != status:
            self._wrong(f"{method} {path} while full: {answer.status_code} {answer.text}")

    def _answers(self, path: str) -> bool:
        try:
            return self._daemon.request("GET", path).status_code == 200
        except httpx.TransportError:
            return False

    # What came of it

    def _check_at_rest(self) -> None:
        """Everything ends and is delivered; then all that is stored is counted again."""
        self._daemon.trigger()
        self._sink.is_well = True
        self._daemon.step_to(self._daemon.now_ms() + _FAR_MS)
        to_tell = set(reached(read_online(self._daemon).events))
        self._wait("webhooks", lambda: is_delivered(self._daemon, self._sink, to_tell))
        contents = read_online(self._daemon)
        self._checks.events(contents.events, self._books.acknowledged, self._seed)
        self._checks.aggregations(contents, self._seed, all_closed=True, snapshots=True)
        self._daemon.send(signal.SIGTERM)
        if code := self._daemon.wait():
            self._wrong(f"it stopped with {code}: {self._daemon.tail()}")
        contents = read_offline(self._daemon.data)
        self._checks.events(contents.events, self._books.acknowledged, self._seed)
        self._checks.webhooks(contents, self._seed, all_arrived=True)
        self._checks.thresholds(contents, self._seed, all_told=True)
        self._checks.clients(self._seed)
        stored = {event.tag for event in contents.events}
        for filler in self._fillers:
            if refused := filler.full & stored:
                self._wrong(f"refused with 507 and stored: {sorted(refused)[:3]}")

    def _wait(self, what: str, is_there: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while not is_there():
            if time.monotonic() > deadline:
                self._wrong(f"no {what} in {_PATIENCE_S} s: {self._daemon.tail()}")
                return
            time.sleep(0.01)

    def _see(self, what: str, number: int = 1) -> None:
        self._tally.seen[what] += number

    def _wrong(self, what: str) -> None:
        self._tally.find(f"{self._seed}, {type(self._place).__name__}: {what}", wrong=1)


def _says_what_to_do(said: str, data: Path) -> bool:
    """One line: which folder, and that it is room that it lacks."""
    is_named = str(data) in said and any(
        words in said for words in ("No space left", "make room", "raise the limit")
    )
    return is_named and said.count("\n") <= 1
