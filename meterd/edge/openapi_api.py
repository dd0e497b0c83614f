"""The routes of the API's document: for programs, and for people.

No key is needed, since the document says what every meterd of this version says. Which event types
are configured is the operator's affair, and theirs to know who may send events or read them: with a
key of such a scope the document names them.

It is made when it is first asked for, in a thread, and kept until the configuration is another: a
start waits for none of it, and neither do events.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import msgspec
import trio
from quart import Response, request

from meterd.domain.credentials import Scope
from meterd.edge.problems import Answer
from meterd.edge.routes import respond

if TYPE_CHECKING:
    from collections.abc import Callable

    from quart_trio import QuartTrio

    from meterd.domain.config import Config
    from meterd.edge.access import Access
    from meterd.edge.docs_page import Page

_ENTITLED: Final = (Scope.READ, Scope.INGEST)


class Documents:
    """Those that were made: for who may know the event types, and for everybody."""

    def __init__(self, config: Callable[[], Config]) -> None:
        self._config = config
        self._public: bytes | None = None
        self._page: Page | None = None
        self._with_types: tuple[tuple[str, ...], bytes] | None = None

    async def document(self, *, with_types: bool) -> bytes:
        """As JSON."""
        if not with_types:
            if self._public is None:
                self._public = await trio.to_thread.run_sync(_document, None)
            return self._public
        event_types = tuple(self._config().events)
        if self._with_types is None or self._with_types[0] != event_types:
            made = await trio.to_thread.run_sync(_document, event_types)
            self._with_types = event_types, made
        return self._with_types[1]

    async def page(self) -> Page:
        made = self._page
        if made is None:
            made = self._page = await trio.to_thread.run_sync(_page)
        return made


def add_document_routes(app: QuartTrio, access: Access, config: Callable[[], Config]) -> None:
    documents = Documents(config)

    @app.get("/openapi.json")
    async def openapi() -> Response:
        given = request.headers
        presented = given.get("x-apikey"), given.get("Authorization", "")
        with_types = any(access.lets_in(scope, *presented) for scope in _ENTITLED)
        if not with_types and any(presented):
            # A wrong key is answered like none, and held against who tries it.
            await access.refuse(Scope.READ, *presented, request.remote_addr or "")
        document = await documents.document(with_types=with_types)
        return respond(Answer(HTTPStatus.OK, document))

    @app.get("/docs")
    async def docs() -> Response:
        page = await documents.page()
        # A proxy that ends TLS says so. Anybody may, and changes what is shown to nobody else.
        outside = request.headers.get("X-Forwarded-Proto", "").partition(",")[0].strip().lower()
        scheme = "https" if outside == "https" else request.scheme
        response = Response(
            page.at(f"{scheme}://{request.host}"), content_type="text/html; charset=utf-8"
        )
        response.headers["Content-Security-Policy"] = page.policy
        response.headers["Referrer-Policy"] = "no-referrer"
        return response


# Imported when they are needed: 30 ms of every start else.


def _document(event_types: tuple[str, ...] | None) -> bytes:
    from meterd.edge.openapi import document  # noqa: PLC0415

    return msgspec.json.encode(document(event_types))


def _page() -> Page:
    from meterd.edge.docs_page import page  # noqa: PLC0415
    from meterd.edge.openapi import document  # noqa: PLC0415

    return page(document(None))
