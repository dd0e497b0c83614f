"""What clients send, and what the answers to it promise."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import msgspec

from tests.simulation.books import BrokenPromiseError, Sent
from tests.simulation.exchange import request

if TYPE_CHECKING:
    from tests.simulation.exchange import Answer
    from tests.simulation.oracle import Oracle

# Of a 503 that says what is full, or that it starts: nothing was stored.
_UNKNOWN = b"The outcome is not known"


class Post(msgspec.Struct, frozen=True):
    """One request with events. ``header_key`` is the whole request's idempotency key."""

    events: tuple[Sent, ...]
    is_batch: bool = False
    is_lenient: bool = False
    header_key: str = ""

    def data(self) -> bytes:
        headers = []
        if self.header_key:
            headers.append(f"Idempotency-Key: {self.header_key}")
        if self.is_lenient:
            headers.append("Prefer: handling=lenient")
        documents = []
        for event in self.events:
            document = event.document(with_type=self.is_batch)
            if self.header_key:
                del document["idempotencyKey"]
            documents.append(document)
        if self.is_batch:
            return request("POST", "/usagebatch", msgspec.json.encode(documents), headers)
        [event] = self.events
        body = msgspec.json.encode(documents[0])
        return request("POST", f"/usage/{event.event_type}", body, headers)


class Answers:
    """Holds answers against the books, at the moment that a client hears them."""

    def __init__(self, oracle: Oracle) -> None:
        self._oracle = oracle
        self._books = oracle.books
        self.refused: set[int] = set()
        self._times_sent: Counter[int] = Counter()
        self.acknowledged = 0

    def sending(self, post: Post) -> None:
        for event in post.events:
            self._books.sending(event)
            self.refused.discard(event.number)
            self._times_sent[event.number] += 1

    def heard(self, post: Post, answer: Answer, since_s: float) -> None:
        """It was sent then. Raises BrokenPromiseError."""
        is_first = all(self._times_sent[event.number] == 1 for event in post.events)
        known = [event.number in self._books.stored for event in post.events]
        match answer.status:
            case 201 | 200:
                self._captured(post, answer, known, is_first=is_first)
            case 207:
                fit = [not event.is_unfit for event in post.events]
                self._acknowledged(post, known, [n for n, ok in enumerate(fit) if ok])
                if answer.json()["successCount"] != sum(fit) or known != fit:
                    raise BrokenPromiseError("wrong", f"{post} is answered {answer.body!r}")
            case 503 if _UNKNOWN in answer.body:
                pass
            case 400 | 409 | 422 | 503 | 507:
                self._refused(post, answer, since_s, is_first=is_first)
            case _:
                raise BrokenPromiseError("wrong", f"{post} is answered {answer}")

    def _captured(self, post: Post, answer: Answer, known: list[bool], *, is_first: bool) -> None:
        told = answer.json()
        if any(event.is_unfit for event in post.events):
            raise BrokenPromiseError("wrong", f"{post} is not fit, and answered {answer.body!r}")
        self._acknowledged(post, known, range(len(known)))
        is_repeat = answer.status == 200 or told.get("duplicates", 0) > 0
        if is_repeat and is_first:
            raise BrokenPromiseError("lost", f"{post} is taken for a repeat: {answer.body!r}")
        if post.is_batch and told["count"] != len(post.events):
            raise BrokenPromiseError("wrong", f"{post} is answered {answer.body!r}")

    def _acknowledged(self, post: Post, known: list[bool], places: range | list[int]) -> None:
        for place in places:
            if not known[place]:
                number = post.events[place].number
                raise BrokenPromiseError("lost", f"event {number} is acknowledged, and not on disk")
        self.acknowledged += len(places)

    def _refused(self, post: Post, answer: Answer, since_s: float, *, is_first: bool) -> None:
        """Of what is sent for the first time nothing is stored, now or later."""
        if answer.status in (409, 422) and not any(
            event.is_unfit or self._oracle.may_refuse(event, since_s) for event in post.events
        ):
            raise BrokenPromiseError("lost", f"{post} is refused: {answer.body!r}")
        if is_first:
            self.refused.update(event.number for event in post.events)
        self.require_refused()

    def require_refused(self) -> None:
        """What was refused is not stored."""
        if stored := self.refused & self._books.stored.keys():
            raise BrokenPromiseError("twice", f"refused and stored all the same: {stored}")
