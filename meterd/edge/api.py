"""The HTTP API: Quart routes from the contract to the ledger, and nothing else.

Each route names the scope that its key needs; without one it is open to all. Long answers are made
of pages, so neither a transaction nor more than a page is held while a client reads.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import structlog
from quart import Response, request
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException

from meterd import __version__
from meterd.domain.config import public_config
from meterd.domain.credentials import Scope
from meterd.domain.errors import (
    CorruptRecordError,
    DiskFullError,
    OverloadedError,
    PrunedError,
    UnavailableError,
)
from meterd.domain.instants import format_instant
from meterd.edge import problems
from meterd.edge.codings import CompressedBodyError
from meterd.edge.delivery_api import Desk, add_delivery_routes, add_webhook_routes
from meterd.edge.documents import aggregation_document, event_document
from meterd.edge.ingest import is_lenient
from meterd.edge.openapi_api import add_document_routes
from meterd.edge.pages import Pages, PageTurn
from meterd.edge.parameters import (
    Parameters,
    UnfitParameterError,
    aggregation_cursor,
    aggregations_asked,
    event_cursor,
    events_asked,
)
from meterd.edge.problems import answer
from meterd.edge.routes import (
    body_bytes,
    needs,
    read_body,
    respond,
    respond_array,
    route_template,
    unless,
)
from meterd.edge.usage_api import Usage, add_usage_routes
from meterd.edge.void_api import add_void_routes
from meterd.ledger import place_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from meterd.domain.config import Config
    from meterd.edge.access import Access
    from meterd.edge.ingest import Ingest
    from meterd.edge.limits import BodyBudget, Limits
    from meterd.edge.metrics import Metrics
    from meterd.edge.readiness import Readiness
    from meterd.edge.spare_time import Answers
    from meterd.ledger import AggregationPlace, AggregationQuery, EventQuery, Ledger
    from meterd.work.clock import Clock
    from meterd.work.closer import Closer
    from meterd.work.delivery import DeliveryActor


def make_app(
    access: Access,
    config: Callable[[], Config],
    ingest: Ingest,
    ledger: Ledger,
    closer: Closer,
    delivery: DeliveryActor,
    clock: Clock,
    readiness: Readiness,
    bodies: BodyBudget,
    limits: Limits,
    metrics: Metrics,
    answers: Answers,
) -> QuartTrio:
    """The application; it owns nothing and starts nothing. Long ones give way to ``answers``."""
    app = QuartTrio("meterd", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = limits.body_bytes_max
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    app.url_map.merge_slashes = False  # a doubled slash is another path, as for any other server
    _add_open_routes(app, closer, readiness)
    _add_ingest_routes(app, access, ingest, bodies)
    turn = PageTurn(answers)
    _add_read_routes(app, access, config, ledger, readiness, turn)
    add_void_routes(app, access, config, ledger, readiness, bodies)
    _add_admin_routes(app, access, config, closer, readiness)
    _add_metrics(app, access, metrics)
    desk = Desk(config, ledger, delivery, clock, readiness, bodies, turn)
    add_delivery_routes(app, access, desk)
    add_webhook_routes(app, access, desk)
    add_usage_routes(app, access, Usage(config, ledger, readiness, turn))
    add_document_routes(app, access, config)
    _add_error_handlers(app)

    @app.before_request
    async def refuse_leading_slashes() -> Response | None:
        # request.path has one of them, however many were sent.
        doubled = request.scope["path"].startswith("//")
        return respond(problems.NOT_FOUND) if doubled else None

    return app


_log = structlog.get_logger("api")
_ERRORS: Final = {
    HTTPStatus.NOT_FOUND: "Not found",
    HTTPStatus.METHOD_NOT_ALLOWED: "Method not allowed",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "Request body too large",
}


def _add_error_handlers(app: QuartTrio) -> None:
    @app.errorhandler(HTTPException)
    async def refuse(fault: HTTPException) -> Response:
        status = HTTPStatus(fault.code or HTTPStatus.INTERNAL_SERVER_ERROR)
        kept = [(name, value) for name, value in fault.get_headers() if name == "Allow"]
        return respond(problems.problem(status, _ERRORS.get(status, status.phrase), *kept))

    @app.errorhandler(Exception)
    async def fail(fault: Exception) -> Response:
        # Our own mistake, in a request: it costs this request, and the log has all of it.
        _log.error("request failed", method=request.method, path=request.path, exc_info=fault)
        return respond(problems.BROKEN)

    @app.errorhandler(OverloadedError)
    async def refuse_for_now(full: OverloadedError) -> Response:
        return respond(problems.overloaded(str(full)))

    @app.errorhandler(DiskFullError)
    async def refuse_for_want_of_room(_: DiskFullError) -> Response:
        return respond(problems.DISK_FULL)

    @app.errorhandler(CorruptRecordError)
    async def say_damaged(damage: CorruptRecordError) -> Response:
        _log.error(problems.DAMAGE, error=str(damage))
        return respond(problems.DAMAGED)

    @app.errorhandler(PrunedError)
    async def say_pruned(gone: PrunedError) -> Response:
        return respond(problems.pruned(gone.until_ms))

    @app.errorhandler(UnavailableError)
    async def cut_short(_: UnavailableError) -> Response:
        return respond(problems.UNKNOWN_OUTCOME)

    @app.errorhandler(CompressedBodyError)
    async def refuse_compressed(fault: CompressedBodyError) -> Response:
        return respond(problems.compressed(fault.coding))

    @app.errorhandler(UnfitParameterError)
    async def refuse_parameter(fault: UnfitParameterError) -> Response:
        return respond(problems.problem(HTTPStatus.BAD_REQUEST, str(fault)))


def _add_open_routes(app: QuartTrio, closer: Closer, readiness: Readiness) -> None:
    @app.get("/")
    async def about() -> Response:
        return respond(answer(HTTPStatus.OK, _about()))

    @app.get("/ping")
    async def ping() -> Response:
        return respond(answer(HTTPStatus.OK, {"status": "ok", "timestamp": closer.now()}))

    @app.get("/healthz")
    async def healthz() -> Response:
        return respond(answer(HTTPStatus.OK, {"status": "ok"}))

    @app.get("/readyz")
    async def readyz() -> Response:
        return respond(readiness.answer())


def _add_metrics(app: QuartTrio, access: Access, metrics: Metrics) -> None:
    @app.get("/metrics")
    @needs(Scope.METRICS, access)
    async def measured() -> Response:
        # While the ledger may not be asked yet too: that is when somebody looks.
        page, content_type = await metrics.page(request.headers.get("Accept", ""))
        return Response(page, HTTPStatus.OK, content_type=content_type)

    @app.after_request
    async def count(response: Response) -> Response:
        metrics.count(*route_template(), response.status_code)
        return response


def _add_ingest_routes(app: QuartTrio, access: Access, ingest: Ingest, bodies: BodyBudget) -> None:
    @app.post("/usage/<path:event_type>")
    @needs(Scope.INGEST, access)
    async def usage(event_type: str) -> Response:
        # Decoded, an event type may contain a slash; sent as a slash, it is another path.
        raw_path: bytes = request.scope["raw_path"]
        if raw_path.split(b"?")[0].count(b"/") > 2:
            return respond(problems.NOT_FOUND)
        with bodies.holding(body_bytes()):
            return respond(await ingest.event(event_type, await read_body(), _keys()))

    @app.post("/usagebatch")
    @needs(Scope.INGEST, access)
    async def usagebatch() -> Response:
        lenient = is_lenient(",".join(request.headers.getlist("Prefer")))
        with bodies.holding(body_bytes()):
            body = await read_body()
            return respond(await ingest.batch(body, lenient=lenient, header_keys=_keys()))


def _keys() -> list[str]:
    return list(request.headers.getlist("Idempotency-Key"))


def _add_read_routes(
    app: QuartTrio,
    access: Access,
    config: Callable[[], Config],
    ledger: Ledger,
    readiness: Readiness,
    turn: PageTurn,
) -> None:
    @app.get("/config")
    @needs(Scope.READ, access)
    async def configuration() -> Response:
        return respond(answer(HTTPStatus.OK, public_config(config())))

    @app.get("/events")
    @needs(Scope.READ, access)
    @unless(readiness.refusal_to_read)
    async def events() -> Response:
        asked = Parameters(request.args)
        query = events_asked(asked)
        listing = Pages(_Events(ledger, query), turn, ledger.count_kept)
        pages, end = await listing.answer(asked.limit(), asked.event_cursor())
        response = respond_array(pages, event_cursor(end))
        # Asked behind the page, which may have been read before something went.
        until_ms = await ledger.pruned_until_ms()
        if until_ms > (query.from_ms or 0):
            response.headers[problems.PRUNED_UNTIL] = format_instant(until_ms)
        return response

    @app.get("/aggregations")
    @needs(Scope.READ, access)
    @unless(readiness.refusal_to_read)
    async def aggregations() -> Response:
        asked = Parameters(request.args)
        listing = Pages(_Aggregations(ledger, aggregations_asked(asked)), turn)
        pages, end = await listing.answer(asked.limit(), asked.aggregation_cursor())
        return respond_array(pages, aggregation_cursor(end))


class _Events:
    """A Listing of the events of one query."""

    def __init__(self, ledger: Ledger, query: EventQuery) -> None:
        self._ledger = ledger
        self._query = query

    async def read(self, count: int, behind: bytes | None) -> list[tuple[bytes, bytes]]:
        page = await self._ledger.events(self._query, limit=count, before=behind)
        return [(event_document(stored), stored.id) for stored in page]

    async def end(self, count: int, behind: bytes) -> bytes | None:
        return await self._ledger.page_end(self._query, limit=count, before=behind)


class _Aggregations:
    """A Listing of the aggregations of one query."""

    def __init__(self, ledger: Ledger, query: AggregationQuery) -> None:
        self._ledger = ledger
        self._query = query

    async def read(
        self, count: int, behind: AggregationPlace | None
    ) -> list[tuple[bytes, AggregationPlace]]:
        page = await self._ledger.aggregations(self._query, limit=count, after=behind)
        return [
            (
                b",".join(map(aggregation_document, (found, *found.superseded))),
                place_of(found.aggregation),
            )
            for found in page
        ]

    async def end(self, count: int, behind: AggregationPlace) -> AggregationPlace | None:
        return await self._ledger.aggregations_page_end(self._query, limit=count, after=behind)


def _add_admin_routes(
    app: QuartTrio,
    access: Access,
    config: Callable[[], Config],
    closer: Closer,
    readiness: Readiness,
) -> None:
    @app.post("/aggregations/trigger")
    @needs(Scope.ADMIN, access)
    @unless(readiness.refusal)
    async def trigger() -> Response:
        periods = len(config().periods)
        if not periods:
            return respond(
                problems.problem(
                    HTTPStatus.SERVICE_UNAVAILABLE, "No periods configured in systemconfig.toml"
                )
            )
        done = await closer.trigger()
        if not done.customers:
            return respond(
                answer(HTTPStatus.OK, {"message": "No events to aggregate", "jobsQueued": 0})
            )
        return respond(
            answer(
                HTTPStatus.ACCEPTED,
                {
                    "message": "Aggregation jobs queued for processing",
                    "jobsCreated": done.created,
                    "jobsUpdated": done.updated,
                    "jobsQueued": done.created + done.updated,
                    "customersFound": done.customers,
                    "periodsConfigured": periods,
                    "eventsScanned": done.events,
                },
            )
        )


def _about() -> dict[str, Any]:
    return {
        "status": "ok",
        "service": "meterd",
        "version": __version__,
        "description": "Usage metering: events in, exact totals kept, signed webhooks out",
        "features": [
            "Acknowledged events are on disk, counted once",
            "Exact decimal totals: sum, avg, min, max, count, first, last",
            "Hourly, daily, weekly, monthly and yearly UTC periods",
            "A signed webhook for each customer when a period ends, retried until it arrives",
        ],
        "endpoints": {
            "capture": "POST /usage/{eventType}",
            "captureBatch": "POST /usagebatch",
            "config": "GET /config",
            "management": {
                "events": "GET /events",
                "event": "GET /events/{id}",
                "void": "POST /events/{id}/void",
                "aggregations": "GET /aggregations",
                "trigger": "POST /aggregations/trigger",
            },
            "usage": {
                "customers": "GET /customers",
                "running": "GET /customers/{customerId}/usage",
                "windows": "GET /usage",
            },
            "deliveries": {
                "list": "GET /deliveries",
                "show": "GET /deliveries/{id}",
                "retry": "POST /deliveries/{id}/retry",
                "replay": "POST /deliveries/replay",
            },
            "webhooks": {
                "list": "GET /webhooks",
                "test": "POST /webhooks/{id}/test",
                "enable": "POST /webhooks/{id}/enable",
            },
            "health": {
                "alive": "GET /healthz",
                "ready": "GET /readyz",
                "metrics": "GET /metrics",
            },
            "documents": {"openapi": "GET /openapi.json", "docs": "GET /docs"},
        },
        "configuration": "Edit systemconfig.toml and send SIGHUP to meterd",
        "documentation": "GET /docs, and GET /openapi.json for programs",
    }
