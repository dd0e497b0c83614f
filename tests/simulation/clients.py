"""Clients of a simulated daemon, each a task: what they want, when, and how patient they are."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from itertools import count
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import msgspec
import trio

from meterd.domain.event_ids import to_text
from meterd.domain.events import item_key
from meterd.domain.periods import DAY_MS, HOUR_MS
from tests.simulation.books import BrokenPromiseError, Sent
from tests.simulation.exchange import Answer, Conversation, GoneError, request
from tests.simulation.network import RefusedError
from tests.simulation.posts import Answers, Post

if TYPE_CHECKING:
    from collections.abc import Iterator
    from random import Random

    from tests.simulation.clock import VirtualClock
    from tests.simulation.network import Network
    from tests.simulation.oracle import Oracle
    from tests.simulation.trace import Trace

CUSTOMERS: Final = ("acme", "acme2", "Ærø", "c1")
TYPES: Final = ("api.calls", "storage.bytes", "seats", "x")
# Taken out of the configuration now and then.
SEASONAL: Final = "seasonal"
_VALUES: Final = ("1", "2", "0.1", "0.25", "-3", "17", "1e3", "9007199254740993", "0.10", "1e40")
# Moments near the end of an hour, and of its grace of five minutes.
_AROUND_MS: Final = (-1, 0, 1, -250, -2_000, 300_000 - 1, 300_000, 300_001)
# How long ago events happened that say when: ahead, within what is taken, and in closed hours.
_AGES_MS: Final = (-240_000, -1, 0, 60_000, HOUR_MS, HOUR_MS, 3 * HOUR_MS, DAY_MS, 28 * DAY_MS)
# Beyond what is taken, whatever the clock does meanwhile.
_UNFIT_AGES_MS: Final = (40 * DAY_MS, -3 * DAY_MS)
_DATED: Final = 0.01
_UNFIT: Final = ('"many"', "null", "1e999", "true")
_READ_MAX: Final = 50
_REMEMBERED: Final = 8
# Well within idempotency_window, whatever the clock does.
_REMEMBERED_MS: Final = 28 * DAY_MS

Action = Callable[[], Awaitable[None]]


class Clients:
    """Makes traffic until it is told to stop."""

    def __init__(
        self,
        clock: VirtualClock,
        network: Network,
        random: Random,
        oracle: Oracle,
        trace: Trace,
        ease: int,
    ) -> None:
        self.answers = Answers(oracle)
        self._clock = clock
        self._network = network
        self._random = random
        self._oracle = oracle
        self._books = oracle.books
        self._trace = trace
        self._ease = ease
        self._numbers = 0
        self._keyed_events: deque[Sent] = deque(maxlen=_REMEMBERED)
        self._hurry_until = 0.0
        self._hurried = trio.lowlevel.ParkingLot()
        self._choices: dict[Action, int] = {
            self._single: 60,
            self._batch: 15,
            self._keyed: 25,
            self._repeat: 10,
            self._conflict: 2,
            self._unfit: 4,
            self._keep_talking: 1,
            self._leave_early: 3,
            self._crowd: 1,
            self._trigger: 1,
            self._read_events: 1,
            self._read_aggregations: 1,
            self._look_around: 1,
        }

    async def run(self) -> None:
        """Until cancelled; what is under way then is given up."""
        actions, weights = list(self._choices), list(self._choices.values())
        async with trio.open_nursery() as nursery:
            while True:
                with trio.move_on_after(self._pause_s()):
                    await self._hurried.park()
                nursery.start_soon(self._random.choices(actions, weights)[0])

    def hurry(self, seconds: float) -> None:
        """Many of them come for so long, as something is about to happen."""
        self._hurry_until = trio.current_time() + seconds
        self._hurried.unpark_all()

    def _pause_s(self) -> float:
        """Often near an end of an hour; now and then nobody comes for hours."""
        random = self._random
        if trio.current_time() < self._hurry_until:
            return random.expovariate(1 / 3)
        chance = random.random()
        if chance < 0.15:
            return random.uniform(1, 30) * 3600 * self._ease
        if chance < 0.4:
            now_ms = self._clock.now_ms()
            hours = random.randint(1, self._ease)
            at_ms = (now_ms // HOUR_MS + hours) * HOUR_MS + random.choice(_AROUND_MS)
            return max(0, at_ms - now_ms) / 1000
        if chance < 0.6:
            return random.uniform(0, 2)
        return random.expovariate(1 / 5400) * self._ease

    # What they want

    async def _single(self) -> None:
        event_type = SEASONAL if self._random.random() < 0.1 else None
        await self._post(Post((self._event(event_type=event_type),)))

    async def _batch(self) -> None:
        count = self._random.choice((1, 2, 5, 20, 80))
        await self._post(Post(tuple(self._event() for _ in range(count)), is_batch=True))

    async def _keyed(self) -> None:
        """Sends the same until it is answered, and sometimes once more."""
        random = self._random
        if random.random() < 0.7:
            post = Post((self._event(key=f"k{self._numbers}"),))
            self._keyed_events.append(post.events[0])
        elif random.random() < 0.5:
            events = (self._event(key=f"k{self._numbers}") for _ in range(random.randrange(1, 9)))
            post = Post(tuple(events), is_batch=True)
        else:
            name = f"h{self._numbers}"
            places: defaultdict[str, Iterator[int]] = defaultdict(count)
            events = (
                msgspec.structs.replace(one, key=item_key(name, next(places[one.customer_id])))
                for one in (self._event() for _ in range(5))
            )
            post = Post(tuple(events), is_batch=True, header_key=name)
        if random.random() < 0.3:  # two at once
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._post_until_captured, post)
                nursery.start_soon(self._post_until_captured, post)
        else:
            await self._post_until_captured(post)

    async def _post_until_captured(self, post: Post) -> None:
        pause_s = 10.0
        for _ in range(60):
            answer = await self._post(post)
            if answer is not None and answer.status in (200, 201):
                self._trace.seen["repeats answered"] += "duplicate" in answer.body.decode()
                if self._random.random() < 0.8:
                    return
            elif answer is not None and answer.status in (400, 422):
                return
            await trio.sleep(self._random.uniform(0, pause_s))
            pause_s = min(1.5 * pause_s, 7200)

    async def _repeat(self) -> None:
        """Sends again what it sent a while ago, whatever came of it then."""
        known = [event for event in self._keyed_events if self._is_remembered(event.number)]
        if known:
            await self._post(Post((self._random.choice(known),)))

    async def _conflict(self) -> None:
        """A key that was used, with another value."""
        used = list(self._books.keys.items())[-50:]
        used = [(key, number) for key, number in used if self._is_remembered(number)]
        if not used:
            return
        (customer_id, key), number = self._random.choice(used)
        sent = self._books.sent[number]
        other = Decimal(sent.value) + 1
        event = self._event(customer_id=customer_id, key=key, value=f"{other:f}", is_unfit=True)
        if self._random.random() < 0.3:  # the same, at another time
            changed_ms = (sent.timestamp_ms or self._clock.now_ms()) - 1
            same = {"event_type": sent.event_type, "value": sent.value}
            event = msgspec.structs.replace(event, **same, timestamp_ms=changed_ms)
        await self._post(Post((event,), is_batch=self._random.random() < 0.3))

    async def _unfit(self) -> None:
        if self._random.random() < 0.3:
            age_ms = self._random.choice(_UNFIT_AGES_MS)
            event = self._event(timestamp_ms=self._clock.now_ms() - age_ms, is_unfit=True)
        else:
            event = self._event(value=self._random.choice(_UNFIT), is_unfit=True)
        if self._random.random() < 0.4:
            await self._post(Post((event,)))
            return
        others = [self._event(may_be_dated=False) for _ in range(self._random.randrange(1, 5))]
        others.insert(self._random.randrange(len(others)), event)
        is_lenient = self._random.random() < 0.5
        await self._post(Post(tuple(others), is_batch=True, is_lenient=is_lenient))

    async def _keep_talking(self) -> None:
        """Several on one connection, with pauses that may outlast the server's patience."""
        with self._connected() as talk:
            for _ in range(self._random.randrange(2, 6)):
                if talk is None or not await self._exchange(talk, Post((self._event(),))):
                    return  # of what is said next nobody could tell what it answers
                await trio.sleep(self._random.choice((0, 0.01, 20, 74.9, 75, 80)))

    async def _leave_early(self) -> None:
        """Sends, and does not wait for the answer."""
        post = Post((self._event(),))
        with self._connected() as talk:
            if talk is not None:
                self.answers.sending(post)
                with trio.move_on_after(self._random.choice((0, 0.0005, 0.01))):
                    await self._ask(talk, post.data())

    async def _crowd(self) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(40):
                nursery.start_soon(self._single)

    async def _trigger(self) -> None:
        with self._connected() as talk:
            if talk is None:
                return
            self._oracle.regime.triggering(len(self._books.log))
            answer = await self._ask(talk, request("POST", "/aggregations/trigger"))
            if answer is None:
                return
            self._oracle.regime.triggered()
            self._trace.count(f"trigger {answer.status}")
            if answer.status not in (200, 202, 503, 507):
                raise BrokenPromiseError("wrong", f"a trigger is answered {answer}")

    async def _read_events(self) -> None:
        """The newest of a customer, all of them, in order; those that came meanwhile may lack."""
        customer_id = self._random.choice(CUSTOMERS)
        void = {to_text(event_id) for event_id in self._books.voids}
        before, first = len(self._books.customers[customer_id]), self._books.pruned_of[customer_id]
        path = f"/events?customerId={quote(customer_id)}&limit={_READ_MAX}"
        answer = await self._get(path)
        if answer is None or answer.status in (503, 507):
            return
        log = self._books.customers[customer_id]
        found = [document["metadata"]["n"] for document in answer.json()]
        ends = range(before, len(log) + 1)
        expected = [
            [one.number for one in log[max(start, end - _READ_MAX) : end]][::-1]
            for end in ends
            for start in range(first, self._books.pruned_of[customer_id] + 1)
        ]
        if found not in expected:
            raise BrokenPromiseError("lost", f"{path}: {found}, not one of {expected}")
        for document in answer.json():
            if document["_id"] in void and "void" not in document:
                raise BrokenPromiseError("lost", f"{path}: {document} is void, and is not so told")

    async def _read_aggregations(self) -> None:
        """Every closed one of the latest, as it was published last, or is meanwhile."""
        customer_id = self._random.choice(CUSTOMERS)
        path = f"/aggregations?customerId={quote(customer_id)}&period=daily&limit=10"
        published = self._oracle.publications.revisions
        days = sorted(p for who, p in published if who == customer_id and p.type == "daily")
        known = [(day, len(published[customer_id, day])) for day in days[-8:]]
        answer = await self._get(path)
        if answer is None or answer.status in (503, 507):
            return
        closed = {one["_id"]: one for one in answer.json() if one["status"] == "closed"}
        for day, revisions in known:
            made = published[customer_id, day][revisions - 1 :]
            told = closed.get(made[0].id)
            figures = [{name: figure.value for name, figure in one.figures.items()} for one in made]
            if told is None or {n: Decimal(v) for n, v in told["exact"].items()} not in figures:
                raise BrokenPromiseError("lost", f"{path} says {told} of {made}")

    async def _look_around(self) -> None:
        path = self._random.choice(("/readyz", "/config", "/ping", "/nothing"))
        answer = await self._get(path)
        if answer is not None and answer.status >= 500 and path != "/readyz":
            raise BrokenPromiseError("wrong", f"{path} is answered {answer}")

    def _is_remembered(self, number: int) -> bool:
        """Its key is not forgotten, unless it was never stored: who sends seldom has old ones."""
        entry = self._books.stored.get(number)
        return entry is None or self._clock.now_ms() - entry.received_ms < _REMEMBERED_MS

    # How they do it

    def _event(
        self,
        *,
        customer_id: str = "",
        event_type: str | None = None,
        value: str = "",
        key: str = "",
        is_unfit: bool = False,
        timestamp_ms: int | None = None,
        may_be_dated: bool = True,
    ) -> Sent:
        random = self._random
        self._numbers += 1
        if may_be_dated and not is_unfit and random.random() < _DATED:
            timestamp_ms = self._timestamp_ms()
        return Sent(
            self._numbers,
            customer_id or random.choice(CUSTOMERS),
            event_type or random.choice(TYPES),
            value or random.choice(_VALUES),
            key,
            is_unfit,
            timestamp_ms,
        )

    def _timestamp_ms(self) -> int:
        """At any time, or on a border between hours or days."""
        random = self._random
        happened_ms = self._clock.now_ms() - random.choice(_AGES_MS)
        if random.random() < 0.3:
            span_ms = random.choice((HOUR_MS, DAY_MS))
            happened_ms -= happened_ms % span_ms + random.choice((0, 1))
        return happened_ms

    async def _post(self, post: Post) -> Answer | None:
        with self._connected() as talk:
            return None if talk is None else await self._exchange(talk, post)

    async def ask(self, data: bytes) -> Answer | None:
        """A request on a connection of its own; None where no answer comes."""
        with self._connected() as talk:
            return None if talk is None else await self._ask(talk, data)

    async def _get(self, path: str) -> Answer | None:
        answer = await self.ask(request("GET", path))
        if answer is not None:
            self._trace.count(f"read {answer.status}")
        return answer

    async def _exchange(self, talk: Conversation, post: Post) -> Answer | None:
        self.answers.sending(post)
        numbers = [event.number for event in post.events]
        self._trace.add(f"send {numbers[0]}+{len(numbers)}")
        since_s = trio.current_time()
        answer = await self._ask(talk, post.data())
        status = "nothing" if answer is None else answer.status
        self._trace.add(f"answer {numbers[0]}+{len(numbers)} {status}")
        self._trace.seen[f"answers {status}"] += 1
        if answer is not None:
            self.answers.heard(post, answer, since_s)
        return answer

    async def _ask(self, talk: Conversation, data: bytes) -> Answer | None:
        """None where no answer comes in time, or at all."""
        with trio.move_on_after(self._random.choice((1, 10, 30, 60))):
            try:
                return await talk.ask(data)
            except GoneError:
                pass
        return None

    @contextmanager
    def _connected(self) -> Iterator[Conversation | None]:
        try:
            connection = self._network.connect()
        except RefusedError:
            yield None
            return
        try:
            yield Conversation(connection, self._random)
        finally:
            if self._random.random() < 0.9:
                connection.close()
            else:
                connection.reset()
            self._network.forget(connection)
