"""Operators of a simulated daemon: they look into deliveries and have them sent again, and take
events back.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

import trio

from meterd.domain.deliveries import delivery_id
from meterd.domain.event_ids import to_text
from meterd.domain.instants import format_instant
from meterd.domain.periods import DAY_MS, HOUR_MS, PeriodType, period_at
from meterd.domain.thresholds import reached_delivery_id
from tests.simulation.books import BrokenPromiseError
from tests.simulation.exchange import request
from tests.simulation.parcels import Asked

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from random import Random

    from tests.simulation.books import Entry
    from tests.simulation.clock import VirtualClock
    from tests.simulation.exchange import Answer
    from tests.simulation.oracle import Oracle
    from tests.simulation.trace import Trace

ENDPOINTS: Final = ("billing", "crm", "bulk")
# Seconds from one thing that they do to the next.
_PAUSE_S: Final = 4 * 3600
_SPANS_MS: Final = (HOUR_MS, HOUR_MS, DAY_MS, DAY_MS, 3 * DAY_MS, 30 * DAY_MS)
# Not now: it starts, or its disk is full, or it was too slow for whoever asked.
_NOT_NOW: Final = (503, 507)
_PAGE: Final = 50


class Operators:
    """They ask by ``ask``, which gives the answer, None where none came."""

    def __init__(
        self,
        clock: VirtualClock,
        random: Random,
        oracle: Oracle,
        trace: Trace,
        ask: Callable[[bytes], Awaitable[Answer | None]],
        ease: int,
    ) -> None:
        self._clock = clock
        self._random = random
        self._oracle = oracle
        self._parcels = oracle.parcels
        self._trace = trace
        self._ask = ask
        self._pause_s = _PAUSE_S * ease

    async def run(self) -> None:
        """Until cancelled."""
        choices: dict[Callable[[], Awaitable[None]], int] = {
            self._retry: 10,
            self._retry_batch: 6,
            self._replay: 5,
            self._enable: 8,
            self._follow: 4,
            self._look_into: 4,
            self._void: 4,
        }
        async with trio.open_nursery() as nursery:
            while True:
                await trio.sleep(self._random.expovariate(1 / self._pause_s))
                [work] = self._random.choices(list(choices), list(choices.values()))
                nursery.start_soon(work)

    async def enable(self, endpoint_id: str) -> bool:
        """Whether it is done: the endpoint is neither gone nor paused any more."""
        answer = await self._post(f"/webhooks/{endpoint_id}/enable")
        return answer is not None and answer.status == 200

    async def _enable(self) -> None:
        endpoint_id = self._random.choice(ENDPOINTS)
        if self._parcels.is_disabled(endpoint_id):
            self._trace.count(f"enable {endpoint_id}, which is gone")
        await self.enable(endpoint_id)

    async def _retry(self) -> None:
        """Anything of the latest, or something that waits or is parked."""
        names = list(self._parcels)
        if self._random.random() < 0.4:
            names = sorted(self._parcels.pending) or names
        await self._retry_one(names[-60:])

    async def _retry_batch(self) -> None:
        """Sometimes when one of it has left it already."""
        await self._retry_one(list(self._parcels.batches)[-30:])

    async def _retry_one(self, names: list[str]) -> None:
        if not names:
            return
        name = self._random.choice(names)
        with self._parcels.asking(Asked(name)) as is_answered:
            answer = await self._post(f"/deliveries/{name}/retry")
            if answer is None or answer.status in _NOT_NOW:
                return
            is_answered()
        if answer.status != 200 or answer.json()["id"] != name:
            raise BrokenPromiseError("wrong", f"a retry of {name} is answered {answer}")

    async def _void(self) -> None:
        """One of the latest, or of long ago; sometimes twice at once, or once more."""
        log = self._oracle.books.log
        if not log:
            return
        entry = self._random.choice(log[-self._random.choice((1, 5, 30, 400)) :])
        async with trio.open_nursery() as nursery:
            for _ in range(self._random.choice((1, 1, 1, 2))):
                nursery.start_soon(self._take_back, entry)

    async def _take_back(self, entry: Entry) -> None:
        """What is answered stands: it is void, with the first reason, or too late for that."""
        books, reasons = self._oracle.books, self._oracle.to_be_void[entry.number]
        before, was_pruned = books.voids.get(entry.id), entry.place < books.pruned
        reason = f"mistake {len(reasons)}"
        reasons.add(reason)
        body = json.dumps({"reason": reason}).encode()
        answer = await self._post(f"/events/{to_text(entry.id)}/void", body)
        if answer is None or answer.status in _NOT_NOW:
            return
        if was_pruned or answer.status == 410:
            # Neither is one of whose hour some others are gone.
            hour = period_at(PeriodType.HOURLY, entry.happened_ms)
            if answer.status != 410 or hour.start_ms >= books.pruned_until_ms:
                raise BrokenPromiseError("wrong", f"{entry}, pruned, is not taken back: {answer}")
            return
        if answer.status == 422 and before is None:
            if not self._oracle.may_be_too_late(entry.happened_ms):
                raise BrokenPromiseError("wrong", f"{entry} is not taken back: {answer}")
            return
        void = books.voids.get(entry.id)
        if answer.status not in (200, 201) or (before is not None and answer.status != 200):
            raise BrokenPromiseError("wrong", f"{entry} is to be void, and that is {answer}")
        if void is None or answer.json()["void"]["reason"] != void.reason:
            raise BrokenPromiseError("lost", f"{entry} is void, says {answer}, and is {void}")

    async def _replay(self) -> None:
        """Counted first, mostly, and then page by page. What closes meanwhile may be in it."""
        endpoint_id = self._random.choice(ENDPOINTS)
        to_ms = self._clock.now_ms() - self._random.choice((0, 0, DAY_MS))
        from_ms = to_ms - self._random.choice(_SPANS_MS)
        if self._random.random() < 0.7:
            at_least = self._due(endpoint_id, from_ms, to_ms)
            counted = await self._pages(endpoint_id, from_ms, to_ms, dry_run=True)
            self._require_counted(counted, at_least, self._due(endpoint_id, from_ms, to_ms))
        asked = Asked("", endpoint_id, from_ms, to_ms)
        with self._parcels.asking(asked) as is_answered:
            at_least = self._due(endpoint_id, from_ms, to_ms)
            done = await self._pages(endpoint_id, from_ms, to_ms, dry_run=False)
            if done is not None:
                is_answered()
        self._require_counted(done, at_least, self._due(endpoint_id, from_ms, to_ms))

    async def _pages(
        self, endpoint_id: str, from_ms: int, to_ms: int, *, dry_run: bool
    ) -> tuple[int, int] | None:
        """How many it sends again, and how many it makes; None where it did not end."""
        body = {
            "endpoint": endpoint_id,
            "from": format_instant(from_ms),
            "to": format_instant(to_ms),
            "dryRun": dry_run,
        }
        again = created = 0
        while True:
            answer = await self._post("/deliveries/replay", json.dumps(body).encode())
            # It may have been taken out of the configuration, or the clock may have stepped back.
            if answer is None or answer.status in (*_NOT_NOW, 400):
                return None
            if answer.status != 200:
                raise BrokenPromiseError("wrong", f"the replay {body} is answered {answer}")
            told = answer.json()
            again, created = again + told["again"], created + told["created"]
            if "cursor" not in told:
                self._trace.count("replay counted" if dry_run else "replay")
                return again, created
            body["cursor"] = told["cursor"]

    def _due(self, endpoint_id: str, from_ms: int, to_ms: int) -> tuple[int, int]:
        """How much is told of what ended then and is closed, and how much of it has deliveries."""
        told = [
            delivery_id(endpoint_id, made.id, made.revision)
            for (_, period), made in self._oracle.publications.closed.items()
            if from_ms <= period.end_ms <= to_ms
        ]
        told += [
            reached_delivery_id(reached, endpoint_id)
            for reached in self._oracle.tellings.told.values()
            if from_ms <= reached.period.end_ms <= to_ms
            and (reached.customer_id, reached.period) in self._oracle.publications.closed
        ]
        return len(told), sum(self._parcels.is_known(name) for name in told)

    def _require_counted(
        self, done: tuple[int, int] | None, before: tuple[int, int], behind: tuple[int, int]
    ) -> None:
        """Exactly, where nothing came of it meanwhile."""
        if done is not None and not before[0] <= sum(done) <= behind[0]:
            raise BrokenPromiseError("wrong", f"a replay of {before} to {behind} is of {done}")

    async def _follow(self) -> None:
        """An endpoint's stream, from somewhere: no number is left out."""
        endpoint_id = self._random.choice(ENDPOINTS)
        sequences = self._parcels.sequences(endpoint_id)
        after = max(0, self._random.choice((0, sequences - 30, sequences - 70)))
        path = f"/deliveries?endpoint={endpoint_id}&afterSequence={after}&limit={_PAGE}"
        answer = await self._get(path)
        if answer is None or answer.status in (*_NOT_NOW, 404):
            return
        found = [one["sequence"] for one in answer.json()]
        told = [one["payload"]["sequence"] for one in answer.json()]
        expected = list(range(after + 1, min(sequences, after + _PAGE) + 1))
        if found[: len(expected)] != expected or told != found:
            raise BrokenPromiseError("lost", f"{path}: {found} and {told}, not {expected}")

    async def _look_into(self) -> None:
        """One that nothing happens to meanwhile is as it is on disk, with its batch."""
        names = list(self._parcels)[-40:]
        if not names:
            return
        name = self._random.choice(names)
        before = self._parcels.shown(name)
        answer = await self._get(f"/deliveries/{name}")
        if answer is None or answer.status in _NOT_NOW or self._parcels.shown(name) != before:
            return
        told = answer.json()
        if (told["status"], told["attempts"]) != (before.status, before.attempts):
            raise BrokenPromiseError("wrong", f"{name} is told as {told}, and is {before}")
        # Not one that it was in: who is sent again alone has left that.
        is_in = self._parcels.batch_of(name)
        if told.get("batch") != is_in:
            raise BrokenPromiseError("wrong", f"{name} is told to be in {told.get('batch')}")

    async def _post(self, path: str, body: bytes = b"") -> Answer | None:
        answer = await self._ask(request("POST", path, body))
        kind = path.rsplit("/", 1)[1]
        self._trace.count(f"{kind} {'nothing' if answer is None else answer.status}")
        return answer

    async def _get(self, path: str) -> Answer | None:
        return await self._ask(request("GET", path))
