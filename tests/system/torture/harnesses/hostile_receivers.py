"""One hostile receiver of webhooks and a healthy one beside it, over real connections.

The delivery actor and the senders are meterd's own; only the deadline of an attempt is shorter. The
healthy receiver must have all of its deliveries at the first attempt, soon; of the hostile one each
attempt must end by its deadline and be taken for what it was; and memory must stay what it was.
"""

from __future__ import annotations

import logging
import random
import resource
import ssl
import sys
from decimal import Decimal
from functools import partial
from ipaddress import ip_network
from typing import TYPE_CHECKING, Final

import msgspec
import structlog
import trio
import trustme

from meterd.domain.config import Config, EventType
from meterd.domain.deliveries import DeliveryStatus
from meterd.domain.endpoints import SLOTS, Endpoint
from meterd.domain.events import UsageEvent
from meterd.domain.operations import Operation
from meterd.domain.periods import HOUR_MS, PeriodType
from meterd.edge.egress import open_sender
from meterd.ledger import AggregationQuery
from meterd.work.clock import WallClock
from meterd.work.closer import rules_of
from meterd.work.delivery import DeliveryActor
from tests.edge.receivers import TRUSTING_NOBODY, listening
from tests.model_ledger import ModelLedger
from tests.system.torture import mutants
from tests.system.torture.children import Voice, fork
from tests.system.torture.harness import Harness, Run, Tally
from tests.system.torture.hostile import Hostile, hostiles, old_context, well

if TYPE_CHECKING:
    from meterd.domain.deliveries import Delivery

DEADLINE_S: Final = 2.0
# The healthy one answers at once: what it takes is the machine's doing.
HEALTHY_S: Final = 10.0
# An attempt's deadline, and the time to settle and to be scheduled beside three others.
SETTLED_S: Final = DEADLINE_S + 8.0
CUSTOMERS: Final = 12
TRIALS_AT_ONCE: Final = 4
GROWTH_MAX: Final = 48 << 10  # KiB, of all receivers and senders together
LOOPBACK: Final = (ip_network("127.0.0.0/8"),)


class _Trial:
    """One hostile receiver, one healthy; ``faults`` says what was not as it must be."""

    def __init__(self, name: str, hostile: Hostile, tls: ssl.SSLContext | None) -> None:
        self.faults: list[str] = []
        self._name = name
        self._hostile = hostile
        self._tls = tls
        now_ms = WallClock().now_ms()
        self._now_ms = now_ms - HOUR_MS
        self._ledger = ModelLedger(lambda: self._now_ms)

    async def run(self) -> int:
        """How many attempts at the hostile one were looked at."""
        async with (
            listening(self._hostile.handler, self._tls) as hostile,
            listening(well) as healthy,
        ):
            scheme = "https" if self._hostile.tls else "http"
            config = Config(
                periods=(PeriodType.HOURLY,),
                events={"api.calls": EventType(Operation.SUM)},
                webhooks=(
                    _endpoint("hostile", f"{scheme}://127.0.0.1:{hostile.port}/"),
                    _endpoint("healthy", f"http://127.0.0.1:{healthy.port}/"),
                ),
            )
            await self._close_hour(config)
            senders = partial(open_sender, tls=TRUSTING_NOBODY)
            actor = DeliveryActor(self._ledger, WallClock(), lambda: config, senders, "meterd/0")
            async with trio.open_nursery() as nursery:
                await nursery.start(actor.run)
                await self._wait("healthy", CUSTOMERS, HEALTHY_S)
                tried = await self._wait("hostile", SLOTS, SETTLED_S)
                nursery.cancel_scope.cancel()
        for delivery in tried:
            error = delivery.last_error
            if not any(
                error is None if begins is None else (error or "").startswith(begins)
                for begins in self._hostile.errors
            ):
                self.faults.append(f"an attempt came to {error!r}")
        return len(tried)

    async def _close_hour(self, config: Config) -> None:
        events = [
            UsageEvent(f"c{number}", "api.calls", Decimal(1), b"{}") for number in range(CUSTOMERS)
        ]
        await self._ledger.append(events)
        self._now_ms += HOUR_MS
        period = await self._ledger.next_to_close()
        assert period is not None
        await self._ledger.close(period, rules_of(config))

    async def _wait(self, endpoint_id: str, count: int, seconds: float) -> list[Delivery]:
        """Those of the endpoint of which an attempt has ended, once they are so many."""
        ended: list[Delivery] = []
        with trio.move_on_after(seconds) as waiting:
            while len(ended) < count:
                await trio.sleep(0.02)
                found = await self._ledger.aggregations(AggregationQuery(), limit=CUSTOMERS)
                ended = [
                    delivery
                    for one in found
                    for delivery in one.deliveries
                    if delivery.endpoint_id == endpoint_id
                    and (delivery.status is DeliveryStatus.DELIVERED or delivery.last_error)
                ]
        if waiting.cancelled_caught:
            self.faults.append(f"{len(ended)} attempts at the {endpoint_id} one ended in time")
        if endpoint_id == "healthy":
            late = [one for one in ended if one.status is not DeliveryStatus.DELIVERED]
            self.faults += [f"the healthy one failed: {one.last_error}" for one in late]
        return ended


def _endpoint(endpoint_id: str, url: str) -> Endpoint:
    return Endpoint(
        endpoint_id,
        url,
        ("whsec_secret",),
        allow_private=LOOPBACK,
        deadline_ms=round(1000 * DEADLINE_S),
    )


class _Found(msgspec.Struct):
    """What a child says at the end."""

    attempts: int
    growth_kib: int
    faults: list[str]


def _contexts() -> dict[str, ssl.SSLContext | None]:
    authority, other = trustme.CA(), trustme.CA()
    made: dict[str, ssl.SSLContext | None] = {"": None, "none": None}
    for name, (issuer, host) in {
        "self-signed": (other, "127.0.0.1"),
        "other": (authority, "other.example"),
        "old": (authority, "127.0.0.1"),
    }.items():
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        issuer.issue_cert(host).configure_cert(context)
        made[name] = old_context(context) if name == "old" else context
    return made


async def _try(names: list[str]) -> _Found:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    contexts, all_of_them = _contexts(), hostiles()
    at_once = trio.CapacityLimiter(TRIALS_AT_ONCE)
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = _Found(0, 0, [])

    async def one(name: str) -> None:
        async with at_once:
            hostile = all_of_them[name]
            trial = _Trial(name, hostile, contexts[hostile.tls])
            attempts = await trial.run()
            found.attempts += attempts
            found.faults += [f"{name}: {fault}" for fault in trial.faults]

    async with trio.open_nursery() as nursery:
        for name in names:
            nursery.start_soon(one, name)
    found.growth_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib
    if found.growth_kib > GROWTH_MAX:
        found.faults.append(f"memory grew by {found.growth_kib >> 10} MiB")
    return found


def _run(run: Run) -> Tally:
    tally = Tally()
    while tally.done < run.count:
        chance = random.Random(f"{run.seed} {tally.done}")
        names = list(hostiles())[: run.count - tally.done]
        chance.shuffle(names)

        def child(voice: Voice, names: list[str] = names) -> int:
            mutants.apply(run.mutant)
            voice.say(msgspec.json.encode(trio.run(_try, names)).decode())
            return 0

        ended = fork(child, seconds=120)
        assert not ended.exit_code, f"the child failed: {ended}"
        found = msgspec.json.decode(ended.said, type=_Found)
        tally.seen["attempts"] += found.attempts
        for fault in found.faults:
            tally.find(f"{fault} ({names})", wrong=1)
        tally.done += len(names)
        run.done(tally.done)
    return tally


HARNESS: Final = Harness(
    name="hostile_receivers",
    unit="hostile receivers",
    promise="a receiver that means no good costs itself only",
    short=len(hostiles()),
    long=10 * len(hostiles()),
    mutant_count=len(hostiles()),
    run=_run,
    mutants=("no_deadline", "no_answer_limit", "broken_off_is_delivered"),
)

if __name__ == "__main__":
    sys.stdout.write(str(trio.run(_try, sys.argv[1:] or list(hostiles()))) + "\n")
