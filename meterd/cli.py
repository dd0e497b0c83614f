"""The command ``meterd``: what is typed, what is printed, and the exit codes."""

from __future__ import annotations

import os
import platform
import secrets
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
from meterd.domain.credentials import (
    ALL_SCOPES,
    ENVIRONMENT_KEY_ID,
    KEY_BYTES,
    ApiKey,
    Scope,
    new_key,
)
from meterd.domain.durations import format_duration
from meterd.domain.endpoints import masked_url
from meterd.domain.errors import MeterdError, StoreError
from meterd.domain.instants import format_instant
from meterd.domain.sections import DESCRIPTION, Refused
from meterd.edge.certificates import server_context, validity
from meterd.embedded.data_folder import holder
from meterd.embedded.store import LMDB_VERSION
from meterd.keyfile import KEY_FILE, add_key, read_keys, remove_key
from meterd.listening import other_address
from meterd.listing_commands import aggregations, events
from meterd.options import OneLineErrors, config_option, config_source, json_option
from meterd.proof_commands import check_proof, prove
from meterd.status_commands import healthcheck, status
from meterd.tables import print_json
from meterd.transfer_commands import export_events, import_events
from meterd.upkeep import backup, compact, restore, verify
from meterd.webhook_commands import webhooks
from meterd.work.clock import WallClock

if TYPE_CHECKING:
    from meterd.domain.addresses import Server
    from meterd.domain.config import Config

_RELOAD: Final = "A running meterd follows on: meterd reload"
# For the list of commands, which cuts longer ones.
_SHORT_HELP: Final = {
    "verify": "Count everything again, and report each difference.",
    "backup": "Copy store and API keys, and check the copy.",
    "restore": "Put a backup into an empty data folder.",
    "compact": "Give the disk back what the store does not use.",
    "prove": "Write what proves a closed aggregation, and check it.",
    "check-proof": "Check what meterd prove wrote, without a store.",
    "deliveries": "List, show and repeat what is sent to webhooks.",
    "healthcheck": "Say whether the meterd that runs answers.",
    "status": "Show how the meterd that runs is doing.",
    "events": "List events.",
    "aggregations": "List aggregations.",
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
    70 serve: start it again, or see meterd verify; 129, 130, 143 interrupted by a hangup, Ctrl-C or
    SIGTERM.
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
    from meterd.daemon import serve as serve_until_told  # noqa: PLC0415 -- the whole HTTP stack

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
        "keys": len(config.keys),
        "eventsKept": None
        if config.retention.events_ms is None
        else format_duration(config.retention.events_ms),
        "dryRun": config.dry_run,
        "logLevel": config.log_level,
        "logFormat": config.log_format,
    }


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

    It gets SIGHUP, if the configuration is valid, and says in its log what became of it. Nothing is
    cut; what a reload cannot change waits for a restart.

    A webhook that is switched on, or put back, gets what closes from then on: what closed
    meanwhile is sent by meterd deliveries replay --since.

    Exit codes: 0 told; 1 not valid, or no meterd runs on the data folder; 2 wrong arguments.
    """
    folder = Path(config_source(given).read().storage.path)
    pid = holder(folder)
    try:
        os.kill(pid, signal.SIGHUP)
    except OSError as fault:
        raise MeterdError(f"process {pid} cannot be told: {fault.strerror}") from fault
    if as_json:
        print_json({"process": pid})
    click.echo(f"process {pid} was told; its log says what became of it", err=True)


@main.group(epilog="Example: meterd keys create --scope read --description dashboard")
def keys() -> None:
    """Make, list and revoke API keys.

    They are kept in the data folder, by their hashes: a lost key cannot be shown again.
    """


@keys.command(epilog="Example: KEY=$(meterd keys create --scope ingest --description 'web shop')")
@config_option
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice([scope.value for scope in Scope]),
    help="What the key may do; may be repeated. Default: all of them. None implies another.",
)
@click.option("--description", default="", help="Whose key it is.")
@json_option
def create(given: Path | None, scopes: tuple[str, ...], description: str, as_json: bool) -> None:
    """Make a key and print it, this once, to stdout.

    Exit codes: 0 made; 1 not made; 2 wrong arguments.
    """
    try:
        DESCRIPTION(description)
    except Refused as refused:
        raise click.BadParameter(str(refused), param_hint="--description") from refused
    config = config_source(given).read()
    text, key = new_key(
        secrets.token_bytes(KEY_BYTES),
        frozenset(map(Scope, scopes)) or ALL_SCOPES,
        description=description,
        created_ms=WallClock().now_ms(),
    )
    folder = Path(config.storage.path)
    is_new = not (folder / "store").exists()
    add_key(folder, key)
    if as_json:
        print_json({"key": text, **_key_found(key, str(folder / KEY_FILE))})
    else:
        click.echo(text)
    click.echo(f"{key.id} made ({_scopes(key)}); it is shown only now. {_RELOAD}", err=True)
    if is_new:
        click.echo(
            f"note: no meterd has run on {folder.absolute()} yet, and this key is for the one that"
            " will: if yours has another data folder, run this where it was started, or with its"
            " METERD_DATA_DIR",
            err=True,
        )


@keys.command("list", epilog="Example: meterd keys list")
@config_option
@json_option
def list_keys(given: Path | None, as_json: bool) -> None:
    """List every key, with its id, scopes and description.

    And with the moment when it was made and the file it stands in.

    Exit codes: 0 listed, also where there are none; 1 a file cannot be read; 2 wrong arguments.
    """
    source = config_source(given)
    config = source.configured()
    path = Path(config.storage.path) / KEY_FILE
    found = [(key, str(path)) for key in read_keys(config.storage.path)]
    found += [
        (key, "" if key.id == ENVIRONMENT_KEY_ID else str(source.path)) for key in config.keys
    ]
    for key, place in found:
        if as_json:
            print_json(_key_found(key, place))
        else:
            click.echo(_line(key, place))


def _key_found(key: ApiKey, place: str) -> dict[str, Any]:
    """All that is known of it; a key of the environment stands in no file."""
    return {
        "id": key.id,
        "scopes": [scope for scope in Scope if scope in key.scopes],
        "description": key.description,
        "createdAt": None if key.created_ms is None else format_instant(key.created_ms),
        "file": place or None,
    }


def _line(key: ApiKey, place: str) -> str:
    made = "" if key.created_ms is None else format_instant(key.created_ms)
    return "  ".join(part for part in (key.id, _scopes(key), made, place, key.description) if part)


def _scopes(key: ApiKey) -> str:
    return ",".join(scope for scope in Scope if scope in key.scopes)


@keys.command(epilog="Example: meterd keys revoke key-1f2e3d4c5b6a")
@config_option
@click.argument("key_id", metavar="ID")
@json_option
def revoke(given: Path | None, key_id: str, as_json: bool) -> None:
    """Take back the key with that id; `meterd keys list` shows the ids.

    Exit codes: 0 revoked; 1 there is no such key in the key file; 2 wrong arguments.
    """
    source = config_source(given)
    config = source.configured()
    if remove_key(config.storage.path, key_id):
        if as_json:
            print_json({"id": key_id})
        click.echo(f"{key_id} revoked. {_RELOAD}", err=True)
    elif key_id == ENVIRONMENT_KEY_ID and any(key.id == key_id for key in config.keys):
        raise MeterdError(f"{key_id} is in the environment: take it out there and restart")
    elif any(key.id == key_id for key in config.keys):
        raise MeterdError(f"{key_id} stands in {source.path}: take its [[keys]] out there")
    else:
        raise MeterdError(f"no key has the id {key_id}; meterd keys list shows them")


for command in (
    *(verify, prove, check_proof, backup, restore, compact, deliveries, webhooks),
    *(status, healthcheck, events, aggregations, import_events, export_events, completion),
):
    command.short_help = _SHORT_HELP[str(command.name)]
    main.add_command(command)
