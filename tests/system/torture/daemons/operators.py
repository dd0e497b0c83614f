"""An operator of the daemon, who has deliveries sent again, and what they were promised.

A request that is not answered may have been done all the same: it is noted before it is sent.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import httpx
import msgspec

from meterd.domain.instants import format_instant
from meterd.domain.periods import HOUR_MS
from tests.simulation.parcels import Asked
from tests.system.torture.daemons.sink import MOODS

if TYPE_CHECKING:
    import random

    from meterd.domain.deliveries import Delivery
    from tests.system.torture.daemons.process import Daemon
    from tests.system.torture.daemons.sink import Sink

_LATEST: Final = 40
_SPANS_MS: Final = (HOUR_MS, HOUR_MS, 3 * HOUR_MS, 30 * HOUR_MS)


class Promise(msgspec.Struct, frozen=True):
    """That the delivery or batch of that id is sent again, made since that moment."""

    name: str
    since_s: float


class Operator:
    """``wrong`` are answers that nobody should get."""

    def __init__(self, daemon: Daemon, sink: Sink, chance: random.Random) -> None:
        self.asked: list[Asked] = []
        self.promises: list[Promise] = []
        self.wrong: list[str] = []
        self.counts = {"retries": 0, "retries of batches": 0, "replays": 0, "dry runs": 0}
        self._daemon = daemon
        self._sink = sink
        self._random = chance

    def times_asked_for(self, delivery: Delivery) -> int:
        """How often it may have been sent again because somebody wanted it."""
        return sum(one.covers(delivery) for one in self.asked)

    def ask(self) -> None:
        """One thing or another; the daemon may be killed meanwhile."""
        try:
            [work] = self._random.choices((self._retry, self._retry_batch, self._replay), (3, 3, 2))
            work()
        except httpx.TransportError:
            pass

    def _retry(self) -> None:
        endpoint_id = self._random.choice(tuple(MOODS))
        path = f"/deliveries?endpoint={endpoint_id}&limit={_LATEST}"
        answer = self._daemon.request("GET", path)
        if answer.status_code == 200 and answer.json():
            self._retry_one(self._random.choice(answer.json())["id"], "retries")

    def _retry_batch(self) -> None:
        """Sometimes one by itself first, which leaves it when it has arrived."""
        names = [name for name, came in self._sink.arrivals.copy().items() if came[0].is_batch]
        if names:
            self._retry_one(self._random.choice(names[-_LATEST:]), "retries of batches")

    def _retry_one(self, name: str, what: str) -> None:
        self.asked.append(Asked(name))
        since_s = time.monotonic()
        answer = self._daemon.request("POST", f"/deliveries/{name}/retry")
        if answer.status_code == 200:
            self.counts[what] += 1
            told = answer.json()
            # What is in the air stays as it is; a batch that one has left goes one by one.
            if told["status"] == "pending" and "attemptBegunAt" not in told:
                self.promises.append(Promise(name, since_s))
        elif answer.status_code != 503:
            self.wrong.append(f"a retry of {name}: {answer.status_code} {answer.text}")

    def _replay(self) -> None:
        """Counted before it is done: nothing closes and nothing is forgotten between."""
        endpoint_id = self._random.choice(tuple(MOODS))
        to_ms = self._daemon.now_ms()
        from_ms = to_ms - self._random.choice(_SPANS_MS)
        body: dict[str, object] = {
            "endpoint": endpoint_id,
            "from": format_instant(from_ms),
            "to": format_instant(to_ms),
        }
        counted = self._daemon.post("/deliveries/replay", body | {"dryRun": True})
        self.counts["dry runs"] += counted.status_code == 200
        self.asked.append(Asked("", endpoint_id, from_ms, to_ms))
        done = self._daemon.post("/deliveries/replay", body)
        if {counted.status_code, done.status_code} - {200, 503}:
            self.wrong.append(f"the replay {body}: {done.status_code} {done.text}")
        if done.status_code == 200:
            self.counts["replays"] += 1
        if counted.status_code == done.status_code == 200:
            before, after = (one.json()["again"] + one.json()["created"] for one in (counted, done))
            if after < before:
                self.wrong.append(f"the replay {body} is of {after}, and was to be of {before}")
