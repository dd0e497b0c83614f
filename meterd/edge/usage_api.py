"""The routes of customers and their usage.

An answer is whole before its first byte is sent: what is too large is refused, and not cut off.
It is put together in portions, each some milliseconds of a reader's thread, in turn with those of
others; bounded in rows, of which only the totals are held.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Final, NamedTuple

from quart import Response, request

from meterd.domain.credentials import Scope
from meterd.domain.periods import PeriodType
from meterd.domain.sections import quoted
from meterd.domain.usage import Groups, UsageQuery, stored_rows
from meterd.edge import problems
from meterd.edge.parameters import UnfitParameterError, customer_cursor, window_cursor
from meterd.edge.problems import Answer
from meterd.edge.routes import needs, respond, respond_array, unless
from meterd.edge.usage_documents import (
    csv_head,
    csv_row,
    customer_document,
    live_document,
    row_document,
)
from meterd.edge.usage_request import LIMIT_MAX, customers_asked, live_usage_asked, usage_asked
from meterd.ledger import EventQuery

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from quart_trio import QuartTrio

    from meterd.domain.config import Config
    from meterd.domain.usage import Customer, UsageRow, WindowTotals
    from meterd.edge.access import Access
    from meterd.edge.pages import PageTurn
    from meterd.edge.readiness import Readiness
    from meterd.edge.usage_request import UsageRequest
    from meterd.ledger import Ledger

# Customers, windows and events read in one transaction, and rows written at once: 5 ms each.
CUSTOMERS_AT_ONCE: Final = 2_000
WINDOWS_AT_ONCE: Final = 400
EVENTS_AT_ONCE: Final = 500
ROWS_AT_ONCE: Final = 100
# Of one answer, about 2 kB each; and the texts of one window's groups, which customers choose.
ROWS_MAX: Final = 10_000
GROUP_TEXTS_MAX: Final = 8 << 20
JSON: Final = "application/json"
CSV: Final = "text/csv"


class Usage(NamedTuple):
    """What these routes have in common; ``turn`` is that of all long answers."""

    config: Callable[[], Config]
    ledger: Ledger
    readiness: Readiness
    turn: PageTurn

    async def customers(self, limit: int, after: str | None) -> tuple[list[Customer], str | None]:
        """Up to so many, and behind whom the next page begins."""
        found: list[Customer] = []
        while True:
            asked = min(CUSTOMERS_AT_ONCE, limit + 1 - len(found))
            async with self.turn:
                some = await self.ledger.customers(limit=asked, after=after)
            found += some
            if len(found) > limit:
                return found[:limit], found[limit - 1].id
            if len(some) < asked:
                return found, None
            after = found[-1].id

    async def require_known(self, query: UsageQuery) -> None:
        """Raises UnfitParameterError for an event type that is neither configured nor stored.

        A misspelled one would look like no usage; one that is configured no more has had some. Its
        events may be pruned, and then totals of the customer's are still there.
        """
        known, event_type = self.config().events, query.event_type
        if event_type is None or event_type in known:
            return
        totals = UsageQuery(query.customer_id, PeriodType.YEARLY, event_type)
        if not (
            await self.ledger.events(EventQuery(event_type=event_type), limit=1)
            or await self.ledger.usage_windows(totals, limit=1)
        ):
            raise UnfitParameterError(
                f"eventType must be one of: {', '.join(known) or 'none is configured'}; of"
                f" {quoted(event_type)} nothing is stored either"
            )

    async def rows(self, asked: UsageRequest) -> tuple[list[UsageRow], int | None]:
        """Those of up to ``limit`` windows, of all without one; and where the last of these
        began, if more follow.
        """
        query, limit, after_ms = asked
        rows: list[UsageRow] = []
        windows = 0
        while True:
            left = WINDOWS_AT_ONCE if limit is None else limit + 1 - windows
            at_once = min(WINDOWS_AT_ONCE, left)
            async with self.turn:
                some = await self.ledger.usage_windows(query, limit=at_once, after_ms=after_ms)
            for window in some:
                if windows == limit:
                    return rows, after_ms
                found = await self.rows_of(window, query)
                if len(rows) + len(found) > ROWS_MAX:
                    if limit is None or not windows:
                        raise _too_many_rows(asked, window, len(found))
                    return rows, after_ms
                rows += found
                windows += 1
                after_ms = window.period.start_ms
            if len(some) < at_once:
                return rows, None

    async def rows_of(self, window: WindowTotals, query: UsageQuery) -> list[UsageRow]:
        """Of one window: from its totals, or from its events where they must be looked at."""
        if not query.needs_events:
            return stored_rows(window)
        groups = Groups()
        before = None
        while True:
            async with self.turn:
                portion = await self.ledger.usage_groups(
                    query, window.period, limit=EVENTS_AT_ONCE, before=before
                )
            groups.add(portion.groups)
            if len(groups) > ROWS_MAX or groups.texts > GROUP_TEXTS_MAX:
                raise _too_many_groups(query, window)
            before = portion.before
            if before is None:
                return groups.rows(window)

    async def json(self, rows: Sequence[UsageRow], query: UsageQuery) -> AsyncIterator[bytes]:
        """An array of them."""
        separator = b"["
        event_types = self.config().events
        for start in range(0, len(rows), ROWS_AT_ONCE):
            async with self.turn:
                documents = [
                    row_document(row, query, event_types)
                    for row in rows[start : start + ROWS_AT_ONCE]
                ]
            yield separator + b",".join(documents)
            separator = b","
        yield b"]" if rows else b"[]"

    async def csv(self, rows: Sequence[UsageRow], query: UsageQuery) -> AsyncIterator[bytes]:
        """The names of the fields, and a line for each row."""
        yield csv_head(query)
        event_types = self.config().events
        for start in range(0, len(rows), ROWS_AT_ONCE):
            async with self.turn:
                lines = [
                    csv_row(row, query, event_types) for row in rows[start : start + ROWS_AT_ONCE]
                ]
            yield b"".join(lines)


def add_usage_routes(app: QuartTrio, access: Access, usage: Usage) -> None:
    @app.get("/customers")
    @needs(Scope.READ, access)
    @unless(usage.readiness.refusal_to_read)
    async def customers() -> Response:
        asked = customers_asked(request.args.items(multi=True))
        found, end = await usage.customers(asked.limit, asked.after)
        return respond_array(_customers(found), customer_cursor(end))

    @app.get("/customers/<path:customer_id>/usage")
    @needs(Scope.READ, access)
    @unless(usage.readiness.refusal_to_read)
    async def customer_usage(customer_id: str) -> Response:
        # Decoded, a customer's id may contain a slash; sent as a slash, it is another path.
        raw_path: bytes = request.scope["raw_path"]
        if raw_path.split(b"?")[0].count(b"/") > 3:
            return respond(problems.NOT_FOUND)
        asked = live_usage_asked(request.args.items(multi=True))
        found = await usage.ledger.customer_usage(customer_id, asked.period_type, at_ms=asked.at_ms)
        document = live_document(found, usage.config().events)
        return respond(Answer(HTTPStatus.OK, document))

    @app.get("/usage")
    @needs(Scope.READ, access)
    @unless(usage.readiness.refusal_to_read)
    async def usage_in_windows() -> Response:
        asked = usage_asked(request.args.items(multi=True))
        await usage.require_known(asked.query)
        is_csv = request.accept_mimetypes.best_match((JSON, CSV), JSON) == CSV
        rows, end_ms = await usage.rows(asked)
        write = usage.csv if is_csv else usage.json
        response = respond_array(write(rows, asked.query), window_cursor(end_ms))
        if is_csv:
            response.content_type = f"{CSV}; charset=utf-8; header=present"
        return response


async def _customers(found: Sequence[Customer]) -> AsyncIterator[bytes]:
    separator = b"["
    for start in range(0, len(found), CUSTOMERS_AT_ONCE):
        some = found[start : start + CUSTOMERS_AT_ONCE]
        yield separator + b",".join(map(customer_document, some))
        separator = b","
    yield b"]" if found else b"[]"


def _too_many_rows(asked: UsageRequest, window: WindowTotals, rows: int) -> UnfitParameterError:
    if rows > ROWS_MAX:
        return _too_many_groups(asked.query, window)
    return UnfitParameterError(
        f"limit must be given: the answer has more than {ROWS_MAX} rows, one for each window, event"
        f" type and group; with limit, 1 to {LIMIT_MAX}, it comes in pages of so many windows"
    )


def _too_many_groups(query: UsageQuery, window: WindowTotals) -> UnfitParameterError:
    period = window.period
    if not query.group_by:
        return UnfitParameterError(
            f"eventType must be given: there are more than {ROWS_MAX} in one window"
        )
    return UnfitParameterError(
        "groupBy must be what has few values: in the window"
        f" {period.key} ({period.type}) there are more than {ROWS_MAX} groups, or too long ones;"
        " ask for shorter windows, one eventType, a filter.metadata.<name> or another groupBy"
    )
