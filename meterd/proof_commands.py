"""The commands that prove an aggregation, and check a proof where there is no store."""

from __future__ import annotations

import shutil
import sys
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, TYPE_CHECKING, Final

import click
import msgspec

from meterd.domain.errors import MeterdError, ProofError, StoreError
from meterd.domain.plurals import number_of
from meterd.domain.proofs import Proved, check
from meterd.embedded.pages import DamagedError
from meterd.embedded.proving import Proving, find
from meterd.embedded.snapshot import open_snapshot
from meterd.embedded.store import FORMAT
from meterd.options import Name, config_option, data_folder, json_option

if TYPE_CHECKING:
    from collections.abc import Iterator

# A proof that does not show all is none for whoever looks at the exit code alone.
EXIT_PRUNED: Final = 3
_STREAM: Final = Path("-")
_TEMPORARY: Final = "a temporary file, in TMPDIR"
_FILE: Final = click.Path(path_type=Path, dir_okay=False, allow_dash=True)


@click.command(epilog="Example: meterd prove acme_monthly_202601 acme-january.jsonl")
@config_option
@click.argument("aggregation", metavar="ID", type=Name())
@click.argument("file", type=_FILE, default=_STREAM)
@json_option
def prove(given: Path | None, aggregation: str, file: Path, as_json: bool) -> None:
    """Write what proves the closed aggregation ID to FILE, and check it without the store. Without
    FILE it goes to stdout once it is checked, and what it proves is said on stderr.

    FILE has the customer's events of that period, the voids among them, and all that was published
    of the customer before: no more is needed to come to the digest that was sent with the webhook,
    and to the figures. It may be given to whoever doubts a bill: meterd check-proof. While a daemon
    runs, too. An aggregation whose events have changed since is proved when its revision is
    published. Of hours whose events were pruned (retention.events) FILE has the digests alone,
    which proofs that were written before lead to.

    Exit codes: 0 written and checked; 1 not written; 2 wrong arguments; 3 written and checked, but
    some events were pruned.
    """
    if file == _STREAM:
        with ExitStack() as opened:
            with _named(_TEMPORARY):
                written = opened.enter_context(TemporaryFile())
                proved = _write(data_folder(given), aggregation, written)
                written.seek(0)
            shutil.copyfileobj(written, sys.stdout.buffer)
            sys.stdout.buffer.flush()
        _report(proved, as_json, err=True)
        return
    if file.exists():
        raise MeterdError(f"{file} is there already: name another, or remove it")
    part = file.with_name(file.name + ".new")
    try:
        with _named(str(file)):
            with part.open("w+b") as written:
                proved = _write(data_folder(given), aggregation, written)
            part.rename(file)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
    _report(proved, as_json)


@click.command("check-proof", epilog="Example: meterd check-proof acme-january.jsonl")
@click.argument("file", type=_FILE)
@json_option
def check_proof(file: Path, as_json: bool) -> None:
    """Check what meterd prove wrote: that the events in FILE, or on stdin with -, lead to its
    figures and its digest.

    Needs nothing but FILE. That it is what was billed is shown by the digest it prints: the
    webhook has the same in data.digest.

    Exit codes: 0 it does; 1 it does not, or cannot be read; 2 wrong arguments; 3 it leads to its
    digest, but some events were pruned before it was written, so its figures are not counted.
    """
    try:
        with _aside(sys.stdin.buffer) if file == _STREAM else file.open("rb") as lines:
            proved = check(partial(_read, lines))
    except ProofError as fault:
        raise MeterdError(f"{file}: {fault}") from fault
    except OSError as fault:
        raise MeterdError(f"{file}: cannot be read: {fault.strerror}") from fault
    _report(proved, as_json)


def _write(data: Path, aggregation: str, written: IO[bytes]) -> Proved:
    """What the lines prove that are in the file then."""
    written.writelines(line + b"\n" for line in _lines(data, aggregation))
    try:
        return check(partial(_read, written))
    except ProofError as fault:
        raise StoreError(
            f"what is stored of {aggregation} does not prove it: {fault};"
            " meterd verify says what differs"
        ) from fault


def _aside(stream: IO[bytes]) -> IO[bytes]:
    """What a stream has, to be read more than once."""
    with _named(_TEMPORARY), ExitStack() as opened:
        lines = opened.enter_context(TemporaryFile())
        shutil.copyfileobj(stream, lines)
        opened.pop_all()
    return lines


@contextmanager
def _named(file: str) -> Iterator[None]:
    try:
        yield
    except OSError as fault:
        why = fault.strerror or str(fault)
        raise MeterdError(f"{file}: cannot be written: {why}") from fault


def _lines(data: Path, aggregation: str) -> Iterator[bytes]:
    try:
        with open_snapshot(data) as snapshot:
            meta = snapshot.meta()
            if meta.format != FORMAT:
                raise StoreError(
                    f"the store has format {meta.format}: the next start of meterd serve brings it"
                    f" to {FORMAT}"
                )
            txn = snapshot.transaction()
            found = find(txn, meta.parts, aggregation)
            yield from Proving(txn, meta.parts, found.customer_id).lines(found)
    except DamagedError as fault:
        raise StoreError(f"the store in {data} is damaged: {fault}: see meterd verify") from fault


def _read(lines: IO[bytes]) -> Iterator[bytes]:
    lines.seek(0)
    for line in lines:
        yield line.removesuffix(b"\n")


def _report(proved: Proved, as_json: bool, *, err: bool = False) -> None:
    if as_json:
        click.echo(msgspec.json.encode(proved), err=err)
    else:
        void = f", {proved.void:,} taken back" if proved.void else ""
        events = number_of(proved.events, "event")
        what = "as it was published, with" if proved.pruned else "proved by"
        click.echo(
            f"{proved.id}, revision {proved.revision}: {what} {events}{void};"
            f" behind {proved.published - 1:,} published before",
            err=err,
        )
        click.echo(f"digest {proved.digest}", err=err)
        _note(proved.unknown, "nothing is shown, nor the figures: begun before there were digests")
        _note(proved.pruned, "the events were pruned: their digests are shown, not the figures")
    if proved.pruned:
        click.get_current_context().exit(EXIT_PRUNED)


def _note(parts: list[str], what: str) -> None:
    if parts:
        shown = ", ".join(parts[:3])
        more = f" and {len(parts) - 3:,} more" if len(parts) > 3 else ""
        click.echo(f"note: of {shown}{more} {what}", err=True)
