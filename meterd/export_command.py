"""The command ``meterd export``: events of a meterd that runs into a file."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from meterd.bars import bar
from meterd.domain.plurals import number_of
from meterd.options import (
    Daemon,
    Instant,
    Name,
    client_options,
    json_option,
    patience_option,
    require_order,
)
from meterd.parquet import library
from meterd.patience import Patience
from meterd.row_forms import FORMS, form_to_write
from meterd.tables import print_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from meterd.client import Client, Page


@click.command("export", epilog="Example: meterd export --from 2026-01-01 -o january.csv")
@client_options
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Default: stdout. It is FILE.part until all is in it.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMS),
    help="Default: by the file's name; to stdout jsonl.",
)
@click.option("--customer", type=Name(), help="Events of this customer.")
@click.option("--type", "event_type", type=Name(), help="Events of this type.")
@click.option("--from", "since", type=Instant(), help="Received from then on.")
@click.option("--to", "until", type=Instant(), help="Received until then. Default: now.")
@click.option("--resume", is_flag=True, help="Go on with FILE.part, behind the last event in it.")
@patience_option
@json_option
def export_events(
    daemon: Daemon,
    output: Path | None,
    form: str | None,
    customer: str | None,
    event_type: str | None,
    since: str | None,
    until: str | None,
    resume: bool,
    patience_s: float,
    as_json: bool,
) -> None:
    """Write events, in the order in which they were received, as JSON lines, CSV or Parquet.

    Each has _id, eventType, customerId, value, metadata, receivedAt, and if there are any
    timestamp, idempotencyKey and void; in CSV these are the columns, metadata and void as JSON.
    Values have every digit; in Parquet, valueExact. Parquet needs pip install 'meterd[parquet]'.

    meterd import takes it. Interrupted, --resume with the same options goes on (not Parquet).
    --json is about the summary.

    Exit codes: 0 all is written; 1 not all, or FILE is there already; 2 wrong arguments;
    130 interrupted.
    """
    require_order(since, until)
    found_form = form or ("jsonl" if output is None else form_to_write(output))
    if found_form is None:
        raise click.BadParameter(
            f"{output} may be anything: give one of {', '.join(FORMS)}", param_hint="--format"
        )
    if output is None:
        for name, is_given in (("--resume", resume), ("--json", as_json)):
            if is_given:
                raise click.BadParameter("needs --output", param_hint=name)
    if found_form == "parquet":
        if output is None or resume:
            why = "needs --output" if output is None else "cannot go on: its end is written last"
            raise click.BadParameter(f"parquet {why}", param_hint="--format")
        library()
    asked = {"customerId": customer, "eventType": event_type, "from": since, "to": until}
    with daemon.client() as client:
        _export(client, asked, output, found_form, patience_s, resume=resume, as_json=as_json)


def _export(
    client: Client,
    asked: Mapping[str, str | None],
    output: Path | None,
    form: str,
    patience_s: float,
    *,
    resume: bool,
    as_json: bool,
) -> None:
    from meterd.exporting import (  # noqa: PLC0415 -- others pay nothing for it
        PAGE,
        export,
        file_target,
        part_of,
        stream_target,
    )

    began_s, count = time.monotonic(), 0
    with bar("export", None) as shown, ExitStack() as stack:
        patience = Patience(patience_s, shown.say)

        def ask(cursor: str | None) -> Page:
            return patience.until_answered(
                lambda: client.page("/events", **asked, order="oldest", limit=PAGE, cursor=cursor)
            )

        def wrote(more: int) -> None:
            nonlocal count
            count += more
            shown.show(count, number_of(count, "event"))

        if output is None:
            target = stream_target(sys.stdout.buffer, form)
        else:
            target = stack.enter_context(file_target(output, form, resume=resume))
        finished = False
        try:
            pruned_until = export(ask, target, wrote)
            finished = True
        finally:
            if not finished and output is not None and form != "parquet":
                shown.say(f"not finished: the same with --resume goes on with {part_of(output)}")
    seconds = time.monotonic() - began_s
    if pruned_until is not None:
        click.echo(f"note: of before {pruned_until} some were pruned (retention.events)", err=True)
    if as_json:
        print_json({"file": str(output), "events": count, "seconds": round(seconds, 1)})
    else:
        where = "" if output is None else f" to {output}"
        rate = f"{count / max(seconds, 0.001):,.0f}/s"
        click.echo(
            f"{number_of(count, 'event')}{where} ({seconds:.1f} s, {rate})", err=output is None
        )
