"""The commands that look after a data folder: verify, backup, restore, compact.

What they did is one line on stdout, or one JSON object; how far they are is a bar on a terminal.
"""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from meterd import copies
from meterd.domain.errors import MeterdError
from meterd.domain.plurals import number_of
from meterd.embedded import verification
from meterd.embedded.differences import PRUNED, UNPOSTED, Checking, Difference
from meterd.embedded.store import FORMAT
from meterd.keyfile import KEY_FILE, read_keys
from meterd.options import config_option, data_folder, json_option

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from rich.progress import TaskID

    from meterd.copies import Copied

_EXIT_DIFFERENT: Final = 1
_MIB: Final = 1 << 20
# By the names that they are counted under.
_COUNTED: Final = {
    "events": "event",
    "customers": "customer",
    "aggregations": "aggregation",
    "deliveries": "delivery",
}
_COUNTED_EARLIER: Final = {"records": "record"}
_NOT_COUNTED: Final = "nothing could be counted"


@click.command(epilog="Example: meterd verify && echo sound; meterd verify /backups/monday")
@config_option
@click.argument("folder", required=False, type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--processes",
    type=click.IntRange(1, 256),
    default=lambda: len(os.sched_getaffinity(0)),
    help="How many count events again at once, 100 MB each.  [default: one for each core]",
)
@json_option
@click.pass_context
def verify(
    ctx: click.Context, given: Path | None, folder: Path | None, processes: int, as_json: bool
) -> None:
    """Count everything again, and report each difference.

    Of the data folder, also while a daemon runs on it, or of FOLDER: a backup, say. Checked are all
    checksums, totals and indexes against the events, aggregations against totals, deliveries
    against aggregations. Events of the last seconds that are in the log and not yet in totals are
    no difference; it is said how many there are. Beside a busy daemon the store's file grows
    meanwhile: of a large one, make a backup, which is checked as well.

    Exit codes: 0 no difference; 1 differences, each on a line of stdout, or the store cannot be
    read; 2 wrong arguments.
    """
    place = data_folder(given) if folder is None else folder
    began_at, differences = time.monotonic(), 0
    with _progress() as progress:
        checking = Checking(progress)
        found = verification.verify(place, checking, processes)
        for difference in chain(found, _key_faults(place)):
            differences += 1
            click.echo(_json({"difference": difference}) if as_json else difference.line())
    seconds = round(time.monotonic() - began_at, 1)
    checked = dict(checking.counts)
    if as_json:
        summary = {"folder": str(place), "differences": differences}
        summary["format"] = checking.store_format
        looked_at = {"checked": checked, "left_out": checking.left_out}
        click.echo(_json({**summary, **looked_at, "seconds": seconds}))
    else:
        click.echo(f"{place}: {_outcome(differences, checking)} ({seconds} s)")
        _note_format(checking.store_format)
    ctx.exit(_EXIT_DIFFERENT if differences else 0)


@click.command(
    epilog="Example: meterd backup /backups/$(date +%F) && rsync -a /backups/ elsewhere:"
)
@config_option
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@json_option
def backup(given: Path | None, folder: Path, as_json: bool) -> None:
    """Copy store and API keys to DIR, which must be empty or not there, and check the copy.

    While the daemon serves, too: everything that was acknowledged before the start is in it. Its
    store is there when all of it is on disk and checked, and never half. The configuration is not
    copied. DIR may be a mount point; the folder above it must be there.

    Exit codes: 0 made and checked; 1 not made, nothing left; 2 wrong arguments.
    """
    with _progress() as progress:
        copied = copies.backup(data_folder(given), folder, progress)
    _report("backed up to", copied, as_json)


@click.command(epilog="Example: meterd restore /backups/monday --to /var/lib/meterd")
@config_option
@click.argument("saved", metavar="BACKUP", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--to", type=click.Path(path_type=Path, file_okay=False), help="Default: the configured folder."
)
@json_option
def restore(given: Path | None, saved: Path, to: Path | None, as_json: bool) -> None:
    """Put a backup into the data folder, which must be empty or not there.

    To replace what is there, stop meterd and move the folder away. The backup is checked before,
    and the copy after.

    Exit codes: 0 restored; 1 not restored; 2 wrong arguments.
    """
    with _progress() as progress:
        copied = copies.restore(saved, data_folder(given) if to is None else to, progress)
    _report("restored to", copied, as_json)


@click.command(epilog="Example: systemctl stop meterd && meterd compact; systemctl start meterd")
@config_option
@json_option
def compact(given: Path | None, as_json: bool) -> None:
    """Give the disk back what the store does not use, while no daemon runs.

    The store is copied, checked, and put in the place of the old one at once; until then the disk
    needs room for both.

    Exit codes: 0 done; 1 not done, the store is as it was; 2 wrong arguments.
    """
    with _progress() as progress:
        copied = copies.compact(data_folder(given), progress)
    saved = copied.bytes_before - copied.bytes
    done = f"{_size(saved)} saved" if saved > 0 else "nothing to save"
    _report(f"{done} in", copied, as_json)


def _key_faults(folder: Path) -> Iterator[Difference]:
    """Nobody would be let in by a key file that cannot be read."""
    try:
        read_keys(folder)
    except MeterdError as fault:
        yield Difference(KEY_FILE, "the file", f"cannot be read: {fault}", "")


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar for each stage, on stderr, where that is a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda *_: None
        return
    columns = (TextColumn("{task.description:12}"), BarColumn(), TaskProgressColumn())
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bars:

        def progress(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage)
            bars.update(tasks[stage], completed=done, total=max(total, 1))

        yield progress


def _report(done: str, copied: Copied, as_json: bool) -> None:
    if as_json:
        click.echo(_json(copied))
    else:
        counts = _counts(copied.checked) or "nothing is in it yet"
        click.echo(f"{done} {copied.folder}: {_size(copied.bytes)}, checked: {counts}")
        _note_format(copied.format)
    for folder in copied.left:
        click.echo(f"note: {folder} was left by a backup that was killed: remove it", err=True)


def _note_format(found: int) -> None:
    if found and found != FORMAT:
        click.echo(
            f"note: the store has format {found}, of which only pages and checksums are checked;"
            f" the next start of meterd serve brings it to {FORMAT}",
            err=True,
        )


def _outcome(differences: int, checking: Checking) -> str:
    found = number_of(differences, "difference") if differences else "no differences"
    counts = _counts(checking.counts, checking.left_out)
    if not counts:
        is_counted = "aggregations" in checking.counts and not checking.left_out
        return f"{found}: the store is empty" if is_counted else f"{found}; {_NOT_COUNTED}"
    said = f"{found} in {counts}"
    if waiting := checking.counts[UNPOSTED]:
        said += f"; not in totals yet: {number_of(waiting, 'event')} of the last seconds"
    if pruned := checking.counts[PRUNED]:
        said += f"; pruned before: {number_of(pruned, 'event')}"
    if left_out := checking.left_out:
        *others, last = left_out
        names = f"{', '.join(others)} and {last}" if others else last
        said += f"; because of {'it' if differences == 1 else 'them'} {names} could not be counted"
    return said


def _counts(checked: Mapping[str, int], left_out: Sequence[str] = ()) -> str:
    """Of what users know; of an earlier version's store nothing is known but its records."""
    shown = _COUNTED if "aggregations" in checked or left_out else _COUNTED_EARLIER
    found = [name for name in shown if checked.get(name) and name not in left_out]
    return ", ".join(number_of(checked[name], shown[name]) for name in found)


def _size(count: int) -> str:
    return f"{count / _MIB:,.1f} MiB" if count >= _MIB else f"{count / 1024:,.0f} KiB"


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
