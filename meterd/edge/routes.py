"""What routes have in common: answers as Quart sends them, who may call, long arrays, bodies."""

from __future__ import annotations

import re
from functools import lru_cache, wraps
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

from quart import Response, request

from meterd.edge.codings import refuse_compressed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from meterd.domain.credentials import Scope
    from meterd.edge.access import Access
    from meterd.edge.problems import Answer

    Route = Callable[..., Awaitable[Response]]


# Of a rule of Quart's: <path:event_type>.
_VALUE: Final = re.compile(r"<(?:\w+:)?(\w+)>")


def respond(made: Answer) -> Response:
    response = Response(made.body, made.status, content_type="application/json")
    for name, value in made.headers:
        response.headers[name] = value
    return response


def needs(scope: Scope, access: Access) -> Callable[[Route], Route]:
    """Lets a request through to the route if its key has the scope."""

    def guard(route: Route) -> Route:
        @wraps(route)
        async def guarded(**values: Any) -> Response:
            given = request.headers
            refused = await access.refuse(
                scope,
                given.get("x-apikey"),
                given.get("Authorization", ""),
                request.remote_addr or "",
            )
            return await route(**values) if refused is None else respond(refused)

        return guarded

    return guard


def unless(refusal: Callable[[], Answer | None]) -> Callable[[Route], Route]:
    """Lets a request through to a route that asks the ledger when that may be asked."""

    def guard(route: Route) -> Route:
        @wraps(route)
        async def guarded(**values: Any) -> Response:
            refused = refusal()
            return await route(**values) if refused is None else respond(refused)

        return guarded

    return guard


def route_template() -> tuple[str, str]:
    """Method and route of this request, as the documents write them: not as a client did."""
    if request.url_rule is None:
        return "other", "none"
    return request.method, _template(request.url_rule.rule)


@lru_cache(maxsize=64)
def _template(rule: str) -> str:
    """``/usage/<path:event_type>`` as ``/usage/{eventType}``."""

    def in_braces(value: re.Match[str]) -> str:
        first, *others = value[1].split("_")
        return "{" + first + "".join(word.capitalize() for word in others) + "}"

    return _VALUE.sub(in_braces, rule)


def respond_array(pages: AsyncIterator[bytes], next_cursor: str | None) -> Response:
    """An array in pages; its Link header leads to the next."""
    response = Response(pages, HTTPStatus.OK, content_type="application/json")
    response.timeout = None  # the front door times what a client does not take
    if next_cursor is not None:
        others = [
            (name, value) for name, value in request.args.items(multi=True) if name != "cursor"
        ]
        query = urlencode([*others, ("cursor", next_cursor)])
        response.headers["Link"] = f'<{request.path}?{query}>; rel="next"'
    return response


def body_bytes() -> int:
    """How long the body will be at most: a chunked one does not say."""
    length = request.content_length
    return request.max_content_length or 0 if length is None else length


async def read_body() -> bytes:
    """As it was sent. Raises CompressedBodyError where it was compressed: it has come by then, so
    the connection stays.
    """
    body = await request.get_data(cache=False, as_text=False)
    assert isinstance(body, bytes)
    refuse_compressed(request.headers.getlist("Content-Encoding"))
    return body
