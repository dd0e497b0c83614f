"""How fast closed aggregations reach their endpoints: store, worker, signatures and sender.

The engine and its workers have one core, the receivers the other. All deliveries of an hour's end
wait in the store, or become due while it closes; what is measured goes on until each has arrived.
How long one took is told twice: from when the closing began, which is the same for all of the hour,
and from when its own aggregation was on disk.

``python -m tests.benchmarks.states.delivering FOLDER JSON`` measures one Case.
"""

from __future__ import annotations

import logging
import ssl
import subprocess
import sys
import time
from bisect import bisect
from contextlib import ExitStack, contextmanager
from decimal import Decimal
from functools import partial
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import structlog
import trio

from meterd.domain.config import Config, EventType
from meterd.domain.deliveries import DeliveryStatus
from meterd.domain.endpoints import Endpoint
from meterd.domain.events import UsageEvent
from meterd.domain.operations import Operation
from meterd.domain.periods import HOUR_MS, PeriodType
from meterd.edge.egress import open_sender
from meterd.embedded import keys
from meterd.embedded.engine import EmbeddedLedger
from meterd.embedded.store import Store
from meterd.ledger import DeliveryQuery
from meterd.machine import tune_interpreter
from meterd.work.clock import WallClock
from meterd.work.closer import rules_of
from meterd.work.delivery import DeliveryActor
from tests.benchmarks.pacing import percentile
from tests.benchmarks.plan import EVENT_TYPES
from tests.benchmarks.processes import LOAD_CORE, SERVER_CORE, pinned, python
from tests.benchmarks.results import Case, Delivering
from tests.daemon_process import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from meterd.domain.deliveries import Delivery

ALONE: Final = "one endpoint"
CASES: Final = (
    Case(ALONE, customers=6_000),
    Case("four endpoints", customers=2_000, endpoints=4),
    Case(
        "one, beside five that hang, drip, flood, hint and refuse",
        customers=6_000,
        is_besieged=True,
    ),
    Case("one, batch = 100", customers=40_000, batch=100),
    Case("one, 1,000 customers closing at once", customers=1_000, is_closing=True),
    Case(
        "one, batch = 100, 1,000 customers closing at once",
        customers=1_000,
        batch=100,
        is_closing=True,
    ),
)
_SECRET: Final = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
_BATCH_OF_EVENTS: Final = 1000
_BETWEEN_EVENTS_S: Final = 0.005


def measure(folder: Path, *, rounds: int, share: float = 1.0) -> list[list[Delivering]]:
    """Each case as often, in turn; a process each."""
    found: list[list[Delivering]] = [[] for _ in CASES]
    for number in range(rounds):
        for made, case in zip(found, CASES, strict=True):
            customers = max(1, round(case.customers * share))
            with _receivers(case) as urls:
                run = msgspec.structs.replace(case, customers=customers, urls=urls)
                place = folder / f"{number}-{CASES.index(case)}"
                made.append(_in_a_process(place, run))
    return found


def _in_a_process(folder: Path, case: Case) -> Delivering:
    module = "tests.benchmarks.states.delivering"
    command = [sys.executable, "-m", module, str(folder), msgspec.json.encode(case).decode()]
    out = subprocess.run(
        [*pinned(SERVER_CORE), *command], cwd=ROOT, stdout=subprocess.PIPE, check=True
    ).stdout
    return msgspec.json.decode(out, type=Delivering)


@contextmanager
def _receivers(case: Case) -> Iterator[tuple[str, ...]]:
    """Good ones first; behind them one port that nobody listens at."""
    with ExitStack() as stack:
        good = stack.enter_context(_serving("trio_alone"))
        urls = [f"{good[0]}/{number}" for number in range(case.endpoints)]
        if case.is_besieged:
            urls += [*stack.enter_context(_serving("bad_receivers")), "http://127.0.0.1:9"]
        yield tuple(urls)


@contextmanager
def _serving(module: str) -> Iterator[list[str]]:
    command = [*pinned(LOAD_CORE), *python(module)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split()
        finally:
            process.stdin.close()
            process.wait()


class _Bench:
    """An engine whose clock is behind until the hour is to end."""

    def __init__(self, folder: Path, case: Case) -> None:
        self._case = case
        self._clock = WallClock()
        self._behind_ms = HOUR_MS
        self._appended_ms: list[float] = []
        self._made: list[tuple[int, int]] = []
        self._config = _config(case)
        limits = trio.CapacityLimiter(1), trio.CapacityLimiter(4)
        hop, read_hop = (partial(trio.to_thread.run_sync, limiter=limit) for limit in limits)
        self.store = Store(folder)
        self.ledger = EmbeddedLedger(
            self.store, now_ms=self._now_ms, nonce=1, hop=hop, read_hop=read_hop
        )

    async def run(self) -> Delivering:
        case = self._case
        async with self.ledger.running():
            await self._introduce()
            self._behind_ms = 0
            period = await self.ledger.next_to_close()
            assert period is not None
            rules = rules_of(self._config)
            senders = partial(open_sender, tls=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
            actor = DeliveryActor(
                self.ledger, self._clock, lambda: self._config, senders, "meterd/0"
            )
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._note_made)
                if not case.is_closing:
                    await self.ledger.close(period, rules)
                began, cpu_began = time.perf_counter(), time.process_time()
                await nursery.start(actor.run)
                nursery.start_soon(self._ingest)
                if case.is_closing:
                    await self.ledger.close(period, rules, catch_up=actor.catch_up)
                total = case.customers * case.endpoints
                await self._wait_for_all()
                took = time.perf_counter() - began
                cpu = time.process_time() - cpu_began
                nursery.cancel_scope.cancel()
            delivered = await self._delivered(total)
        waited = sorted(_waited_ms(one) for one in delivered)
        on_disk = sorted((one.delivered_ms or 0) - self._made_ms(one) for one in delivered)
        return Delivering(
            case.name,
            total / took,
            cpu / total * 1e6,
            percentile(waited, 0.5),
            percentile(waited, 0.99),
            percentile(on_disk, 0.5),
            percentile(on_disk, 0.99),
            percentile(sorted(self._appended_ms), 0.99),
        )

    async def _note_made(self) -> None:
        """How many deliveries were on disk when."""
        made = 0
        while True:
            await self.ledger.wait_deliveries_made(made)
            made = self.ledger.deliveries_made()
            self._made.append((made, self._clock.now_ms()))

    def _made_ms(self, delivery: Delivery) -> int:
        """When it was on disk: each customer has one to each endpoint, also to those that fail."""
        _, at_ms = self._made[bisect(self._made, (delivery.sequence * len(self._case.urls),))]
        return at_ms

    async def _ingest(self) -> None:
        """Events of the next hour, one at a time, as they come beside deliveries."""
        while True:
            began = time.perf_counter()
            await self.ledger.append([UsageEvent("newcomer", EVENT_TYPES[0], Decimal(1), b"{}")])
            self._appended_ms.append((time.perf_counter() - began) * 1e3)
            await trio.sleep(_BETWEEN_EVENTS_S)

    async def _introduce(self) -> None:
        names = [f"customer_{number}" for number in range(self._case.customers)]
        events = [
            UsageEvent(name, kind, Decimal("1.5"), b"{}") for name in names for kind in EVENT_TYPES
        ]
        for first in range(0, len(events), _BATCH_OF_EVENTS):
            await self.ledger.append(events[first : first + _BATCH_OF_EVENTS])

    async def _wait_for_all(self) -> None:
        """Until nothing waits at the good ones."""
        while any(map(self._is_waited_for, _good(self._case))):  # noqa: ASYNC110 - nobody tells
            await trio.sleep(0.01)

    def _is_waited_for(self, endpoint_id: str) -> bool:
        """Looks at one key: to count what waits would take longer than to send it."""
        prefix = keys.endpoint_prefix(endpoint_id)
        with self.store.read() as txn:
            return any(txn.keys_forward("outbox_by_customer", prefix, prefix))

    async def _delivered(self, total: int) -> Sequence[Delivery]:
        found: list[Delivery] = []
        for name in _good(self._case):
            query = DeliveryQuery(endpoint_id=name, status=DeliveryStatus.DELIVERED)
            found += await self.ledger.deliveries(query, limit=total)
        assert len(found) == total, f"{total - len(found)} are not delivered"
        return found

    def _now_ms(self) -> int:
        return self._clock.now_ms() - self._behind_ms


def _good(case: Case) -> list[str]:
    return [f"e{number}" for number in range(case.endpoints)]


def _waited_ms(delivery: Delivery) -> float:
    return (delivery.delivered_ms or 0) - delivery.created_ms


def _config(case: Case) -> Config:
    return Config(
        periods=(PeriodType.HOURLY,),
        events={name: EventType(Operation.SUM) for name in EVENT_TYPES},
        webhooks=tuple(
            Endpoint(
                f"e{number}",
                url,
                (_SECRET,),
                allow_private=(ip_network("127.0.0.0/8"),),
                batch=case.batch,
            )
            for number, url in enumerate(case.urls)
        ),
    )


async def _run(folder: Path, case: Case) -> Delivering:
    bench = _Bench(folder, case)
    try:
        return await bench.run()
    finally:
        bench.store.close()


if __name__ == "__main__":
    # As a daemon that is told to log warnings.
    tune_interpreter()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    _, place, text = sys.argv
    result = trio.run(_run, Path(place), msgspec.json.decode(text, type=Case))
    sys.stdout.buffer.write(msgspec.json.encode(result))
