"""Runs a daemon as a process: its signals, its first key, reloads, and with what it exits."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import time
from typing import TYPE_CHECKING, Final

import structlog
import trio

from meterd import __version__
from meterd.daemon import listening
from meterd.domain.advice import no_longer_published
from meterd.domain.config import changes_needing_restart
from meterd.domain.credentials import ENVIRONMENT_KEY_ID, KEY_BYTES
from meterd.domain.errors import (
    CommitFailedError,
    ConfigError,
    CorruptRecordError,
    MeterdError,
    StoreGoneError,
)
from meterd.edge.limits import FILES_MAX
from meterd.frozen import started_pid
from meterd.inherited import take_sockets
from meterd.keyfile import ensure_key
from meterd.log_lines import logging_as
from meterd.machine import Machine, open_files_allowed, tune_interpreter
from meterd.service_manager import ServiceManager
from meterd.work.clock import WallClock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meterd.daemon import Daemon
    from meterd.domain.config import Config
    from meterd.source import ConfigSource

# sysexits.h EX_SOFTWARE: memory may be ahead of the disk, or the disk is not what was written. A
# supervisor should start meterd again, which recovers from what can be recovered from.
EXIT_BROKEN: Final = 70
_NOT_RELOADED: Final = "configuration not reloaded: the old one stays"

_log = structlog.get_logger("meterd")


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
            if daemon.has_new_store:
                _tell_of_new_store(config)
            _log.info(
                "listening",
                url=daemon.urls,
                config=str(source.path),
                data=config.storage.path,
                pid=os.getpid(),
                version=__version__,
            )
            _warn_of(daemon.left_out)
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
        try:
            print(  # noqa: T201 - shown once, to the one who starts it, and never logged
                f"meterd made an API key; it is shown only now:\n\n    {text}\n", flush=True
            )
        except OSError as fault:
            lost = "the first API key could not be shown: meterd keys create makes another"
            _log.error(lost, error=f"stdout: {fault.strerror}")


def _tell_of_new_store(config: Config) -> None:
    """A disk that is not mounted would go unnoticed."""
    place = os.path.realpath(config.storage.path)
    _log.info("there was no store: an empty one was made", data=place)


def _warn_of(event_types: list[str]) -> None:
    if event_types:
        _log.warning(
            "taken out, and left out of what closes until put back", event_types=event_types
        )


def _reload(source: ConfigSource, daemon: Daemon, started_with: Config) -> str:
    """What came of it. Where to listen and what folder to use stay as they were at the start."""
    try:
        config = source.read(data_dir=started_with.storage.path)
        before = daemon.settings.config()
        daemon.reconfigure(config)
    except ConfigError as fault:
        _log.error(_NOT_RELOADED, faults=str(fault).splitlines())
        return _NOT_RELOADED
    for line in changes_needing_restart(started_with, config):
        _log.warning("a change needs a restart", change=line)
    _warn_of(no_longer_published(before.events, config))
    _log.info("configuration reloaded")
    return "configuration reloaded"
