"""The commands ``keys create``, ``list`` and ``revoke``."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any, Final

import click

from meterd.domain.credentials import (
    ALL_SCOPES,
    ENVIRONMENT_KEY_ID,
    KEY_BYTES,
    ApiKey,
    Scope,
    new_key,
)
from meterd.domain.errors import MeterdError
from meterd.domain.instants import format_instant
from meterd.domain.sections import DESCRIPTION, Refused
from meterd.keyfile import KEY_FILE, add_key, read_keys, remove_key
from meterd.options import config_option, config_source, json_option
from meterd.tables import print_json, table
from meterd.work.clock import WallClock

_KEY_COLUMNS: Final = {
    "id": "id",
    "scopes": "scopes",
    "createdAt": "made",
    "file": "file",
    "description": "description",
}
_RELOAD: Final = "A running meterd follows on: meterd reload"


@click.group(epilog="Example: meterd keys create --scope read --description dashboard")
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
    documents = [_key_found(key, place) for key, place in found]
    if as_json:
        for document in documents:
            print_json(document)
        return
    table(_KEY_COLUMNS, [_row(document) for document in documents])
    if any(key.id == ENVIRONMENT_KEY_ID for key in config.keys):
        click.echo(
            f"note: {ENVIRONMENT_KEY_ID} is this command's: a meterd that was started without it"
            " does not know that key",
            err=True,
        )


def _key_found(key: ApiKey, place: str) -> dict[str, Any]:
    """All that is known of it; a key of the environment stands in no file."""
    return {
        "id": key.id,
        "scopes": [scope for scope in Scope if scope in key.scopes],
        "description": key.description,
        "createdAt": None if key.created_ms is None else format_instant(key.created_ms),
        "file": place or None,
    }


def _row(document: dict[str, Any]) -> dict[str, Any]:
    there = {name: value for name, value in document.items() if value}
    return {**there, "scopes": ",".join(document["scopes"])}


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
