"""The command ``meterd``: what is typed, what is printed, and the exit codes."""

from __future__ import annotations

import os
import platform
import signal
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from meterd import __version__
from meterd.built import COMMIT
from meterd.completion_command import completion
from meterd.delivery_commands import deliveries
from meterd.domain.advice import advice
from meterd.domain.durations import format_duration
from meterd.domain.endpoints import masked_url
from meterd.domain.errors import MeterdError, StoreError
from meterd.domain.instants import format_instant
from meterd.domain.javascript import exact_text
from meterd.domain.sections import quoted
from meterd.edge.certificates import server_context, validity
from meterd.embedded.data_folder import holder
from meterd.embedded.store import LMDB_VERSION
from meterd.export_command import export_events
from meterd.import_command import import_events
from meterd.key_commands import keys
from meterd.listening import other_address
from meterd.listing_commands import aggregations, events
from meterd.options import OneLineErrors, config_option, config_source, json_option
from meterd.proof_commands import check_proof, prove
from meterd.status_commands import healthcheck, status
from meterd.tables import print_json
from meterd.upkeep import backup, compact, restore, verify
from meterd.usage_commands import customers, usage
from meterd.void_command import void
from meterd.webhook_commands import webhooks

if TYPE_CHECKING:
    from meterd.domain.addresses import Server
    from meterd.domain.alerts import Alert
    from meterd.domain.config import Config

# For the list of commands, which cuts longer ones.
_SHORT_HELP: Final = {
    "verify": "Count everything again, and report each difference.",
    "backup": "Copy store and API keys, and check the copy.",
    "restore": "Put a backup into an empty data folder.",
    "compact": "Give the disk back what the store does not use.",
    "prove": "Write what proves a closed aggregation, and check it.",
    "check-proof": "Check what meterd prove wrote, without a store.",
    "keys": "Make, list and revoke API keys.",
    "deliveries": "List, show and repeat what is sent to webhooks.",
    "healthcheck": "Say whether the meterd that runs answers.",
    "status": "Show how the meterd that runs is doing.",
    "events": "List events.",
    "void": "Take an event back.",
    "aggregations": "List aggregations.",
    "customers": "List customers.",
    "usage": "Show what a customer has used, live or over time.",
    "completion": "Print what makes a shell complete commands.",
    "import": "Send the events in a file: JSON lines, CSV or Parquet.",
    "export": "Write events to a file: JSON lines, CSV or Parquet.",
    "webhooks": "List, test and enable webhooks, or see what they get.",
}


def _print_version(ctx: click.Context, _: click.Parameter, is_asked: bool) -> None:
    if is_asked:
        python = platform.python_version()
        made_of = f"commit {COMMIT or 'unknown'}, Python {python}, LMDB {LMDB_VERSION}"
        click.echo(f"meterd {__version__} ({made_of})")
        ctx.exit()


@click.group(cls=OneLineErrors, epilog="Example: meterd serve --config systemconfig.toml")
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Print version, commit, Python and LMDB.",
)
def main() -> None:
    """Self-hosted usage metering: events in, exact totals kept, signed webhooks out.

    Every command reads a configuration (--config) and works on the data folder that it names as
    storage.path, which is relative to the folder where the command is run. METERD_DATA_DIR names
    another one, whatever the configuration says.

    Exit codes of every command: 0 done; 1 not done, with the reason on stderr; 2 wrong arguments;
    3 prove, check-proof: done, but some events were pruned; 70 serve: start it again, or see meterd
    verify; 129, 130, 143 interrupted by a hangup, Ctrl-C or SIGTERM.
    """


@main.command(epilog="Example: meterd serve --config /etc/meterd/systemconfig.toml")
@config_option
@click.pass_context
def serve(ctx: click.Context, given: Path | None) -> None:
    """Run the daemon until SIGTERM or SIGINT.

    SIGHUP reads the configuration again. Exit codes: 0 stopped as told; 1 the configuration or the
    data folder cannot be used, also for want of room; 2 wrong arguments; 70 a write did not reach
    the disk, start again; or a stored record is damaged, see meterd verify.
    """
    from meterd.serving import serve as serve_until_told  # noqa: PLC0415 -- the whole HTTP stack

    ctx.exit(serve_until_told(config_source(given)))


@main.command(epilog="Example: meterd check && meterd reload")
@config_option
@json_option
def check(given: Path | None, as_json: bool) -> None:
    """Say whether a configuration is valid, and what would run.

    A meterd that runs already takes it over on `meterd reload`, all but another address or data
    folder: for these it must be started again.

    Exit codes: 0 valid; 1 not valid, with every fault on stderr; 2 wrong arguments.
    """
    source = config_source(given)
    config = source.read()
    summary, found = _summary(config), _found(config)
    notes = [*advice(config), *_beside_a_daemon(config)]
    if as_json:
        print_json({"file": str(source.path), **found, "notes": notes})
        return
    click.echo(f"{source.path} is valid")
    for name, value in summary:
        click.echo(f"  {name:<12}{value}")
    for line in notes:
        click.echo(f"note: {line}", err=True)


def _beside_a_daemon(config: Config) -> list[str]:
    with suppress(StoreError):
        pid = holder(Path(config.storage.path))
        if found := other_address(pid, config.server):
            where = f"process {pid} listens on {found}"
            return [f"{where}: it needs a restart, not a reload, for another server.bind"]
    return []


def _summary(config: Config) -> list[tuple[str, str]]:
    periods = ", ".join(config.periods) or "none"
    return [
        ("address", config.server.bind),
        ("tls", _tls(config.server)),
        ("data", config.storage.path),
        ("periods", f"{periods}; closed {format_duration(config.grace_ms)} after their end"),
        *[("event type", f"{name} ({kind.op})") for name, kind in config.events.items()],
        *[
            ("webhook", f"{hook.id} {masked_url(hook.url)}{'' if hook.enabled else ' (disabled)'}")
            for hook in config.webhooks
        ],
        *[("alert", f"{alert.id}: {_watched(alert)}") for alert in config.alerts],
        ("keys", str(len(config.keys)) if config.keys else "none; the first start makes one"),
        ("events", _kept(config.retention.events_ms)),
        ("dry run", "yes: nothing is sent" if config.dry_run else "no"),
        ("log level", config.log_level),
        ("log format", config.log_format),
    ]


def _found(config: Config) -> dict[str, Any]:
    """As ``_summary``, for programs."""
    return {
        "address": config.server.bind,
        "tls": _tls(config.server),
        "data": config.storage.path,
        "periods": config.periods,
        "grace": format_duration(config.grace_ms),
        "eventTypes": {name: kind.op for name, kind in config.events.items()},
        "webhooks": [
            {"id": hook.id, "url": masked_url(hook.url), "enabled": hook.enabled}
            for hook in config.webhooks
        ],
        "alerts": [alert.id for alert in config.alerts],
        "keys": len(config.keys),
        "eventsKept": None
        if config.retention.events_ms is None
        else format_duration(config.retention.events_ms),
        "dryRun": config.dry_run,
        "logLevel": config.log_level,
        "logFormat": config.log_format,
    }


def _watched(alert: Alert) -> str:
    thresholds = ", ".join(map(exact_text, alert.thresholds))
    whose = "" if alert.customer is None else f" of {quoted(alert.customer)}"
    return f"{alert.event} at {thresholds}, {alert.period}{whose}"


def _kept(events_ms: int | None) -> str:
    if events_ms is None:
        return "kept for ever"
    return f"kept for {format_duration(events_ms)} at least, then deleted for good"


def _tls(server: Server) -> str:
    """Raises ConfigError where the files cannot be used."""
    if not server.has_tls:
        return "no"
    context = server_context(server.tls_certificate, server.tls_key)
    until_ms, refusal = validity(context, server.tls_certificate)
    until = "" if until_ms is None else f"until {format_instant(until_ms)}"
    return f"{server.tls_certificate}, {until or f'which clients refuse: {refusal}'}"


@main.command(epilog="Example: meterd check && meterd reload")
@config_option
@json_option
def reload(given: Path | None, as_json: bool) -> None:
    """Have a running meterd read configuration and keys again.

    It gets SIGHUP, if the configuration and its certificate are valid, and says in its log what
    became of it. Nothing is cut; what a reload cannot change waits for a restart.

    A webhook that is switched on, or put back, gets what closes from then on: what closed
    meanwhile is sent by meterd deliveries replay --since.

    Exit codes: 0 told; 1 not valid, or no meterd runs on the data folder; 2 wrong arguments.
    """
    config = config_source(given).read()
    _tls(config.server)
    pid = holder(Path(config.storage.path))
    try:
        os.kill(pid, signal.SIGHUP)
    except OSError as fault:
        raise MeterdError(f"process {pid} cannot be told: {fault.strerror}") from fault
    if as_json:
        print_json({"process": pid})
    click.echo(f"process {pid} was told; its log says what became of it", err=True)


for command in (
    *(verify, prove, check_proof, backup, restore, compact, deliveries, webhooks),
    *(keys, status, healthcheck, events, void, aggregations, customers, usage),
    *(import_events, export_events, completion),
):
    command.short_help = _SHORT_HELP[str(command.name)]
    main.add_command(command)
