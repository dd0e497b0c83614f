"""Clients that fill a disk, and are not always served."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, Final

import msgspec

from tests.system.torture.daemons.clients import Client
from tests.system.torture.daemons.wire import Connection

if TYPE_CHECKING:
    from tests.system.torture.daemons.clients import Books, Event
    from tests.system.torture.daemons.process import Daemon
    from tests.system.torture.daemons.wire import Answer

BATCH: Final = 30
_PAD: Final = "x" * 3_000
# What Retry-After may ask for at most.
_PATIENCE_S: Final = 60
# Who is refused, or met nobody, comes again.
_AGAIN_S: Final = 0.02
# What a 503 says of events that may be stored when there is room.
_MAY_BE_STORED: Final = "The outcome is not known"


class Filler(Client):
    """Sends single events (``size`` 1) or batches; those that have keys until they are answered.

    ``full`` has the events that were answered 507 and had no key: they must never be stored.
    ``refusals`` counts how often, ``served`` how often not.
    """

    def __init__(
        self, name: str, seed: str, daemon: Daemon, books: Books, *, size: int, keyed: bool
    ) -> None:
        super().__init__(name, seed, daemon, books)
        self._size = size
        self._keyed = keyed
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.full: set[str] = set()
        self.refusals = 0
        self.unknown = 0
        self.served = 0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self._send([self.event(keyed=self._keyed) for _ in range(self._size)])
        except Exception as fault:
            self.books.wrong.append(f"{self.name}: {fault!r}")
            raise
        finally:
            if self._connection is not None:
                self._connection.close()

    def _send(self, events: list[Event]) -> None:
        self.books.send(events)
        waits_in = None
        while True:
            generation = self.daemon.generation
            answer = self._ask(events)
            status = None if answer is None else answer.status
            if answer is not None and status in (503, 507):
                self._check_refusal(answer)
                if status == 507 and waits_in == self.daemon.generation:
                    self._wrong("nothing was stored, it says of what waits for room")
                if status == 503 and answer.body["error"].startswith(_MAY_BE_STORED):
                    waits_in = generation
            if status in (200, 201):
                self.served += 1
                self.books.acknowledge(events)
                return
            if status == 507:
                self.refusals += 1
                if not self._keyed:
                    self.full.update(event.tag for event in events)
            elif status in (503, None):
                self.unknown += 1
            else:
                self._wrong(f"{status}")
            time.sleep(_AGAIN_S)
            if not self._keyed or self._stop.is_set():
                return

    def _check_refusal(self, answer: Answer) -> None:
        if answer.retry_after is None or not 1 <= answer.retry_after <= _PATIENCE_S:
            self._wrong(f"{answer.status} with Retry-After {answer.retry_after}")

    def _wrong(self, what: str) -> None:
        self.books.wrong.append(f"{self.name}: {what}")

    def _ask(self, events: list[Event]) -> Answer | None:
        """The answer; None where no answer came, which is wrong unless a daemon was killed."""
        documents = [_padded(event) for event in events]
        path, body = "/usagebatch", msgspec.json.encode(documents)
        if len(events) == 1:
            path, body = f"/usage/{events[0].event_type}", msgspec.json.encode(documents[0])
        daemon = self.daemon
        generation, was_ready = daemon.generation, daemon.ready
        try:
            if self._connection is None or not self._connection.is_open:
                self._generation = generation
                self._connection = Connection(daemon.port)
            return self._connection.post(path, body, form="plain")
        except OSError as fault:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            if daemon.generation == was_ready == self._generation:
                self._wrong(f"dropped: {fault!r}")
            return None


def _padded(event: Event) -> dict[str, Any]:
    document = event.document() | {"eventType": event.event_type}
    document["metadata"] = {**document["metadata"], "pad": _PAD}
    return document
