"""The recorded answers of the old system, asked for again over real HTTP and compared to the byte.

recorded/answers.json holds, in the order they were sent to an empty store, requests and what the
unmodified handlers of the SaaS Metering Webhook System (2.0.0) answered to them, with an in-memory
store in place of its cloud platform. Where meterd differs on purpose (secrets in the configuration,
its own bounds, exact averages), the request is not in the file. A `{{...}}` in an answer stands for
what differs from run to run; all around it still counts.

The daemons are processes of their own with an empty store and the shipped seven event types
(`daemon`) or none (`daemon_without_event_types`).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, Protocol

import httpx
import msgspec

RECORDED = Path(__file__).parent / "recorded" / "answers.json"

VARYING = {
    "id": r'[^"]+',
    "instant": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z",
    "date": r"\d{4}-\d\d-\d\d",
    "number": r"\d+",
    "4 digits": r"\d{4}",
    "6 digits": r"\d{6}",
    "8 digits": r"\d{8}",
    "10 digits": r"\d{10}",
    "12 digits": r"\d{12}",
    # meterd's own keys, after the old ones; never a further element, which would begin with _id.
    "additions": r'(?:,"(?:(?!\{"_id").)*)?',
}


class Daemon(Protocol):
    """What the fixtures hand over."""

    url: str
    key: str


class Repeated(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A JSON array too long to write down: one item many times, then some others."""

    repeat: msgspec.Raw
    times: int
    then: tuple[msgspec.Raw, ...] = ()

    def text(self) -> bytes:
        items = (self.repeat,) * self.times + self.then
        return b"[" + b",".join(bytes(item) for item in items) + b"]"


class Recorded(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One request and its answer, whose body is compared to the byte around `{{...}}`."""

    name: str
    method: Literal["GET", "POST"]
    path: str
    status: int
    answer: str
    daemon: Literal["with event types", "without event types"] = "with event types"
    headers: dict[str, str] = {}
    body: str | Repeated | None = None

    def content(self) -> bytes | None:
        match self.body:
            case Repeated():
                return self.body.text()
            case str():
                return self.body.encode()
            case None:
                return None

    def agrees(self, status: int, body: bytes) -> bool:
        pieces = re.split(r"\{\{(.+?)\}\}", self.answer)
        literals = [re.escape(piece.encode()) for piece in pieces[::2]]
        varying = [VARYING[piece].encode() for piece in pieces[1::2]]
        pattern = literals[0] + b"".join(map(bytes.__add__, varying, literals[1:]))
        return status == self.status and re.fullmatch(pattern, body) is not None


def recorded_requests() -> list[Recorded]:
    return msgspec.json.decode(RECORDED.read_bytes(), type=list[Recorded])


def differences(daemon: Daemon, requests: list[Recorded]) -> list[str]:
    """Sends the requests in order and tells of every answer that is not the recorded one."""
    found = []
    # trust_env: a proxy named in the environment has no business between a test and its daemon.
    with httpx.Client(
        base_url=daemon.url, headers={"x-apikey": daemon.key}, trust_env=False
    ) as client:
        for request in requests:
            answer = client.request(
                request.method, request.path, content=request.content(), headers=request.headers
            )
            media_type = answer.headers.get("content-type", "").partition(";")[0]
            if media_type != "application/json" or not request.agrees(
                answer.status_code, answer.content
            ):
                found.append(
                    f"{request.name} ({request.method} {request.path})\n"
                    f"  recorded {request.status} {request.answer}\n"
                    f"  answered {answer.status_code} {media_type} {answer.text}"
                )
    return found


def test_clients_of_the_old_system_get_the_answers_they_know(daemon: Daemon) -> None:
    """Status and body, key order included, of each recorded request are those of the old system."""
    requests = [each for each in recorded_requests() if each.daemon == "with event types"]
    found = differences(daemon, requests)
    assert not found, "\n".join(found)


def test_without_event_types_the_old_refusals_keep_their_order(
    daemon_without_event_types: Daemon,
) -> None:
    """A daemon that has no event types says so, and only after the checks that preceded it."""
    requests = [each for each in recorded_requests() if each.daemon == "without event types"]
    found = differences(daemon_without_event_types, requests)
    assert not found, "\n".join(found)


def test_more_than_eighty_answers_leave_no_byte_open() -> None:
    """The record cannot thin out, nor its bytes give way to placeholders, without being seen."""
    exact = {each.name for each in recorded_requests() if "{{" not in each.answer}
    assert len(exact) >= 83
