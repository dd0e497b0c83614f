"""What routes make of a body: its type, its coding, its size, and what breaks it."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest

from meterd.edge.openapi_parts import NO_EVENT_ID
from meterd.ledger import EventQuery
from tests.edge.api_bench import BODY_BYTES_MAX, error_of, serving

EVENT = {"customerId": "c", "value": 1}


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/json; charset=latin-1",
        "multipart/form-data",
    ],
)
async def test_a_body_is_json_whatever_its_type(content_type: str | None) -> None:
    """People post with curl -d and no header."""
    headers = {} if content_type is None else {"Content-Type": content_type}
    async with serving() as api:
        one = await api.ask(
            "POST", "/usage/api.calls", headers=headers, content=json.dumps(EVENT).encode()
        )
        assert (one.status_code, one.json()["customerId"]) == (201, "c")
        items = json.dumps([{**EVENT, "eventType": "a/b"}] * 2).encode()
        many = await api.ask("POST", "/usagebatch", headers=headers, content=items)
        assert (many.status_code, many.content) == (201, b'{"message":"Events captured","count":2}')


async def test_what_breaks_a_body_is_said_beside_the_answer() -> None:
    """Of one event and of a batch; the answer is the contract's, to the byte."""
    body = b'[\n  {"customerId": "c",}\n]'
    async with serving() as api:
        for path in ("/usage/api.calls", "/usagebatch"):
            answer = await api.ask("POST", path, content=body)
            assert (answer.status_code, answer.content) == (400, b'{"error":"Malformed JSON"}')
            place = "trailing comma in object (line 2, column 22, byte 23)"
            assert answer.headers["Meterd-Malformed"] == place
        answer = await api.ask("POST", "/usagebatch", content=b"[]")
        assert "Meterd-Malformed" not in answer.headers


async def test_a_compressed_body_is_refused_as_that() -> None:
    """By every route that reads one, behind the check of the key; the connection stays, and nothing
    is stored, nor said to be malformed.
    """
    packed = {"Content-Encoding": "gzip"}
    content = gzip.compress(json.dumps(EVENT).encode())
    said = "Request body must not be compressed: Content-Encoding gzip is not taken"
    async with serving() as api:
        for path in (
            *("/usage/api.calls", "/usagebatch", "/deliveries/replay"),
            f"/events/{NO_EVENT_ID}/void",
        ):
            answer = await api.ask("POST", path, headers=packed, content=content)
            assert error_of(answer) == (415, said)
            assert answer.headers["Accept-Encoding"] == "identity"
            wrong = await api.ask("POST", path, headers={**packed, "x-apikey": "no"})
            assert wrong.status_code == 401
        in_lines = [("Content-Encoding", "identity"), ("Content-Encoding", "gzip")]
        answer = await api.ask("POST", "/usagebatch", headers=in_lines, content=content)
        assert error_of(answer) == (415, said)
        assert await api.ledger.events(EventQuery(), limit=9) == []
        for coding in ("identity", "utf-8"):
            sent = {"Content-Encoding": coding}
            answer = await api.ask("POST", "/usage/api.calls", headers=sent, json=EVENT)
            assert answer.status_code == 201


@pytest.mark.parametrize(
    ("prefer", "status"),
    [
        ([], 422),
        (["handling=strict"], 422),
        (["handling=lenient"], 207),
        (["respond-async", "handling=lenient"], 207),
        (["handling=strict", "handling=lenient"], 422),
    ],
)
async def test_a_lenient_batch(prefer: list[str], status: int) -> None:
    """RFC 7240: several Prefer fields are one list."""
    async with serving() as api:
        items = [{**EVENT, "eventType": "api.calls"}, None]
        answer = await api.ask(
            "POST", "/usagebatch", json=items, headers=[("Prefer", one) for one in prefer]
        )
        assert answer.status_code == status
        assert len(await api.ledger.events(EventQuery(), limit=9)) == (1 if status == 207 else 0)


async def test_bodies_have_a_limit() -> None:
    """413 in JSON, declared or chunked; a body at the limit passes."""
    event = json.dumps(EVENT).encode()
    too_long = event + b" " * (BODY_BYTES_MAX + 1 - len(event))

    async def chunks() -> Any:
        for start in range(0, len(too_long), 65536):
            yield too_long[start : start + 65536]

    async with serving() as api:
        # Answered before the body has come, the connection does not stay.
        close = {"Connection": "close"}
        for content in (too_long, chunks()):
            answer = await api.ask("POST", "/usage/api.calls", content=content, headers=close)
            assert error_of(answer) == (413, "Request body too large")
        assert await api.ledger.events(EventQuery(), limit=9) == []
        answer = await api.ask("POST", "/usage/api.calls", content=too_long[:-1])
        assert answer.status_code == 201
