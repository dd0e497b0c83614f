"""The routes of the API's document: open to all, event types to those who may know them."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import msgspec
import pytest

from meterd import __version__
from meterd.domain.config import EventType
from meterd.domain.operations import Operation
from tests.edge.api_bench import LIMITS, Api, serving


async def event_types(api: Api, **headers: str) -> Any:
    answer = await api.http.get("/openapi.json", headers={"x-apikey": "", **headers})
    assert answer.status_code == HTTPStatus.OK
    assert answer.headers["Content-Type"] == "application/json"
    document = answer.json()
    assert document["info"]["version"] == __version__
    [parameter, *_] = document["paths"]["/usage/{eventType}"]["post"]["parameters"]
    return parameter["schema"].get("enum")


@pytest.mark.parametrize("scope", ["read", "ingest", "all"])
async def test_a_key_is_told_the_event_types(scope: str) -> None:
    """As they are configured at that moment."""
    async with serving(started=False) as api:
        assert await event_types(api, **{"x-apikey": f"key-{scope}"}) == ["api.calls", "a/b", "é"]
        bearer = {"x-apikey": f"key-{scope}", "Authorization": ""}
        api.config = msgspec.structs.replace(api.config, events={"b": EventType(Operation.SUM)})
        assert await event_types(api, **bearer) == ["b"]
        api.config = msgspec.structs.replace(api.config, events={})
        assert await event_types(api, **bearer) is None


@pytest.mark.parametrize("key", ["", "key-metrics", "key-admin", "key-of-nobody"])
async def test_others_are_told_everything_else(key: str) -> None:
    """Also with a wrong key."""
    async with serving(started=False) as api:
        assert await event_types(api, **{"x-apikey": key}) is None
        answer = await api.http.get("/openapi.json", headers={"x-apikey": "key-of-nobody"})
        assert "api.calls, a/b" not in answer.text
        assert "é" not in answer.text


async def test_a_wrong_key_counts_as_one() -> None:
    """Else keys could be tried here as fast as the network is."""
    async with serving(started=False) as api:
        for _ in range(LIMITS.wrong_keys_max):
            assert await event_types(api, **{"x-apikey": "key-of-nobody"}) is None
        # Meanwhile some more are allowed, on a busy machine; without those above all would be.
        answered = {
            (await api.http.get("/config", headers={"x-apikey": "key-of-nobody"})).status_code
            for _ in range(LIMITS.wrong_keys_max // 2)
        }
        assert HTTPStatus.TOO_MANY_REQUESTS in answered
        assert await event_types(api, **{"x-apikey": "key-read"}) is not None


async def test_the_page() -> None:
    """HTML for everybody, which may load and run nothing; with the address that was asked."""
    async with serving(started=False) as api:
        answer = await api.http.get("/docs", headers={"x-apikey": ""})
        assert answer.status_code == HTTPStatus.OK
        assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
        told = answer.headers["Content-Security-Policy"].split("; ")
        policy = dict(directive.split(" ", 1) for directive in told)
        assert policy.pop("style-src").startswith("'sha256-")
        nothing = ("default-src", "base-uri", "form-action", "frame-ancestors")
        assert policy == dict.fromkeys(nothing, "'none'")
        assert f"export BASE_URL=http://127.0.0.1:{api.door.port}\n" in answer.text
        again = await api.http.get("/docs", headers={"Host": "a'&b"})
        assert again.status_code == HTTPStatus.BAD_REQUEST or "a'&b" not in again.text


@pytest.mark.parametrize(
    ("outside", "scheme"),
    [
        ("https", "https"),
        ("HTTPS, http", "https"),
        ("http", "http"),
        ("http, https", "http"),
        ("javascript", "http"),
    ],
)
async def test_the_page_behind_a_proxy_that_ends_tls(outside: str, scheme: str) -> None:
    """It shows the address that is asked outside, whose scheme the proxy tells."""
    async with serving(started=False) as api:
        head = {"Host": "meter.example", "X-Forwarded-Proto": outside}
        answer = await api.http.get("/docs", headers=head)
        assert f"export BASE_URL={scheme}://meter.example\n" in answer.text
