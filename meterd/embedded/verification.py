"""Checks a whole store, and reports every difference between what stands there and what should.

First the pages and each record's checksum, as a file, without LMDB: what is damaged there is not
touched further. Then what is made of something else is held against it, the log being the truth:
totals of hours and indexes and idempotency keys against events, longer periods against shorter
ones, aggregations against totals, deliveries against aggregations, the outbox against deliveries.

In bounded memory, whatever the store holds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from meterd.embedded.delivery_check import DeliveryCheck, whose
from meterd.embedded.differences import MISTAKES, Checking, Difference, at_key
from meterd.embedded.late_check import check_late
from meterd.embedded.log_check import LogCheck
from meterd.embedded.marks import check_floor, check_marks, read_marks
from meterd.embedded.outbox_check import OutboxCheck
from meterd.embedded.pages import DamagedError
from meterd.embedded.published_check import check_published
from meterd.embedded.snapshot import LmdbError, open_snapshot, store_bytes
from meterd.embedded.span_workers import started
from meterd.embedded.store import FORMAT
from meterd.embedded.totals_check import check_customers, check_totals, is_known_key
from meterd.embedded.transaction import is_sealed, unchecked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from meterd.embedded.snapshot import Snapshot
    from meterd.embedded.span_workers import SpanWorkers
    from meterd.embedded.transaction import Transaction

_PROGRESS_LEAVES: Final = 200
# From here on it takes longer than a second, and processes for it pay.
LARGE_BYTES: Final = 64 << 20
_STRUCTURE: Final = "structure"
_FILE: Final = "data.mdb"


class _Check(NamedTuple):
    """``tables`` must be whole for it; ``counts`` is what users know of that."""

    counts: tuple[str, ...]
    tables: tuple[str, ...]
    run: Callable[[], Iterator[Difference]]


def verify(
    folder: Path, checking: Checking | None = None, processes: int = 1
) -> Iterator[Difference]:
    """Every difference in the data folder's store, as it is when the first is asked for.

    Beside a daemon, or where none runs. Of an earlier format, which ``checking`` then says, only
    pages and checksums are looked at. The log of a large store is checked by so many processes.
    Raises StoreError where there is no store, or one of a later version, and where the disk has no
    room for what is counted meanwhile.
    """
    checking = checking or Checking()
    is_large = processes > 1 and store_bytes(folder) >= LARGE_BYTES
    try:
        if not is_large:
            with open_snapshot(folder) as snapshot:
                yield from verify_snapshot(snapshot, checking)
            return
        with started(folder, processes) as workers, workers.snapshot() as snapshot:
            yield from verify_snapshot(snapshot, checking, workers)
    except DamagedError as fault:
        yield _structure(_FILE, fault)


def verify_snapshot(
    snapshot: Snapshot, checking: Checking, workers: SpanWorkers | None = None
) -> Iterator[Difference]:
    """See ``verify``; a snapshot is verified once."""
    damaged: set[str] = set()
    try:
        meta = snapshot.meta()
        checking.store_format = meta.format
        for difference in _check_pages(snapshot, checking):
            damaged.add(difference.table if difference.what else _STRUCTURE)
            yield difference
    except DamagedError as fault:
        yield _structure(_FILE, fault)
        return
    if meta.format == FORMAT and damaged.isdisjoint({_STRUCTURE, "meta"}):
        checks = _checks(snapshot.transaction(), meta.parts, checking, workers)
        yield from _check_contents(checks, checking, damaged)


def _check_contents(
    checks: Iterable[_Check], checking: Checking, damaged: set[str]
) -> Iterator[Difference]:
    """With LMDB, which can be trusted to find its way."""
    for check in checks:
        is_done = False
        if damaged.isdisjoint(check.tables):
            try:
                yield from check.run()
                is_done = True
            except (*MISTAKES, LmdbError) as fault:
                stands = f"cannot be read ({type(fault).__name__}: {fault})"
                yield Difference(", ".join(check.tables), "a record", stands, "")
        if not is_done:
            checking.left_out += [one for one in check.counts if one not in checking.left_out]


def _check_pages(snapshot: Snapshot, checking: Checking) -> Iterator[Difference]:
    """Pages and checksums. DamagedError where it cannot be told which pages are whose."""
    pages, counts = snapshot.pages, checking.counts
    is_whole = True
    for table, tree in snapshot.tables(checking.store_format).items():
        try:
            for number, leaf in enumerate(pages.leaves(tree)):
                for key, record, _ in leaf:
                    if not is_sealed(key, record):
                        yield _damaged(table, key, unchecked(record))
                counts["records"] += len(leaf)
                if number % _PROGRESS_LEAVES == 0:
                    checking.progress("pages", pages.reached, pages.in_file)
        except DamagedError as fault:
            is_whole = False
            yield _structure(table, fault)
    counts["pages"] += pages.reached
    checking.progress("pages", pages.in_file, pages.in_file)
    if is_whole:
        try:
            snapshot.check_free()
        except DamagedError as fault:
            yield _structure("free pages", fault)


def _checks(
    txn: Transaction, parts: int, checking: Checking, workers: SpanWorkers | None
) -> list[_Check]:
    marks = read_marks(txn)
    log_check = LogCheck(txn, parts, marks, checking)
    if workers is not None:
        log_check = LogCheck(txn, parts, marks, checking, workers.run, workers.spans_wanted)
    index = ("records_by_type", "blocks_by_customer", "blocks_by_hour")
    return [
        _Check((), ("meta",), lambda: check_marks(txn, marks)),
        _Check((), ("meta", "totals"), lambda: check_floor(txn, parts, marks)),
        _Check(
            ("events",),
            ("events", "voids", *index, "totals", "idempotency_keys"),
            log_check.run,
        ),
        _Check(("totals",), ("totals",), lambda: check_totals(txn, parts, marks, checking)),
        _Check((), ("totals", "events"), lambda: _check_keys_of_totals(txn, parts, checking)),
        _Check(
            ("customers",),
            ("customers", "totals", "blocks_by_customer"),
            lambda: check_customers(txn, parts, marks, checking),
        ),
        _Check((), ("totals", "late"), lambda: check_late(txn)),
        _Check(("aggregations",), ("totals", "aggregations"), lambda: check_published(txn)),
        _Check(
            ("aggregations", "deliveries"),
            (
                "aggregations",
                "superseded",
                "totals",
                "customer_periods",
                "published",
                "customers",
                "reached",
                "deliveries",
                "delivery_ids",
            ),
            DeliveryCheck(txn, parts, checking).run,
        ),
        _Check(
            ("attempts",),
            (
                "deliveries",
                "outbox",
                "outbox_by_customer",
                "in_air",
                "parked",
                "batched",
                "endpoints",
                "attempts",
                "attempts_by_time",
            ),
            OutboxCheck(txn, checking).run,
        ),
    ]


def _check_keys_of_totals(txn: Transaction, parts: int, checking: Checking) -> Iterator[Difference]:
    """Looked for only where there are more than were looked at."""
    if checking.counts["totals"] != txn.count("totals"):
        for key in txn.keys_forward("totals", b"", b""):
            if not is_known_key(key, parts):
                yield at_key("totals", key, "record", "there", "nothing: it is no customer's")


def _structure(table: str, fault: Exception) -> Difference:
    return Difference(table, "", str(fault), "")


def _damaged(table: str, key: bytes, payload: bytes) -> Difference:
    """Named by its key, and by what a delivery's record still tells."""
    is_delivery = table == "deliveries"
    name = "delivery" if is_delivery else "record"
    difference = at_key(table, key, name, "does not match its checksum", "")
    if not is_delivery:
        return difference
    customer_id, period = whose(key, payload)
    return msgspec.structs.replace(difference, customer_id=customer_id, period=period)
