"""What must hold of a folder that daemons were killed over, against what clients and the webhook
receiver know. The folder is read through a running daemon, and through the engine when none runs.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from decimal import Decimal
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, Self
from unittest import mock

import msgspec
import standardwebhooks

from meterd.domain.deliveries import UNKNOWN, Delivery, DeliveryStatus
from meterd.domain.endpoints import SCHEDULE_MS
from meterd.edge.documents import aggregation_document
from meterd.embedded import attempt_log, log, queries
from meterd.embedded.keys import part_of
from meterd.embedded.store import Store
from meterd.ledger import AggregationQuery
from tests.system.torture.daemons.recount import Stored, difference, recount

if TYPE_CHECKING:
    from pathlib import Path

    from meterd.embedded.transaction import Transaction
    from tests.system.torture.daemons.clients import Books
    from tests.system.torture.daemons.process import Daemon
    from tests.system.torture.daemons.sink import Arrival, Sink
    from tests.system.torture.harness import Tally

SECRET: Final = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
_ALL: Final = 1_000_000
_SECOND_MS: Final = 1000


class Contents(msgspec.Struct, frozen=True):
    """Events in the order of storing, aggregations as the API shows them, deliveries by id, and of
    how many of its attempts each does not know the outcome.
    """

    events: list[Stored]
    aggregations: list[dict[str, Any]]
    deliveries: dict[str, Delivery]
    unknown: dict[str, int]


class _EventDocument(msgspec.Struct, rename="camel"):
    id: str = msgspec.field(name="_id")
    customer_id: str
    event_type: str
    value: Decimal
    metadata: dict[str, str]
    received_at: dt.datetime
    idempotency_key: str = ""


def read_offline(folder: Path) -> Contents:
    """No daemon may run. Posts nothing and repairs nothing, but for what LMDB does itself."""
    store = Store(folder)
    try:
        with store.read() as txn:
            events = [
                Stored(
                    receipt.stamp.id(offset, part_of(event.customer_id, store.parts)).hex(),
                    msgspec.json.decode(event.metadata)["tag"],
                    event.customer_id,
                    event.event_type,
                    event.value,
                    receipt.received_ms,
                    event.idempotency_key,
                )
                for receipt in log.read_from(txn, b"")
                for offset, event in enumerate(receipt.events)
            ]
            found = queries.read_aggregations(txn, store.parts, AggregationQuery(), _ALL, None)
            deliveries = {one.id: one for each in found for one in each.deliveries}
            unknown = {name: _unknown(txn, one) for name, one in deliveries.items()}
    finally:
        store.close()
    return Contents(
        events,
        [msgspec.json.decode(aggregation_document(each)) for each in found],
        deliveries,
        unknown,
    )


def _unknown(txn: Transaction, delivery: Delivery) -> int:
    """Attempts that a kill cut off: those that a start has put back, and one in the air."""
    logged = attempt_log.of_number(txn, delivery.endpoint_id, delivery.sequence)
    cut_off = sum(attempt.outcome.error == UNKNOWN for attempt in logged)
    return cut_off + (delivery.begun_ms is not None)


def read_online(daemon: Daemon) -> Contents:
    """By the API, which does not show single deliveries."""
    newest_first = [
        Stored(
            document.id,
            document.metadata["tag"],
            document.customer_id,
            document.event_type,
            document.value,
            round(document.received_at.timestamp() * 1000),
            document.idempotency_key,
        )
        for page in daemon.pages("/events")
        for document in msgspec.json.decode(page, type=list[_EventDocument])
    ]
    return Contents(newest_first[::-1], read_aggregations(daemon), {}, {})


def read_aggregations(daemon: Daemon) -> list[dict[str, Any]]:
    return [
        document for page in daemon.pages("/aggregations") for document in msgspec.json.decode(page)
    ]


class Checks:
    """Finds each fault once, however often it is looked for."""

    def __init__(self, books: Books, sink: Sink, tally: Tally) -> None:
        self._books = books
        self._sink = sink
        self._tally = tally
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
            elif (was.customer_id, was.event_type, was.value, was.key) != (
                event.customer_id,
                event.event_type,
                event.value,
                event.key,
            ):
                self._find(f"{where}: {event} was sent as {was}", wrong=1)
        for first, tags in batches.items():
            there = sum(tag in times for tag in tags)
            if there not in (0, len(tags)):
                self._find(f"{where}: {there} of {len(tags)} of batch {first}", wrong=1)

    def aggregations(
        self, contents: Contents, where: str, *, all_closed: bool, snapshots: bool = False
    ) -> None:
        """Each closed one (and each snapshot) is what a recount of the stored events gives."""
        counted = recount(contents.events)
        closed = set()
        for document in contents.aggregations:
            name, is_closed = document["_id"], document["status"] == "closed"
            if is_closed:
                closed.add(name)
            if (is_closed or snapshots) and (what := difference(counted.get(name), document)):
                self._find(f"{where}: {document['status']} {name}: {what}", wrong=1)
        if all_closed:
            for name in counted.keys() - closed:
                self._find(f"{where}: {name} has events and was never closed", wrong=1)

    def webhooks(self, contents: Contents, where: str, *, all_arrived: bool) -> None:
        """Each arrival is of a delivery that is stored, with its very bytes, signed; none arrived
        oftener than it was tried, and none is called delivered that was not taken.
        """
        arrivals = {name: list(came) for name, came in self._sink.arrivals.copy().items()}
        for name in arrivals.keys() - contents.deliveries.keys():
            self._find(f"{where}: {name} arrived and is not in the outbox", wrong=1)
        documents = {document["_id"]: document for document in contents.aggregations}
        for name, delivery in contents.deliveries.items():
            came = arrivals.get(name, [])
            taken = any(arrival.taken for arrival in came)
            again = sum(arrival.taken for arrival in came) - 1
            if again > contents.unknown[name]:
                flagged = contents.unknown[name]
                self._find(
                    f"{where}: {name} was taken {again} times more, flagged {flagged}", wrong=1
                )
            if delivery.status is DeliveryStatus.DELIVERED and not taken:
                self._find(f"{where}: {name} counts as delivered and was never taken", wrong=1)
            is_parked = delivery.status is DeliveryStatus.PARKED
            if all_arrived and not taken and not is_parked:
                self._find(f"{where}: {name} never arrived: {delivery.last_error}", wrong=1)
            if is_parked and delivery.attempts <= len(SCHEDULE_MS):
                self._find(f"{where}: {name} was given up early: {delivery}", wrong=1)
            if len(came) > delivery.attempts:
                self._find(
                    f"{where}: {name} arrived {len(came)} times in {delivery.attempts} attempts",
                    wrong=1,
                )
            if what := _odd(delivery, came, documents):
                self._find(f"{where}: {name}: {what}", wrong=1)

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


def _odd(delivery: Delivery, came: list[Arrival], documents: dict[str, dict[str, Any]]) -> str:
    """What is wrong with a delivery's arrivals, if anything."""
    for arrival in came:
        if arrival.endpoint != delivery.endpoint_id:
            return f"arrived at {arrival.endpoint}, is for {delivery.endpoint_id}"
        if arrival.body != delivery.body:
            return f"two bodies: {arrival.body!r} arrived, {delivery.body!r} is stored"
        if not _verifies(arrival):
            return "its signature does not verify"
    if what := _needless(sorted(came, key=_sent_ms)):
        return what
    data = msgspec.json.decode(delivery.body)["data"]
    document = documents.get(data["id"])
    if document is None:
        return f"it is about {data['id']}, which is not there"
    for member in ("exact", "eventCounts", "eventCount", "periodStart", "periodEnd"):
        if data[member] != document[member]:
            return f"it says {data}, the aggregation {document}"
    return ""


def _needless(came: list[Arrival]) -> str:
    """Whether it was sent again although it had been taken, by the same daemon."""
    for before, after in pairwise(came):
        if before.taken and before.start == after.start:
            return f"taken at {_sent_ms(before)}, sent again at {_sent_ms(after)}"
    return ""


def _sent_ms(arrival: Arrival) -> int:
    """By the daemon's clock, to the second."""
    return int(arrival.headers["webhook-timestamp"]) * _SECOND_MS


def _verifies(arrival: Arrival) -> bool:
    """Whether Standard Webhooks' own library takes it, at the daemon's time."""

    class Then(dt.datetime):
        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> Self:
            return cls.fromtimestamp(float(arrival.headers["webhook-timestamp"]), tz)

    with mock.patch("standardwebhooks.webhooks.datetime", Then):
        try:
            standardwebhooks.Webhook(SECRET).verify(arrival.body, arrival.headers)
        except standardwebhooks.WebhookVerificationError:
            return False
    return True
