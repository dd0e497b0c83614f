"""The command ``meterd import``: events of files to a meterd that runs."""

from __future__ import annotations

import os
import sys
import time
from contextlib import closing, contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, NamedTuple

import click
import msgspec

from meterd.bars import bar
from meterd.domain.errors import MeterdError
from meterd.domain.event_ids import from_text
from meterd.domain.plurals import number_of
from meterd.event_rows import ABSENT, FIELDS, as_json
from meterd.options import Daemon, Name, client_options, json_option, patience_option
from meterd.parquet import parquet_rows
from meterd.patience import Patience
from meterd.row_forms import FORMS, form_of
from meterd.row_readers import csv_rows, json_lines
from meterd.tables import print_json, printable

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Mapping

    from meterd.bars import Bar
    from meterd.client import Answered, Client
    from meterd.event_rows import Read, Refused
    from meterd.importing import Counts, Import

_STREAM: Final = Path("-")
_TOLD_MAX: Final = 20
_SHOWN_EVERY: Final = 500  # rows


class _Column(click.ParamType[tuple[str, str]]):
    name = "field=column"

    def convert(
        self, value: str | tuple[str, str], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        field, _, column = value.partition("=")
        if not column or (field not in FIELDS and not field.startswith("metadata.")):
            names = ", ".join((*FIELDS, "metadata.<name>"))
            self.fail(f"{value!r} is not FIELD=COLUMN with one of {names}", param, ctx)
        return field, column


@click.command(
    "import",
    epilog="Example: meterd import usage.csv --event-type api.calls --refused bad.jsonl",
)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True))
@client_options
@click.option("--format", "form", type=click.Choice(FORMS), help="Default: by the file's name.")
@click.option("--event-type", type=Name(), help="Of rows that have none.")
@click.option(
    "--column",
    "columns",
    type=_Column(),
    multiple=True,
    help="FIELD=COLUMN: the column that has a field, in CSV and Parquet; may be repeated.",
)
@click.option(
    "--source",
    type=Name(),
    help="What keys of rows without one are made of, beside line and content. Default: the file's"
    " name, without its folder.",
)
@click.option(
    "--refused",
    "refused_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the rows that are refused there, as JSON lines that can be mended and imported.",
)
@click.option(
    "--from-line",
    type=click.IntRange(1),
    default=1,
    help="Pass over the lines before: those that an interrupted import said to have done.",
)
@patience_option
@json_option
@click.pass_context
def import_events(
    ctx: click.Context,
    file: Path,
    daemon: Daemon,
    form: str | None,
    event_type: str | None,
    columns: tuple[tuple[str, str], ...],
    source: str | None,
    refused_file: Path | None,
    from_line: int,
    patience_s: float,
    as_json: bool,
) -> None:
    """Send the events in FILE to the meterd that runs; - is stdin.

    FILE has JSON lines, CSV with a header, or Parquet, with the fields customerId, value,
    eventType, and if there are any metadata (JSON; in CSV also metadata.NAME, a text each),
    timestamp and idempotencyKey. Others are passed over. What meterd export wrote is taken as it
    is: events keep their time and key, and those that were taken back are left out.

    Every event is sent with a key, so an import that was interrupted is simply run again: what was
    stored counts once, as long as keys are remembered (idempotency_window). A row without a key has
    its _id, or one made of the file's name, line and content: add lines at its end, none above.

    A refused row costs no other. Events of before accept_past are refused: raise it for the past.
    Past periods are closed or revised, and sent to each enabled webhook: where they were billed
    before, set enabled = false first, and meterd reload.

    Exit codes: 0 all are stored, now or before; 1 some were refused, or not all were sent; 2 wrong
    arguments; 130 interrupted.
    """
    found_form = form or ("jsonl" if file == _STREAM else form_of(file))
    if found_form is None:
        raise click.BadParameter(
            f"{file} may be anything: give one of {', '.join(FORMS)}", param_hint="--format"
        )
    if columns and found_form == "jsonl":
        raise click.BadParameter("is for CSV and Parquet", param_hint="--column")
    if found_form == "parquet" and file == _STREAM:
        raise click.BadParameter("parquet is read from a file", param_hint="--format")
    wanted = _Wanted(file, found_form, dict(columns), from_line, refused_file)
    began_s = time.monotonic()
    with daemon.client() as client, wanted.opened() as opened:
        total = None if file == _STREAM else os.fstat(opened.fileno()).st_size
        with bar("import", total) as shown:
            named = source or (None if file == _STREAM else file.name)
            patience = Patience(patience_s, shown.say)
            imported = _import_to(client, patience, named, event_type)
            _run(imported, wanted, opened, shown, as_json=as_json)
    _report(imported.counts, time.monotonic() - began_s, refused_file, as_json=as_json)
    ctx.exit(1 if imported.counts.refused else 0)


class _Wanted(NamedTuple):
    """What is to be imported."""

    file: Path
    form: str
    columns: Mapping[str, str]
    from_line: int
    refused_file: Path | None

    @contextmanager
    def opened(self) -> Iterator[IO[bytes]]:
        if self.file == _STREAM:
            yield sys.stdin.buffer
            return
        try:
            file = self.file.open("rb")
        except OSError as fault:
            raise MeterdError(f"{self.file}: cannot be read: {fault.strerror}") from fault
        with file:
            yield file

    @contextmanager
    def kept(self) -> Iterator[IO[bytes] | None]:
        """Anew, or behind what was refused in the lines that are passed over."""
        path = self.refused_file
        if path is None:
            yield None
            return
        if path.exists() and self.file.exists() and path.samefile(self.file):
            raise MeterdError(f"{path} is what is imported: name another for --refused")
        try:
            file = path.open("wb" if self.from_line == 1 else "ab", buffering=0)
        except OSError as fault:
            raise MeterdError(f"{path}: cannot be written: {fault.strerror}") from fault
        with file:
            yield file

    def rows(self, opened: IO[bytes]) -> Generator[Read]:
        match self.form:
            case "csv":
                return csv_rows(opened, self.columns)
            case "parquet":
                return parquet_rows(opened, self.columns)
            case _:
                return json_lines(opened)


def _import_to(
    client: Client, patience: Patience, source: str | None, event_type: str | None
) -> Import:
    from meterd.importing import Import  # noqa: PLC0415 -- others pay nothing for httpx

    def post(body: bytes) -> Answered:
        return patience.until_answered(
            lambda: client.send("/usagebatch", body, Prefer="handling=lenient")
        )

    def is_here(event_id: str) -> bool:
        if from_text(event_id) is None:
            return False
        status = patience.until_answered(lambda: client.look(f"/events/{event_id}")).status
        return status == HTTPStatus.OK

    absent = ABSENT if event_type is None else as_json(event_type)
    return Import(post, is_here, source=source, event_type=absent)


def _run(
    imported: Import, wanted: _Wanted, opened: IO[bytes], shown: Bar, *, as_json: bool
) -> None:
    """All rows, telling of each that is refused; what ends it before, says how to go on."""

    def watched(rows: Iterable[Read]) -> Iterator[Read]:
        for place, row in enumerate(row for row in rows if row[0] >= wanted.from_line):
            if place % _SHOWN_EVERY == 0:
                at = 0 if wanted.file == _STREAM else opened.tell()
                counts = imported.counts
                shown.show(at, f"{number_of(counts.rows, 'row')}, {counts.refused:,} refused")
            yield row

    finished = False
    try:
        with wanted.kept() as kept, closing(wanted.rows(opened)) as rows:
            for refused in imported.run(watched(rows)):
                if kept is not None:
                    imported.keep(refused, kept, wanted.refused_file)
                _tell(refused, imported.counts.refused, shown, as_json=as_json)
        finished = True
    finally:
        if not finished and imported.done:
            shown.say(
                f"not finished; line {imported.done:,} and all before are done. Run it again: what"
                f" is stored counts once; --from-line {imported.done + 1} passes over it"
            )


def _tell(refused: Refused, count: int, shown: Bar, *, as_json: bool) -> None:
    if as_json:
        print_json({"refused": {"line": refused.line, "errors": refused.errors}})
    elif count <= _TOLD_MAX:
        shown.say(printable(f"line {refused.line}: {'; '.join(refused.errors)}"))
    elif count == _TOLD_MAX + 1:
        shown.say("more are refused, and not told here: --refused FILE and --json have all of them")


def _report(counts: Counts, seconds: float, refused_file: Path | None, *, as_json: bool) -> None:
    if as_json:
        print_json({**msgspec.structs.asdict(counts), "seconds": round(seconds, 1)})
        return
    parts = [f"{counts.new:,} new", f"{counts.before:,} stored before"]
    if counts.refused:
        kept = f" (in {refused_file})" if refused_file else ""
        parts.append(f"{counts.refused:,} refused{kept}")
    if counts.void:
        parts.append(f"{counts.void:,} taken back, left out")
    rate = f"{counts.rows / max(seconds, 0.001):,.0f}/s"
    click.echo(f"{number_of(counts.rows, 'row')}: {', '.join(parts)} ({seconds:.1f} s, {rate})")
