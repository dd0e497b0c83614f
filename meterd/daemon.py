"""Builds the daemon and takes it down; the one place where everything is named.

Nested blocks are the order of shutdown: the front door stops accepting and answers what it
accepted, then periods are no longer closed nor deliveries sent, then the committer has nothing left
to write, and the store closes.
"""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import structlog
import trio

from meterd import __version__
from meterd.domain.advice import no_longer_published
from meterd.domain.event_ids import NONCE_LIMIT
from meterd.edge.access import Access
from meterd.edge.api import make_app
from meterd.edge.front_door import FrontDoor
from meterd.edge.ingest import Ingest
from meterd.edge.limits import BodyBudget, Limits
from meterd.edge.metrics import Metrics, Sources
from meterd.edge.peers import WrongKeys
from meterd.edge.plain_lane import PlainLane
from meterd.edge.readiness import Readiness
from meterd.edge.request_log import RequestLog
from meterd.embedded.engine import READERS_AT_ONCE, EmbeddedLedger
from meterd.log_lines import follow
from meterd.machine import Machine
from meterd.service_manager import doing
from meterd.settings import Settings
from meterd.work.closer import Closer
from meterd.work.delivery import DeliveryActor
from meterd.work.forgetter import Forgetter
from meterd.work.loop_lag import LoopLag
from meterd.work.threshold_watcher import ThresholdWatcher

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from meterd.domain.config import Config
    from meterd.embedded.store import Store
    from meterd.work.clock import Clock

T = TypeVar("T")

# How long whoever has connected waits to be accepted. Behind a clean stop a start takes some
# milliseconds; a recovery that takes longer says so to who asks.
SHORT_START_S: Final = 0.5
# How long attempts in the air may still take when everything else has stopped. What is left of the
# 10 seconds that a stop may take; an attempt that is cut is made again by the next start.
DELIVERY_STOP_S: Final = 1.5

_log = structlog.get_logger("meterd")


class Daemon:
    """A daemon that listens: where, and how to speak to it. It takes events from ``started`` on."""

    def __init__(
        self,
        settings: Settings,
        readiness: Readiness,
        front_door: FrontDoor,
        closer: Closer,
        forgetter: Forgetter,
        delivery: DeliveryActor,
        thresholds: ThresholdWatcher,
        loop_lag: LoopLag,
    ) -> None:
        self.settings = settings
        self.readiness = readiness
        self.started = readiness.started
        self.front_door = front_door
        self.closer = closer
        self.forgetter = forgetter
        self.delivery = delivery
        self.thresholds = thresholds
        self.loop_lag = loop_lag
        self.urls: list[str] = []
        # Event types with events in open periods that the configuration did not have at the start.
        self.left_out: list[str] = []
        self.has_new_store = False

    async def wait_for_a_short_start(self) -> None:
        """Who has connected is then served, and not told to come again."""
        with trio.move_on_after(SHORT_START_S):
            await self.started.wait()

    def status(self) -> str:
        """What it does, in a line for people."""
        return doing(self.urls, self.readiness.waits_for, is_started=self.started.is_set())

    def reconfigure(self, config: Config) -> None:
        """Takes the configuration over at once; no request is dropped, nothing is cut.

        Raises ConfigError, with the old one in force, where a file that it names cannot be used.
        """
        self.settings.replace(config)
        follow(config)
        self.closer.reconfigure()
        self.delivery.reconfigure()
        self.thresholds.reconfigure()


@asynccontextmanager
async def running(
    config: Config, clock: Clock, machine: Machine | None = None
) -> AsyncIterator[Daemon]:
    """A whole daemon over the configured folder, serving within; what most tests use."""
    async with listening(config, clock, machine) as daemon:
        await daemon.started.wait()
        yield daemon


@asynccontextmanager
async def listening(
    config: Config, clock: Clock, machine: Machine | None = None
) -> AsyncIterator[Daemon]:
    """The same, entered when it listens: it may still have to recover, and can be left meanwhile.

    Raises ConfigError, StoreError and MeterdError where it cannot start, CommitFailedError where it
    cannot go on.
    """
    settings, machine = Settings(config), machine or Machine()
    async with AsyncExitStack() as stack:
        store = stack.enter_context(closing(machine.open_store(Path(config.storage.path))))
        ledger = await stack.enter_async_context(_ledger_over(store, clock, machine).starting())
        work = await stack.enter_async_context(trio.open_nursery())
        forgetter = Forgetter(ledger, clock, settings.config)
        thresholds = ThresholdWatcher(ledger, settings.config)
        delivery = DeliveryActor(
            ledger, clock, settings.config, machine.senders(), _USER_AGENT, machine.below
        )
        closer = Closer(ledger, clock, settings.config, delivery.catch_up)
        limits, loop_lag = Limits(), LoopLag()
        access, bodies = _access(settings, limits), BodyBudget(limits.bodies_bytes_max)
        readiness = _readiness(ledger, closer, clock)
        ingest = Ingest(ledger, settings.config, readiness)
        requests = RequestLog(machine.below, settings.logs_requests, access.key_id)
        plain = PlainLane(ingest, access, bodies, limits, clock.now_ms, requests)
        sources = Sources(
            ledger,
            settings.config,
            clock,
            readiness,
            ingest.counts,
            plain.requests,
            delivery,
            thresholds,
            loop_lag,
            lambda: front_door.statistics(),  # noqa: PLW0108 - it is made below
        )
        app = make_app(
            access,
            settings.config,
            ingest,
            ledger,
            closer,
            delivery,
            clock,
            readiness,
            bodies,
            limits,
            Metrics(sources),
            plain.answers,
        )
        front_door = FrontDoor(
            app, limits, _log, requests, plain=plain, tls=settings.tls, transport=machine.transport
        )
        daemon = Daemon(
            settings, readiness, front_door, closer, forgetter, delivery, thresholds, loop_lag
        )
        daemon.left_out, daemon.has_new_store = await _left_out(ledger, config), store.is_new
        async with trio.open_nursery() as serving:
            listeners = await machine.listen(config)
            daemon.urls = [_url(each, has_tls=config.server.has_tls) for each in listeners]
            await daemon.wait_for_a_short_start()
            await serving.start(daemon.front_door.serve, listeners)
            closing_periods = trio.CancelScope()
            work.start_soon(_work, daemon, work, closing_periods)
            yield daemon
            delivery.begin_shutdown()
            daemon.front_door.begin_shutdown()
        closing_periods.cancel()
        work.cancel_scope.deadline = trio.current_time() + DELIVERY_STOP_S


async def _work(daemon: Daemon, nursery: trio.Nursery, closing_periods: trio.CancelScope) -> None:
    """What happens by itself, when the ledger may be asked; deliveries outlive the cancellation."""
    with closing_periods:
        await daemon.started.wait()
        _log.info("serving", url=daemon.urls)
        await nursery.start(daemon.delivery.run)
        async with trio.open_nursery() as beside:
            # First: what is not closed by then is what it begins with.
            await beside.start(daemon.thresholds.run)
            beside.start_soon(daemon.forgetter.run)
            await daemon.closer.run()


_USER_AGENT: Final = f"meterd/{__version__}"


def _ledger_over(store: Store, clock: Clock, machine: Machine) -> EmbeddedLedger:
    return EmbeddedLedger(
        store,
        now_ms=clock.now_ms,
        nonce=machine.below(NONCE_LIMIT),
        hop=machine.writer_hop(),
        read_hop=machine.hop(READERS_AT_ONCE),
    )


async def _left_out(ledger: EmbeddedLedger, config: Config) -> list[str]:
    return no_longer_published(await ledger.event_types_of_open(config.periods), config)


def _access(settings: Settings, limits: Limits) -> Access:
    wrong_keys = WrongKeys(limits)
    return Access(settings.keyring, wrong_keys, trio.current_time, limits.wrong_keys_wait_s)


def _readiness(ledger: EmbeddedLedger, closer: Closer, clock: Clock) -> Readiness:
    return Readiness(
        ledger.started,
        closer.caught_up,
        lambda: ledger.is_full,
        lambda: ledger.ahead_ms,
        clock.fault,
    )


def _url(listener: trio.SocketListener, *, has_tls: bool) -> str:
    scheme = "https" if has_tls else "http"
    host, port, *_ = listener.socket.getsockname()
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
