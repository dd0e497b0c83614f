"""What is done to an engine in its lives, random from a seed: told beforehand, as data.

A ``Scenario`` is a few lives over one folder. Its events have numbers, by which everything that is
stored can be told apart: most have an idempotency key too, and are repeated by their client until
they are answered, or until the keys of that time are forgotten. Some say when they happened: in an
hour that is closed, or in one that is to come.
"""

from __future__ import annotations

import random
from decimal import Decimal
from enum import Enum, auto
from typing import Final

import msgspec

from meterd.domain.admission import Admission
from meterd.domain.alerts import Alert
from meterd.domain.events import UsageEvent
from meterd.domain.periods import DAY_MS, HOUR_MS, PeriodType
from meterd.domain.thresholds import Watched
from tests.ledger_bench import OPERATIONS, at, rules

ENDPOINTS: Final = ("billing", "crm")
RULES: Final = rules(endpoints=ENDPOINTS)
ADMISSION: Final = Admission(past_ms=35 * DAY_MS, future_ms=3 * HOUR_MS)
# A customer has a few events of a type in an hour, of some thousands.
WATCHED: Final = Watched(
    (
        Alert("calls", "count", PeriodType.HOURLY, (Decimal(1), Decimal(3))),
        Alert("peak", "max", PeriodType.HOURLY, (Decimal(2_000), Decimal(50_000))),
        Alert("spent", "sum", PeriodType.DAILY, (Decimal(1_000), Decimal(60_000))),
        Alert("acme", "count", PeriodType.MONTHLY, (Decimal(2), Decimal(5)), "acme"),
    ),
    OPERATIONS,
)
# In two parts of the store, so that closing takes few transactions.
CUSTOMERS: Final = ("acme", "b24", "c35", "Ærø/25")
# Shortly before an hour's end: alone, and with a day's, a month's, a week's, a year's, and with all
# of them at once, behind which events may be pruned.
STARTS: Final = tuple(
    at(text)
    for text in (
        "2026-01-14T11:50",
        "2026-01-31T23:50",
        "2026-02-01T23:50",
        "2025-12-31T23:50",
        "2023-12-31T23:50",
        "2023-12-31T23:50",
    )
)
# Small, so that it is outgrown now and then.
MAP_SIZES: Final = (1 << 17, 1 << 21)
# Beyond the end of every period that has begun.
LATER_MS: Final = 400 * 24 * HOUR_MS
_TYPES: Final = tuple(OPERATIONS)
# Events in a batch. Over 64 are more than a block; few, as each is counted again at every check.
_BATCHES: Final = (*[1] * 20, *[2] * 10, *[5] * 8, 66)
# How long before it is sent an event happened, of one in four: just then, in the hour that is to
# come, in one that closed last, or so long ago that a day closed since.
_AGES_MS: Final = (60_000, -20 * 60_000, -80 * 60_000, HOUR_MS, 26 * HOUR_MS)


class Append(msgspec.Struct, frozen=True):
    """Callers that come at once, each with these events; a reader has a customer posted as well."""

    callers: tuple[tuple[int, ...], ...]
    posted: str | None = None


class Void(msgspec.Struct, frozen=True):
    """Events are taken back, at once."""

    numbers: tuple[int, ...]


class Post(msgspec.Struct, frozen=True):
    """Time passes, and all that was counted is posted."""


class Close(msgspec.Struct, frozen=True):
    """So many hours end, and whatever ends with them."""

    hours: int = 1


class Revise(msgspec.Struct, frozen=True):
    """What closed before late events came, or voids, is published anew."""


class Tell(msgspec.Struct, frozen=True):
    """Whoever watches usage looks, and tells of thresholds that were reached."""


class Prune(msgspec.Struct, frozen=True):
    """Idempotency keys of all hours that are over are forgotten, and then events are deleted.
    Nobody repeats what has a number below that one any more.
    """

    below: int


class Ask(Enum):
    """What an operator wants sent again, twice, while something is in the air."""

    NOTHING = auto()
    SOME = auto()
    ALL = auto()


class Deliver(msgspec.Struct, frozen=True):
    """What is due is claimed, sent and settled; ``fails`` is what the receiver answers, if it
    does.
    """

    endpoint_id: str
    fails: str | None
    asks: Ask


class Snapshot(msgspec.Struct, frozen=True):
    """As ``POST /aggregations/trigger`` does."""


Step = Append | Void | Post | Close | Revise | Tell | Prune | Deliver | Snapshot


class Life(msgspec.Struct, frozen=True):
    """One process's. Stopped, or ended as by kill -9 behind its last step.

    ``batch`` is configured at the endpoints, from then on.
    """

    steps: tuple[Step, ...]
    map_size: int
    stops: bool
    batch: int

    @property
    def lasts_ms(self) -> int:
        return HOUR_MS * sum(step.hours for step in self.steps if isinstance(step, Close))


class Scenario(msgspec.Struct, frozen=True):
    seed: int
    start_ms: int
    events: tuple[UsageEvent, ...]
    lives: tuple[Life, ...]

    def sent_in(self, lives: int) -> set[int]:
        """The numbers of all events that so many of the lives send."""
        return {
            number
            for life in self.lives[:lives]
            for step in life.steps
            if isinstance(step, Append)
            for caller in step.callers
            for number in caller
        }


def scenario(seed: int, lives: int = 3, steps: int = 3) -> Scenario:
    source = random.Random(seed)
    maker = _Maker(source, source.choice(STARTS))
    start_ms = maker.now_ms
    made = tuple(maker.life(source.randint(steps - 1, steps + 1)) for _ in range(lives))
    return Scenario(seed, start_ms, tuple(maker.events), made)


class _Maker:
    """Makes lives, one behind another: all that they do, and when."""

    def __init__(self, source: random.Random, now_ms: int) -> None:
        self._random = source
        self.now_ms = now_ms
        self.events: list[UsageEvent] = []
        self._repeated_from = 0

    def life(self, steps: int) -> Life:
        """Events, then some of all, in which a period ends at least once."""
        kinds = [Append, Append, Append, Void, Void, Post, Close, Close, Deliver, Snapshot]
        chosen = [self._random.choice(kinds) for _ in range(steps)]
        if Close not in chosen:
            chosen[self._random.randrange(steps)] = Close
        found: list[Step] = [self._append()]
        for kind in chosen:
            if kind is Append:
                found.append(self._append())
            elif kind is Void:
                found.append(self._void())
            elif kind is Deliver:
                found.append(self._deliver())
            elif kind is Close:
                found += self._close()
            else:
                found.append(kind())
        stops, batch = self._random.random() < 0.3, self._random.choice((1, 1, 2, 3))
        return Life(tuple(found), self._random.choice(MAP_SIZES), stops, batch)

    def _close(self) -> list[Step]:
        """With what follows by itself, or does not come to it before the life is over."""
        found: list[Step] = [Close(self._random.choice((1, 1, 2)))]
        self.now_ms += HOUR_MS * found[0].hours  # type: ignore[union-attr]
        if self._random.random() < 0.5:
            found.append(Revise())
        if self._random.random() < 0.5:
            found.append(Tell())
        found.append(self._deliver())
        if self._random.random() < 0.3:
            self._repeated_from = len(self.events)
            found.append(Prune(self._repeated_from))
        return found

    def _deliver(self) -> Deliver:
        fails = self._random.choice((None, None, "HTTP 503"))
        return Deliver(
            self._random.choice(ENDPOINTS), fails, self._random.choice((Ask.NOTHING, *Ask))
        )

    def _void(self) -> Void:
        """Mostly of what came last; one of them twice, now and then."""
        sent = len(self.events)
        some = self._random.choices(range(max(0, sent - 30), sent), k=2)
        any_of_all = self._random.choices(range(sent), k=self._random.randrange(2))
        return Void((*some, *any_of_all))

    def _append(self) -> Append:
        callers: list[tuple[int, ...]] = []
        for _ in range(self._random.choice((1, 1, 1, 2, 3))):
            first = len(self.events)
            for _ in range(self._random.choice(_BATCHES)):
                self.events.append(self._event(len(self.events)))
            caller = tuple(range(first, len(self.events)))
            if self._repeated_from < first and self._random.random() < 0.3:
                earlier = self._random.randrange(self._repeated_from, first)
                if self.events[earlier].idempotency_key:
                    caller = (*caller, earlier)  # sent again, for good measure
            callers.append(caller)
        return Append(tuple(callers), self._random.choice((None, *CUSTOMERS)))

    def _event(self, number: int) -> UsageEvent:
        is_dated = self._random.random() < 0.25
        return UsageEvent(
            self._random.choice(CUSTOMERS),
            self._random.choice(_TYPES),
            Decimal(self._random.randint(-99_999, 99_999)).scaleb(-self._random.randint(0, 3)),
            b'{"n":%d}' % number,
            f"key-{number}" if self._random.random() < 0.8 else "",
            self.now_ms - self._random.choice(_AGES_MS) if is_dated else None,
        )
