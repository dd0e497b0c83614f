"""The command ``meterd void``: takes an event back."""

from __future__ import annotations

from http import HTTPStatus

import click
import msgspec

from meterd.domain.errors import MeterdError
from meterd.domain.event_ids import from_text
from meterd.domain.sections import quoted
from meterd.options import Daemon, Name, client_options, json_option
from meterd.tables import printable


class _Void(msgspec.Struct):
    reason: str


class _Voided(msgspec.Struct):
    """Of the event, as it is answered."""

    void: _Void


@click.command(epilog="Example: meterd void 019bbc04-5a00-7000-8000-000000000000 --reason twice")
@click.argument("event_id", metavar="ID")
@client_options
@click.option("--reason", type=Name(), required=True, help="Why, for whoever looks at the log.")
@json_option
def void(event_id: str, daemon: Daemon, reason: str, as_json: bool) -> None:
    """Take an event back: it stays in the log, and counts in no period any more.

    meterd events shows the ID. Periods that are closed are published once more, as a revision. It
    is final: to correct an event, send the right one with another idempotency key. The key needs
    the scope admin.

    Exit codes: 0 it is taken back, now or before; 1 it is not; 2 wrong arguments.
    """
    if from_text(event_id) is None:
        raise MeterdError(f"No event has the id {quoted(event_id)}; meterd events shows them")
    with daemon.client() as client:
        answer = client.change(f"/events/{event_id}/void", {"reason": reason})
    if as_json:
        click.echo(answer.content)
        return
    told = printable(msgspec.json.decode(answer.content, type=_Voided).void.reason)
    how = "is taken back" if answer.status == HTTPStatus.CREATED else "was taken back before"
    click.echo(f"{event_id} {how}: {told}")
