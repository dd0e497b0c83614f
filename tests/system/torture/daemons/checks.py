"""What must hold of a folder that daemons were killed over, against what clients and the webhook
receiver know. The folder is read through a running daemon, and through the engine when none runs.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import msgspec

from meterd.domain.aggregations import aggregation_id
from meterd.domain.periods import HOUR_MS
from meterd.edge.documents import aggregation_document
from meterd.embedded import journal, keys, log, queries, voids
from meterd.embedded.keys import part_of
from meterd.embedded.store import Store
from meterd.embedded.verification import verify
from meterd.ledger import AggregationQuery
from tests.system.torture.daemons.recount import Stored, difference, periods_of, recount
from tests.system.torture.daemons.threshold_checks import told_to, told_twice, untold
from tests.system.torture.daemons.webhook_checks import (
    NOTHING,
    Outbox,
    broken_promises,
    faults,
    read_outbox,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from meterd.domain.deliveries import Delivery
    from meterd.embedded.transaction import Transaction
    from tests.system.torture.daemons.clients import Books
    from tests.system.torture.daemons.operators import Operator
    from tests.system.torture.daemons.process import Daemon
    from tests.system.torture.daemons.sink import Sink
    from tests.system.torture.daemons.threshold_checks import Place
    from tests.system.torture.harness import Tally

_ALL: Final = 1_000_000


class Contents(msgspec.Struct, frozen=True):
    """Events in the order of storing, aggregations as the API shows them, and the outbox. With
    the revisions before them, and the ids of those that what came late may not be in; and how many
    events are pruned, if that was looked for.
    """

    events: list[Stored]
    aggregations: list[dict[str, Any]]
    outbox: Outbox = NOTHING
    superseded: list[dict[str, Any]] = []
    behind: set[str] = set()
    pruned: int | None = None


class _EventDocument(msgspec.Struct, rename="camel"):
    id: str = msgspec.field(name="_id")
    customer_id: str
    event_type: str
    value: Decimal
    metadata: dict[str, str]
    received_at: dt.datetime
    idempotency_key: str = ""
    timestamp: dt.datetime | None = None
    void: dict[str, str] | None = None


def read_offline(folder: Path) -> Contents:
    """No daemon may run. Posts nothing and repairs nothing, but for what LMDB does itself."""
    store = Store(folder)
    try:
        with store.read() as txn:
            events = [*_stored(txn, store.parts)]
            query = AggregationQuery(revisions=True)
            found = queries.read_aggregations(txn, store.parts, query, _ALL, None)
            earlier = [one for each in found for one in each.superseded]
            outbox = read_outbox(
                txn, {one.id: one for each in (*found, *earlier) for one in each.deliveries}
            )
            pruned = journal.read_pruned(txn).events
            behind = {*_late(txn), *_unposted(events, journal.posted_through(txn))}
    finally:
        store.close()
    newest, superseded = [
        [msgspec.json.decode(aggregation_document(each)) for each in some]
        for some in (found, earlier)
    ]
    return Contents(events, newest, outbox, superseded, behind, pruned)


def _stored(txn: Transaction, parts: int) -> Iterator[Stored]:
    for receipt in log.appends_from(txn, b""):
        for offset, event in enumerate(receipt.events):
            event_id = receipt.stamp.id(offset, part_of(event.customer_id, parts))
            yield Stored(
                event_id.hex(),
                msgspec.json.decode(event.metadata)["tag"],
                event.customer_id,
                event.event_type,
                event.value,
                receipt.received_ms,
                event.idempotency_key,
                event.timestamp_ms,
                is_void=voids.read_void(txn, event_id) is not None,
            )


def _late(txn: Transaction) -> Iterator[str]:
    for key in map(keys.late_totals_key, txn.keys_forward("late", b"", b"")):
        yield aggregation_id(keys.totals_customer(key), keys.totals_period(key))


def _unposted(events: list[Stored], posted: bytes) -> Iterator[str]:
    """Where events belong that say when they happened, and may not be in any total yet."""
    for event in reversed(events):
        if bytes.fromhex(event.place) <= posted:
            return
        if event.timestamp_ms is not None:
            for period in periods_of(event.happened_ms // HOUR_MS):
                yield f"{event.customer_id}_{period}"


def read_online(daemon: Daemon) -> Contents:
    """By the API, which does not show single deliveries."""
    newest_first = [
        Stored(
            document.id,
            document.metadata["tag"],
            document.customer_id,
            document.event_type,
            document.value,
            _milliseconds(document.received_at),
            document.idempotency_key,
            None if document.timestamp is None else _milliseconds(document.timestamp),
            is_void=document.void is not None,
        )
        for page in daemon.pages("/events")
        for document in msgspec.json.decode(page, type=list[_EventDocument])
    ]
    return Contents(newest_first[::-1], read_aggregations(daemon))


def _milliseconds(instant: dt.datetime) -> int:
    return round(instant.timestamp() * 1000)


def read_aggregations(daemon: Daemon) -> list[dict[str, Any]]:
    return [
        document for page in daemon.pages("/aggregations") for document in msgspec.json.decode(page)
    ]


def is_delivered(daemon: Daemon, sink: Sink, to_tell: set[Place]) -> bool:
    """Whether nothing is left to send: revisions and what is told of thresholds, too."""
    if daemon.request("GET", "/deliveries?status=pending&limit=1").json():
        return False
    told = told_to("billing", sink.arrivals.copy().values())
    return to_tell <= told and all(
        one["webhookStatus"]["delivered"] for one in read_aggregations(daemon)
    )


class Checks:
    """Finds each fault once, however often it is looked for."""

    def __init__(
        self, books: Books, sink: Sink, tally: Tally, operator: Operator | None = None
    ) -> None:
        self._books = books
        self._sink = sink
        self._tally = tally
        self._operator = operator
        self._found: set[str] = set()

    def events(self, stored: list[Stored], acknowledged: dict[str, bool], where: str) -> None:
        """Acknowledged are stored, stored were sent as they are, none twice, batches whole."""
        sent, batches = self._books.sent.copy(), self._books.batches.copy()
        times = Counter(event.tag for event in stored)
        for tag in acknowledged.keys() - times.keys():
            self._find(f"{where}: {tag} was acknowledged and is not stored", lost=1)
        for tag, number in times.items():
            if number > 1:
                self._find(f"{where}: {tag} is stored {number} times", twice=number - 1)
        for event in stored:
            was = sent.get(event.tag)
            if was is None:
                self._find(f"{where}: {event} was never sent like that", wrong=1)
            elif (was.customer_id, was.event_type, was.value, was.key, was.timestamp_ms) != (
                event.customer_id,
                event.event_type,
                event.value,
                event.key,
                event.timestamp_ms,
            ):
                self._find(f"{where}: {event} was sent as {was}", wrong=1)
            if event.is_void and event.tag not in self._books.voiding:
                self._find(f"{where}: {event} is void, and nobody asked for it", wrong=1)
        for first, tags in batches.items():
            there = sum(tag in times for tag in tags)
            if there not in (0, len(tags)):
                self._find(f"{where}: {there} of {len(tags)} of batch {first}", wrong=1)

    def voids(self, stored: list[Stored], voided: dict[str, bool], where: str) -> None:
        """What somebody was told is void, is; ``voided`` are copied before the events are read."""
        void = {event.tag for event in stored if event.is_void}
        for tag in voided.keys() - void:
            self._find(f"{where}: {tag} was void, and is not", lost=1)

    def aggregations(
        self, contents: Contents, where: str, *, all_closed: bool, snapshots: bool = False
    ) -> None:
        """Each closed one (and each snapshot) is what a recount of the stored events gives, but for
        what waits to be revised.
        """
        counted = recount(contents.events)
        closed = set()
        for document in contents.aggregations:
            name, is_closed = document["_id"], document["status"] == "closed"
            if is_closed:
                closed.add(name)
            is_due = (is_closed or snapshots) and name not in contents.behind
            if is_due and (what := difference(counted.get(name), document)):
                self._find(f"{where}: {document['status']} {name}: {what}", wrong=1)
        if all_closed:
            for name in counted.keys() - closed:
                self._find(f"{where}: {name} has events and was never closed", wrong=1)

    def webhooks(self, contents: Contents, where: str, *, all_arrived: bool) -> None:
        """See ``webhook_checks``."""
        arrivals = {name: list(came) for name, came in self._sink.arrivals.copy().items()}
        documents = {
            (document["_id"], document["revision"]): document
            for document in (*contents.aggregations, *contents.superseded)
        }
        operator = self._operator
        asked = _by_nobody if operator is None else operator.times_asked_for
        found = list(faults(contents.outbox, arrivals, documents, asked, all_arrived=all_arrived))
        if operator is not None:
            found += operator.wrong
            if all_arrived:
                found += broken_promises(contents.outbox, arrivals, operator.promises)
        for what in found:
            self._find(f"{where}: {what}", wrong=1)

    def thresholds(self, contents: Contents, where: str, *, all_told: bool) -> None:
        """See ``threshold_checks``."""
        arrivals = [one for came in self._sink.arrivals.copy().values() for one in came]
        for what in told_twice(arrivals):
            self._find(f"{where}: {what}", wrong=1)
        if all_told:
            for what in untold(contents.events, contents.outbox.deliveries.values()):
                self._find(f"{where}: {what}", wrong=1)

    def verify(self, folder: Path, where: str) -> None:
        """No daemon may run."""
        for found in verify(folder):
            self._find(f"{where}: meterd verify: {found}", wrong=1)

    def clients(self, where: str) -> None:
        """What the clients complain of."""
        for complaint in list(self._books.wrong):
            self._find(f"{where}: {complaint}", wrong=1)

    def wrong(self, what: str) -> None:
        self._find(what, wrong=1)

    def _find(self, what: str, *, lost: int = 0, twice: int = 0, wrong: int = 0) -> None:
        fault = what.partition(": ")[2]
        if fault not in self._found:
            self._found.add(fault)
            self._tally.find(what, lost=lost, twice=twice, wrong=wrong)


def _by_nobody(_: Delivery) -> int:
    return 0
