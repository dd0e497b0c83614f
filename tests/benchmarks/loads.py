"""The loads that all contestants take in turn, round by round.

A machine's pace changes from minute to minute, so figures are compared within a round: all of them
take a load one behind the other, forwards in one round and backwards in the next, since what one
leaves to the disk is the next one's burden.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

import msgspec

from meterd.embedded.posting import POST_SECONDS
from tests.benchmarks import ceilings
from tests.benchmarks.contestants import (
    CONTESTANTS,
    FAST_LANE,
    HYPERCORN_ALONE,
    Contestant,
)
from tests.benchmarks.plan import Plan
from tests.benchmarks.processes import Server, StartError
from tests.benchmarks.results import Loads, Round, Series

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from contextlib import AbstractContextManager
    from pathlib import Path

    Start = Callable[[Path], AbstractContextManager[Server]]

ALL: Final = tuple(one.name for one in CONTESTANTS)
# V8 makes its best code of Express only after about five seconds: cold, it was three times slower.
WARM_UPS: Final = (
    Plan(kind="single", connections=64, seconds=6.0),
    Plan(kind="batch", connections=8, customers=300, seconds=1.5),
)


class Load(msgspec.Struct, frozen=True):
    """A load, who takes it, and the load of meterd that the rounds are compared with."""

    name: str
    plan: Plan
    takers: tuple[str, ...] = ALL
    beside: str = ""
    at_least_s: float = 0.0


def _batch(customers: int, *, keys: bool = False) -> Plan:
    return Plan(kind="batch", connections=8, customers=customers, keys=keys)


SINGLE_64: Final = "single events, 64 connections"
BATCHES: Final = "batches of 1000, 300 customers"
POSTS: Final = "single events, 16 connections"
LOADS: Final = (
    Load("single events, 1 connection", Plan(kind="single", connections=1)),
    Load("single events, 8 connections", Plan(kind="single", connections=8)),
    Load(SINGLE_64, Plan(kind="single", connections=64)),
    Load("single events, 256 connections", Plan(kind="single", connections=256)),
    Load(BATCHES, _batch(300)),
    Load("batches of 1000, 3 customers", _batch(3)),
    Load(
        "single events, each with an idempotency key, 64 connections",
        Plan(kind="single", connections=64, keys=True),
        (FAST_LANE,),
        SINGLE_64,
    ),
    Load(
        "batches of 1000, 300 customers, each event with an idempotency key",
        _batch(300, keys=True),
        (FAST_LANE,),
        BATCHES,
    ),
    Load(
        "GET /ping, 8 connections", Plan(kind="ping", connections=8), (FAST_LANE, HYPERCORN_ALONE)
    ),
    Load(POSTS, Plan(kind="single", connections=16), (FAST_LANE,)),
    Load(
        "99 single events and a GET in turn, 16 connections",
        Plan(kind="mixed", connections=16),
        (FAST_LANE,),
        POSTS,
    ),
    Load(
        "single events, 64 connections, 100,000 customers",
        Plan(kind="single", connections=64, customers=100_000),
        (FAST_LANE,),
        SINGLE_64,
        2 * POST_SECONDS,  # and last, or others would pay for posting so many
    ),
)
CEILINGS: Final = {
    "decoding alone": SINGLE_64,
    "LMDB alone, 64 in a transaction": SINGLE_64,
    "decoding batches alone": BATCHES,
    "LMDB alone, 1000 in a transaction": BATCHES,
}


def measure(
    folder: Path,
    *,
    seconds: float,
    rounds: int,
    only: Collection[str] = (),
    tell: Callable[[str], None] = lambda _: None,
) -> Loads:
    """All loads; ``only`` these contestants and meterd's fast lane. ``tell`` hears of each."""
    chosen = [one for one in CONTESTANTS if not only or one.name in {*only, FAST_LANE}]
    found: dict[tuple[str, str], Series] = {}
    skipped: dict[str, str] = {}
    with ExitStack() as stack:
        present = _start_all(chosen, folder, stack, skipped)
        for contestant, server in present:
            tell(f"warming up {contestant.name}")
            for plan in WARM_UPS:
                _turn(contestant, server, plan, min(1.0, seconds) * plan.seconds)
        for number in range(rounds):
            for load in LOADS:
                for contestant, server in present[:: -1 if number % 2 else 1]:
                    if contestant.name in load.takers:
                        tell(f"round {number + 1}: {load.name}: {contestant.name}")
                        lasts_s = max(seconds, min(load.at_least_s, 10 * seconds))
                        one = _turn(contestant, server, load.plan, lasts_s)
                        key = load.name, contestant.name
                        beside = load.beside or load.name
                        found.setdefault(key, Series(*key, beside, load.plan, [])).rounds.append(
                            one
                        )
            for name, beside in CEILINGS.items():
                tell(f"round {number + 1}: {name}")
                one = ceilings.measure(name, seconds, folder / f"{name} {number}")
                series = found.setdefault((beside, name), Series(beside, name, beside, None, []))
                series.rounds.append(one)
    order = [load.name for load in LOADS]
    return Loads(sorted(found.values(), key=lambda one: order.index(one.load)), skipped)


def _start_all(
    chosen: list[Contestant], folder: Path, stack: ExitStack, skipped: dict[str, str]
) -> list[tuple[Contestant, Server]]:
    """Starts each server once; who does not start is skipped, with the reason."""
    servers: dict[Start, Server | StartError] = {}
    present = []
    for contestant in chosen:
        if contestant.start not in servers:
            place = folder / str(len(servers))
            place.mkdir()
            try:
                servers[contestant.start] = stack.enter_context(contestant.start(place))
            except StartError as reason:
                servers[contestant.start] = reason
        server = servers[contestant.start]
        if isinstance(server, Server):
            present.append((contestant, server))
        else:
            skipped[contestant.name] = str(server)
    return present


def _turn(contestant: Contestant, server: Server, plan: Plan, seconds: float) -> Round:
    by_quart = contestant.by_quart
    return turn(server, msgspec.structs.replace(plan, by_quart=by_quart, seconds=seconds))


def turn(server: Server, plan: Plan) -> Round:
    """One load, with what it cost the server."""
    cpu_before = server.cpu_seconds()
    found = server.load(plan)
    cpu = server.cpu_seconds() - cpu_before
    cpu_us = cpu / found.events * 1e6 if found.events else None
    return Round(found.events_per_s, cpu_us, found.p50_ms, found.p99_ms, found.failures, found.busy)
