"""Builds the daemon and takes it down; the one place where everything is named.

Nested blocks are the order of shutdown: the front door stops accepting and answers what it
accepted, then periods are no longer closed nor deliveries sent, then the committer has nothing left
to write, and the store closes.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import time
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import structlog
import trio

from meterd import __version__
from meterd.domain.config import changes_needing_restart
from meterd.domain.credentials import ENVIRONMENT_KEY_ID, KEY_BYTES
from meterd.domain.errors import (
    CommitFailedError,
    ConfigError,
    CorruptRecordError,
    MeterdError,
    StoreGoneError,
)
from meterd.domain.event_ids import NONCE_LIMIT
from meterd.edge.access import Access
from meterd.edge.api import make_app
from meterd.edge.front_door import FrontDoor
from meterd.edge.ingest import Ingest
from meterd.edge.limits import FILES_MAX, BodyBudget, Limits
from meterd.edge.metrics import Metrics, Sources
from meterd.edge.peers import WrongKeys
from meterd.edge.plain_lane import PlainLane
from meterd.edge.readiness import Readiness
from meterd.edge.request_log import RequestLog
from meterd.embedded.engine import READERS_AT_ONCE, EmbeddedLedger
from meterd.frozen import started_pid
from meterd.inherited import take_sockets
from meterd.keyfile import ensure_key
from meterd.log_lines import follow, logging_as
from meterd.machine import Machine, open_files_allowed, tune_interpreter
from meterd.service_manager import ServiceManager, doing
from meterd.settings import Settings
from meterd.work.clock import WallClock
from meterd.work.closer import Closer
from meterd.work.delivery import DeliveryActor
from meterd.work.forgetter import Forgetter
from meterd.work.loop_lag import LoopLag
from meterd.work.threshold_watcher import ThresholdWatcher

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from meterd.domain.config import Config
    from meterd.embedded.store import Store
    from meterd.source import ConfigSource
    from meterd.work.clock import Clock

T = TypeVar("T")

# sysexits.h EX_SOFTWARE: memory may be ahead of the disk, or the disk is not what was written. A
# supervisor should start meterd again, which recovers from what can be recovered from.
EXIT_BROKEN: Final = 70
# How long whoever has connected waits to be accepted. Behind a clean stop a start takes some
# milliseconds; a recovery that takes longer says so to who asks.
SHORT_START_S: Final = 0.5
# How long attempts in the air may still take when everything else has stopped. What is left of the
# 10 seconds that a stop may take; an attempt that is cut is made again by the next start.
DELIVERY_STOP_S: Final = 1.5
_NOT_RELOADED: Final = "configuration not reloaded: the old one stays"

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
        closer = Closer(ledger, clock, settings.config)
        forgetter = Forgetter(ledger, clock, settings.config)
        thresholds = ThresholdWatcher(ledger, settings.config)
        delivery = DeliveryActor(
            ledger, clock, settings.config, machine.senders(), _USER_AGENT, machine.below
        )
        limits = Limits()
        access = _access(settings, limits)
        bodies = BodyBudget(limits.bodies_bytes_max)
        readiness = _readiness(ledger, closer, clock)
        ingest = Ingest(ledger, settings.config, readiness)
        requests = RequestLog(machine.below, settings.logs_requests, access.key_id)
        plain = PlainLane(ingest, access, bodies, limits, clock.now_ms, requests)
        loop_lag = LoopLag()
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
        )
        front_door = FrontDoor(
            app, limits, _log, requests, plain=plain, tls=settings.tls, transport=machine.transport
        )
        daemon = Daemon(
            settings, readiness, front_door, closer, forgetter, delivery, thresholds, loop_lag
        )
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


def serve(source: ConfigSource) -> int:
    """Runs the daemon until SIGTERM or SIGINT and returns the exit code. Raises MeterdError."""
    if not __debug__:
        raise MeterdError("meterd does not run with python -O: its assertions keep totals right")
    os.umask(0o077)
    config = source.read()
    tune_interpreter()
    with logging_as(config):
        return _exit_code_of(source, config)


def _exit_code_of(source: ConfigSource, config: Config) -> int:
    refused: list[MeterdError] = []
    exit_code = 0
    if (files := open_files_allowed(FILES_MAX)) < FILES_MAX:
        _log.warning(
            "few open files allowed: with very many clients and slow receivers, some are refused;"
            " raise ulimit -Hn",
            allowed=files,
            needed=FILES_MAX,
        )
    machine = Machine(take_sockets(os.environ, os.getpid()))
    try:
        trio.run(_serve_until_told, source, config, machine)
    except* StoreGoneError as failed:
        _log.critical(
            "the data folder was deleted, moved or replaced while meterd ran: put it back, or"
            " restore a backup, and start meterd again",
            error=str(next(_leaves(failed))),
            data=config.storage.path,
        )
        exit_code = EXIT_BROKEN
    except* CommitFailedError as failed:
        _log.critical(
            "a write did not reach the disk: see to the disk and start meterd again",
            error=str(next(_leaves(failed))),
            data=config.storage.path,
            free_mb=shutil.disk_usage(config.storage.path).free >> 20,
        )
        exit_code = EXIT_BROKEN
    except* CorruptRecordError as failed:
        _log.critical(
            "a stored record is damaged: run meterd verify, and restore a backup",
            error=str(next(_leaves(failed))),
            data=config.storage.path,
        )
        exit_code = EXIT_BROKEN
    except* MeterdError as failed:
        refused = list(_leaves(failed))
    except* Exception as failed:  # noqa: BLE001 - the last one to see it; it ends the process
        _log.critical("meterd is broken: start it again, and report this", exc_info=failed)
        exit_code = EXIT_BROKEN
    if refused and exit_code != EXIT_BROKEN:
        raise refused[0]
    for fault in refused:
        _log.error("beside that", error=str(fault))
    return exit_code


def _leaves(group: BaseExceptionGroup[MeterdError]) -> Iterator[MeterdError]:
    for fault in group.exceptions:
        if isinstance(fault, BaseExceptionGroup):
            yield from _leaves(fault)
        else:
            yield fault


async def _serve_until_told(source: ConfigSource, config: Config, machine: Machine) -> None:
    manager = ServiceManager(os.environ, started_pid(), time.monotonic_ns)
    # The receiver hands what it did not give to whoever heard signals before, and a second SIGTERM
    # must not cut short what is still to be said.
    early: list[int] = []
    for stop in (signal.SIGTERM, signal.SIGINT):
        signal.signal(stop, lambda number, _: early.append(number))
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        for number in early[:]:
            signal.raise_signal(number)
        async with (
            listening(config, WallClock(), machine) as daemon,
            trio.open_nursery() as beside,
        ):
            beside.start_soon(daemon.loop_lag.run)
            _log.info(
                "listening",
                url=daemon.urls,
                config=str(source.path),
                data=config.storage.path,
                pid=os.getpid(),
                version=__version__,
            )
            _ensure_key(source, daemon)
            beside.start_soon(manager.run, daemon.started, daemon.closer.caught_up, daemon.status)
            async for received in signals:
                if received != signal.SIGHUP:
                    break
                await manager.reloading()
                outcome = _reload(source, daemon, config)
                await manager.reloaded(f"{daemon.status()}; {outcome}")
            _log.info("stopping", signal=signal.Signals(received).name)
            await manager.stopping()
            beside.cancel_scope.cancel()
    _log.info("stopped")


def _ensure_key(source: ConfigSource, daemon: Daemon) -> None:
    """Makes a key if there is none: only now, when nothing keeps meterd from serving any more."""
    config = daemon.settings.config()
    if any(key.id == ENVIRONMENT_KEY_ID for key in config.keys):
        # It may have been meant for commands, and no other is made where there is one.
        others = len(config.keys) - 1
        _log.info("the key in METERD_API_KEY is let in, with all scopes", other_keys=others)
    text = ensure_key(
        config.storage.path,
        config,
        secrets.token_bytes(KEY_BYTES),
        created_ms=WallClock().now_ms(),
    )
    if text is not None:
        daemon.reconfigure(source.read(data_dir=config.storage.path))
        print(  # noqa: T201 - shown once, to the one who starts it, and never logged
            f"meterd made an API key; it is shown only now:\n\n    {text}\n", flush=True
        )


def _reload(source: ConfigSource, daemon: Daemon, started_with: Config) -> str:
    """What came of it. Where to listen and what folder to use stay as they were at the start."""
    try:
        config = source.read(data_dir=started_with.storage.path)
        daemon.reconfigure(config)
    except ConfigError as fault:
        _log.error(_NOT_RELOADED, faults=str(fault).splitlines())
        return _NOT_RELOADED
    for line in changes_needing_restart(started_with, config):
        _log.warning("a change needs a restart", change=line)
    _log.info("configuration reloaded")
    return "configuration reloaded"


def _ledger_over(store: Store, clock: Clock, machine: Machine) -> EmbeddedLedger:
    return EmbeddedLedger(
        store,
        now_ms=clock.now_ms,
        nonce=machine.below(NONCE_LIMIT),
        hop=machine.hop(1),
        read_hop=machine.hop(READERS_AT_ONCE),
    )


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
