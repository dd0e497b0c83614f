"""Attempts and curl lines, one by one."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from typing import Any

import msgspec
import pytest

from meterd.domain.deliveries import (
    BATCH,
    Attempt,
    Delivery,
    Member,
    attempt_interrupted,
)
from meterd.domain.endpoint_states import EndpointState
from meterd.domain.outcomes import ErrorKind, Outcome
from meterd.domain.periods import PeriodType
from meterd.edge.delivery_documents import (
    attempt_document,
    curl,
    delivery_document,
    history_document,
)
from meterd.ledger import DeliveryHistory, LoggedAttempt
from tests.fake_clock import ms

NOW_MS = ms("2026-03-10T10:00:00Z")
BODY = """{"customerId":"it's $HOME `é`","n":1}""".encode()
WAITING = Delivery(
    "msg_1", "billing", 7, "c", PeriodType.DAILY, ms("2026-03-09T00:00:00Z"), 1, BODY, 5, 6
)
SHA256 = hashlib.sha256(BODY).hexdigest()


def attempt(outcome: Outcome, url: str = "http://b.test/") -> Attempt:
    headers = (("Content-Type", "application/json"), ("webhook-id", "msg_1"))
    return Attempt("billing", 7, 1, NOW_MS, NOW_MS + 40, outcome, url, headers, SHA256)


def test_an_attempt_that_nobody_saw_the_end_of() -> None:
    """Says so, and has nothing else to say."""
    begun = msgspec.structs.replace(WAITING, begun_ms=NOW_MS, attempts=3)
    assert attempt_document(attempt_interrupted(begun), BODY) == {
        "number": 3,
        "startedAt": "2026-03-10T10:00:00.000Z",
        "outcomeUnknown": True,
        "error": "outcome unknown: meterd ended during the attempt",
    }


def test_an_attempt_without_an_answer() -> None:
    """Has the class of its error, and no status, headers or body."""
    shown = attempt_document(attempt(Outcome("Request timeout", ErrorKind.TIMEOUT)), None)
    assert (shown["errorClass"], shown["durationMs"]) == ("timeout", 40)
    assert not shown.keys() & {"status", "responseHeaders", "responseBody", "address", "curl"}


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (b"", {"responseBody": ""}),
        ("grün".encode(), {"responseBody": "grün"}),
        (b"\x1f\x8b", {"responseBodyBase64": "H4s="}),
    ],
)
def test_the_body_of_an_answer(body: bytes, shown: dict[str, str]) -> None:
    """As text where it is UTF-8."""
    found = attempt_document(attempt(Outcome(status=200, body=body)), None)
    assert {name: value for name, value in found.items() if "Body" in name} == shown


def test_an_answer_that_was_not_read_to_its_end() -> None:
    """Says so; others say nothing of it."""
    for cut, shown in ((True, True), (False, None)):
        found = attempt_document(attempt(Outcome(status=200, cut=cut)), None)
        assert found.get("responseCut") is shown


@pytest.mark.parametrize(
    ("delivery", "kind"),
    [
        (WAITING, None),
        (msgspec.structs.replace(WAITING, body=b'{"type":"aggregation.revised","x":1}'), "revised"),
        (
            msgspec.structs.replace(
                WAITING, revision=2, body=b'{"type":"aggregation.completed","customerId":"c"}'
            ),
            "completed",
        ),
        (
            msgspec.structs.replace(
                WAITING, sequence=BATCH + 1, body=b"", members=(Member(7, b"", "c"),)
            ),
            "batch",
        ),
    ],
)
def test_a_delivery_says_what_its_body_is(delivery: Delivery, kind: str | None) -> None:
    """Also where a replay made a later revision the first that the endpoint gets."""
    shown = json.loads(delivery_document(delivery, None)).get("type")
    assert shown == (None if kind is None else f"aggregation.{kind}")


def test_the_curl_line_makes_the_same_request(tmp_path: Any) -> None:
    """A shell takes it apart into what was sent, whatever a customer is called."""
    line = curl(attempt(Outcome(), "http://b.test/?a=***&b"), BODY)
    stand_in = tmp_path / "curl"
    stand_in.write_text("#!/bin/sh\nfor word; do printf '%s\\0' \"$word\"; done\n")
    stand_in.chmod(0o700)
    words = subprocess.run(
        [shutil.which("sh") or "sh", "-c", line],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        check=True,
    ).stdout.split(b"\0")
    assert words == [
        *(b"-isS", b"-X", b"POST", b"http://b.test/?a=***&b"),
        *(b"-H", b"Content-Type: application/json", b"-H", b"webhook-id: msg_1"),
        *(b"--data-binary", BODY, b""),
    ]


def test_a_long_body_is_no_argument() -> None:
    """Linux would refuse it."""
    assert curl(attempt(Outcome()), b"[" + b"1" * 200_000).endswith("--data-binary @body.json")


def test_only_what_was_sent_is_repeated() -> None:
    """An attempt of a batch had another body; it says which, and which of that one's it was."""
    alone = LoggedAttempt(attempt(Outcome()), 1)
    history = DeliveryHistory(WAITING, (alone,), EndpointState())
    other = msgspec.structs.replace(attempt(Outcome()), body_sha256="0" * 64)
    logged = LoggedAttempt(other, 4, "msg_b", 1)
    in_batch = msgspec.structs.replace(history, attempts=(logged,), batch="msg_b")
    found = [json.loads(history_document(one, None)) for one in (history, in_batch)]
    assert "curl" in found[0]["attemptLog"][0]
    [with_others] = found[1]["attemptLog"]
    assert "curl" not in with_others
    assert [with_others[name] for name in ("number", "batch", "batchAttempt")] == [4, "msg_b", 1]
    assert not {"batch", "batchAttempt"} & found[0]["attemptLog"][0].keys()
    assert (found[0].get("batch"), found[1]["batch"]) == (None, "msg_b")


def test_a_batch_is_of_many() -> None:
    """It says how many; sequence and customer are theirs."""
    members = (Member(1, b"", "a"), Member(2, b"", "b"))
    batch = msgspec.structs.replace(WAITING, sequence=BATCH + 1, members=members)
    shown = json.loads(delivery_document(batch, None))
    assert shown["deliveries"] == 2
    assert not shown.keys() & {"sequence", "customerId", "revision"}
