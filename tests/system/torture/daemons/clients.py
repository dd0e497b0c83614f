"""Clients that send usage while daemons come and go, and what they know of it.

Those with keys repeat a request that was not answered, or with 5xx, until it is; those without send
each event once. Every event says in its metadata which one it is.
"""

from __future__ import annotations

import random
import threading
import time
from decimal import Decimal
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, Final

import httpx
import msgspec

from meterd.domain.instants import format_instant
from meterd.domain.periods import HOUR_MS
from tests.system.torture.daemons.wire import FORMS, Answer, Connection

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.system.torture.daemons.process import Daemon

EVENT_TYPES: Final = {
    "t.sum": "sum",
    "t.avg": "avg",
    "t.min": "min",
    "t.max": "max",
    "t.count": "count",
    "t.first": "first",
    "t.last": "last",
}
CUSTOMERS: Final = tuple(f"customer-{number}" for number in range(6))
BATCH: Final = 20
# Between a client's requests, at most: so that daemon and harness each get a core.
_REST_S: Final = 0.015
_KNOCK_S: Final = 0.01
# How many events say when they happened, and how long before they were made that was.
# Few are late: each makes up to five revisions, and as many webhooks for each endpoint.
_DATED: Final = 0.02
_AGES_MS: Final = (*[-240_000] * 8, *[10_000] * 12, *[600_000] * 4, *[HOUR_MS] * 5, 26 * HOUR_MS)
# Of its customer's events, among which one that was just sent is looked for.
_LATEST: Final = 1_000
_TAKEN_BACK: Final = 6
# What a client asks for again and again is answered within that time.
_ANSWERED_S: Final = 60.0


class Event(msgspec.Struct, frozen=True):
    """``tag`` names it among all; ``key`` is empty where its client does not repeat; without
    ``timestamp_ms`` it happened when it was received.
    """

    tag: str
    customer_id: str
    event_type: str
    value: Decimal
    key: str = ""
    timestamp_ms: int | None = None

    def document(self, *, in_header: bool = False) -> dict[str, Any]:
        document: dict[str, Any] = {
            "customerId": self.customer_id,
            "value": msgspec.Raw(str(self.value).encode()),
            "metadata": {"tag": self.tag},
        }
        if self.key and not in_header:
            document["idempotencyKey"] = self.key
        if self.timestamp_ms is not None:
            document["timestamp"] = format_instant(self.timestamp_ms)
        return document


class Books:
    """What all clients of a run have sent, and what they were told. Only ever added to."""

    def __init__(self) -> None:
        self.sent: dict[str, Event] = {}
        self.batches: dict[str, list[str]] = {}
        self.acknowledged: dict[str, bool] = {}
        # Tags of events that somebody wanted to be void, and of those who were told that they are.
        self.voiding: dict[str, bool] = {}
        self.voided: dict[str, bool] = {}
        self.wrong: list[str] = []
        self.counts: dict[str, int] = {}

    def send(self, events: list[Event]) -> None:
        self.sent.update((event.tag, event) for event in events)
        if len(events) > 1:
            self.batches[events[0].tag] = [event.tag for event in events]

    def acknowledge(self, events: list[Event]) -> None:
        self.acknowledged.update((event.tag, True) for event in events)

    def count(self, what: str, number: int = 1) -> None:
        # Each client counts under its own thread's name, so no addition is lost.
        name = f"{threading.current_thread().name}:{what}"
        self.counts[name] = self.counts.get(name, 0) + number

    def total(self, what: str) -> int:
        found = self.counts.copy()
        return sum(number for name, number in found.items() if name.endswith(f":{what}"))


class Client:
    """One connection at a time, until it is told to stop."""

    def __init__(
        self, name: str, seed: str, daemon: Daemon, books: Books, *, dated: float = 0.0
    ) -> None:
        """``dated`` is the share of events that say when they happened."""
        self.name = name
        self._dated = dated
        self.random = random.Random(seed)
        self.books = books
        self.daemon = daemon
        self.given_up = threading.Event()
        self._connection: Connection | None = None
        self._generation = -1
        self._made = 0

    def event(self, *, keyed: bool) -> Event:
        self._made += 1
        tag = f"{self.name}-{self._made}"
        digits = self.random.choice((1, 3, 9, 30))
        mantissa = self.random.randrange(-(10**digits), 10**digits)
        value = Decimal(f"{mantissa}e-{self.random.randrange(13)}")
        customer_id = self.random.choice(CUSTOMERS)
        event_type = self.random.choice(tuple(EVENT_TYPES))
        happened_ms = None
        if self.random.random() < self._dated:
            happened_ms = self.daemon.now_ms() - self.random.choice(_AGES_MS)
        key = f"key {tag}" if keyed else ""
        return Event(tag, customer_id, event_type, value, key, happened_ms)

    def post_one(self, event: Event) -> Answer | None:
        return self._post(*self._request(event))

    def post_batch(self, events: list[Event]) -> Answer | None:
        items = [event.document() | {"eventType": event.event_type} for event in events]
        return self._post("/usagebatch", msgspec.json.encode(items))

    def ask(self, method: str, path: str, body: dict[str, str] | None = None) -> Answer | None:
        """On a connection of its own; None as of events."""
        try:
            answer = self.daemon.request(method, path, body)
        except httpx.TransportError:
            return None
        return None if answer.status_code >= 500 else Answer(answer.status_code, answer.json())

    def post_and_leave(self, event: Event) -> None:
        """Sends it, perhaps, and does not wait for an answer."""
        path, body, fields = self._request(event)
        try:
            leaving = Connection(self.daemon.port)
        except OSError:
            return
        try:
            leaving.post_and_leave(path, body, form=self.random.choice(FORMS), fields=fields)
        except OSError:
            leaving.close()

    def _request(self, event: Event) -> tuple[str, bytes, str]:
        in_header = bool(event.key) and self.random.random() < 0.5
        fields = f"Idempotency-Key: {event.key}\r\n" if in_header else ""
        body = msgspec.json.encode(event.document(in_header=in_header))
        return f"/usage/{event.event_type}", body, fields

    def _post(self, path: str, body: bytes, fields: str = "") -> Answer | None:
        """None where nobody can know what became of it: no answer, or 5xx."""
        daemon = self.daemon
        form = self.random.choice(FORMS)
        generation, was_ready = daemon.generation, daemon.ready
        connection, self._connection = self._connection, None
        try:
            if connection is None or not connection.is_open:
                connection, self._generation = None, generation
                connection = Connection(daemon.port)
            answer = connection.post(path, body, form=form, fields=fields)
        except OSError as fault:
            failed = repr(fault)
        else:
            if answer.status < 500:
                self._connection = connection
                return answer
            failed = f"{answer.status} {answer.body}"
        if connection is not None:
            self.books.count("unanswered or 5xx")
            connection.close()
        if daemon.generation == was_ready == self._generation:
            self.books.wrong.append(f"{self.name}: dropped: {form} {path}: {failed}")
        return None

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def refused(self, answer: Answer, why: str) -> None:
        self.books.wrong.append(f"{self.name}: {why}: {answer.status} {answer.body}")


def once(client: Client, size: int) -> None:
    """Sends without keys, and never again."""
    events = [client.event(keyed=False) for _ in range(size)]
    client.books.send(events)
    answer = client.post_one(events[0]) if size == 1 else client.post_batch(events)
    if answer is None:
        time.sleep(_KNOCK_S)
    elif answer.status == 201:
        client.books.acknowledge(events)
    else:
        client.refused(answer, "not acknowledged")


def until_answered(client: Client) -> None:
    """Sends an event again until it is answered; and some after that, or another under its key."""
    event = client.event(keyed=True)
    client.books.send([event])
    is_impatient = client.random.random() < 0.05
    if is_impatient:
        client.post_and_leave(event)
    _insist(client, event, may_be_there=is_impatient)
    chance = client.random.random()
    if chance < 0.1:
        answer, _ = _repeat(client, lambda: client.post_one(event))
        if answer.status != 200:
            client.refused(answer, f"{event.tag} again")
        client.books.count("repeats of what was answered")
    elif chance < 0.2:
        other = msgspec.structs.replace(event, value=event.value.copy_negate() or Decimal(1))
        answer, _ = _repeat(client, lambda: client.post_one(other))
        if answer.status != 409:
            client.refused(answer, f"another under the key of {event.tag}")
        client.books.count("conflicts")


def _insist(client: Client, event: Event, *, may_be_there: bool = False) -> None:
    answer, asked = _repeat(client, lambda: client.post_one(event))
    if answer.status == 201 or (answer.status == 200 and (asked > 1 or may_be_there)):
        client.books.acknowledge([event])
    else:
        client.refused(answer, f"{event.tag}, asked {asked} times")
    if answer.status == 200:
        client.books.count("found stored when repeated")


def batches_until_answered(client: Client) -> None:
    """Batches, some with an event that was acknowledged before among the new ones."""
    events = [client.event(keyed=True) for _ in range(BATCH)]
    client.books.send(events)
    known: list[Event] = []
    if client.random.random() < 0.2:
        known = [client.event(keyed=True)]
        client.books.send(known)
        _insist(client, known[0])
    answer, asked = _repeat(client, lambda: client.post_batch([*events, *known]))
    duplicates = answer.body.get("duplicates", 0) - len(known)
    if answer.status != 201 or duplicates not in ((0, BATCH) if asked > 1 else (0,)):
        client.refused(answer, f"batch of {events[0].tag}, asked {asked} times")
    else:
        client.books.acknowledge(events)
    if duplicates == BATCH:
        client.books.count("found stored when repeated", BATCH)


def until_void(client: Client) -> None:
    """Sends a customer's events until they are answered, and takes them back until that is, too."""
    customer_id = client.random.choice(CUSTOMERS)
    events = [
        msgspec.structs.replace(client.event(keyed=True), customer_id=customer_id)
        for _ in range(_TAKEN_BACK)
    ]
    for event in events:
        client.books.send([event])
        _insist(client, event)
    path = f"/events?customerId={customer_id}&limit={_LATEST}"
    answer, _ = _repeat(client, lambda: client.ask("GET", path))
    listed = msgspec.convert(answer.body, list[dict[str, Any]])
    ids = {one["metadata"]["tag"]: one["_id"] for one in listed}
    for event in events:
        if event.tag in ids:
            _insist_on_void(client, event.tag, ids[event.tag])
        else:
            client.refused(Answer(answer.status, {}), f"{event.tag} is not listed")


def _insist_on_void(client: Client, tag: str, event_id: str) -> None:
    client.books.voiding[tag] = True
    reason = {"reason": f"void {tag}"}
    answer, asked = _repeat(client, lambda: client.ask("POST", f"/events/{event_id}/void", reason))
    if not (answer.status == 201 or (answer.status == 200 and asked > 1)):
        client.refused(answer, f"a void of {tag}, asked {asked} times")
        return
    client.books.voided[tag] = True
    client.books.count("voids")
    if answer.status == 200:
        client.books.count("found void when repeated")


class GivenUpError(Exception):
    """The daemon is gone for good."""


def _repeat(client: Client, ask: Callable[[], Answer | None]) -> tuple[Answer, int]:
    """The answer, when it comes, and how often it was asked for."""
    for asked in count(1):
        answer = ask()
        if answer is not None:
            return answer, asked
        if client.given_up.wait(_KNOCK_S):
            break
    raise GivenUpError


class Crowd:
    """All clients of a daemon, each in a thread of its own."""

    def __init__(self, seed: str, daemon: Daemon, books: Books) -> None:
        self._stop = threading.Event()
        self._clients = {
            Client(name, f"{seed} {name}", daemon, books, dated=_DATED): work
            for name, work in _CLIENTS.items()
        }
        self._threads = [
            threading.Thread(name=client.name, target=self._run, args=(work, client))
            for client, work in self._clients.items()
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self, *, give_up: bool = False) -> None:
        """Returns when each has had its answer, for which a daemon must be there, or given up."""
        self._stop.set()
        until = time.monotonic() + (0 if give_up else _ANSWERED_S)
        for thread in self._threads:
            thread.join(timeout=max(0, until - time.monotonic()))
        for client in self._clients:
            client.given_up.set()
        for client, thread in zip(self._clients, self._threads, strict=True):
            if thread.is_alive() and not give_up:
                client.books.wrong.append(f"{client.name} was never answered")
            thread.join()

    def _run(self, work: Callable[[Client], None], client: Client) -> None:
        try:
            while not self._stop.is_set():
                work(client)
                time.sleep(client.random.random() * _REST_S)
        except GivenUpError:
            pass
        except Exception as fault:  # noqa: BLE001 - a thread's failure is the run's
            client.books.wrong.append(f"{client.name} broke: {fault!r}")
        finally:
            client.close()


_CLIENTS: Final[dict[str, Callable[[Client], None]]] = {
    "once-1": partial(once, size=1),
    "once-2": partial(once, size=1),
    "once-batches": partial(once, size=BATCH),
    "until-answered-1": until_answered,
    "until-answered-2": until_answered,
    "until-answered-3": until_answered,
    "until-answered-batches": batches_until_answered,
    "until-void": until_void,
}
