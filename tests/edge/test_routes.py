"""What routes have in common, tried through a small application."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

import pytest
from quart_trio import QuartTrio

from meterd.edge import problems
from meterd.edge.routes import body_bytes, read_body, respond, respond_array, unless

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from quart import Response

    from meterd.edge.problems import Answer


def application(refusals: list[Answer]) -> QuartTrio:
    app = QuartTrio("test")
    app.config["MAX_CONTENT_LENGTH"] = 1000

    async def pages() -> AsyncIterator[bytes]:
        yield b"["
        yield b"]"

    @app.get("/array")
    @unless(lambda: refusals[0] if refusals else None)
    async def array() -> Response:
        return respond_array(pages(), "next one")

    @app.post("/body")
    async def body() -> Response:
        length = body_bytes()
        content = {"length": length, "body": (await read_body()).decode()}
        return respond(problems.answer(HTTPStatus.OK, content, ("X-More", "1")))

    return app


async def test_a_refusal_goes_before_the_route() -> None:
    """Whatever it is at that moment."""
    refusals: list[Answer] = []
    client = application(refusals).test_client()
    assert (await client.get("/array")).status_code == 200
    refusals.append(problems.DISK_FULL)
    refused = await client.get("/array")
    assert refused.status_code == 507
    assert refused.headers["Retry-After"] == "30"


@pytest.mark.parametrize(
    ("query", "link"),
    [
        ("", "/array?cursor=next+one"),
        ("?a=1&cursor=old&a=2", "/array?a=1&a=2&cursor=next+one"),
        ("?a=%26+%C3%A9", "/array?a=%26+%C3%A9&cursor=next+one"),
    ],
)
async def test_a_link_keeps_what_was_asked(query: str, link: str) -> None:
    """But for the cursor, which is the next one."""
    answer = await application([]).test_client().get(f"/array{query}")
    assert answer.headers["Link"] == f'<{link}>; rel="next"'
    assert await answer.get_data() == b"[]"


async def test_a_body_and_its_length() -> None:
    """As it was sent, at most so long as any may be; headers of an answer are in it."""
    client = application([]).test_client()
    answer = await client.post("/body", data=b"{x", headers={"Content-Length": "2"})
    assert await answer.get_json() == {"length": 2, "body": "{x"}
    assert (answer.headers["X-More"], answer.content_type) == ("1", "application/json")
    chunked = await client.post("/body", data=b"{x")
    assert await chunked.get_json() == {"length": 1000, "body": "{x"}
