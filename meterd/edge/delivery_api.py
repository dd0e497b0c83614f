"""The routes of deliveries and webhooks: looked up, tried, and sent again."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
from quart import request

from meterd.domain.credentials import Scope
from meterd.domain.deliveries import DeliveryStatus
from meterd.domain.endpoint_states import EndpointState, enabled
from meterd.domain.sections import quoted
from meterd.edge import problems
from meterd.edge.delivery_documents import (
    attempt_document,
    delivery_document,
    history_document,
    webhook_document,
)
from meterd.edge.holds import endpoint_hold, held
from meterd.edge.pages import Pages
from meterd.edge.parameters import (
    Parameters,
    aggregation_cursor,
    deliveries_asked,
    delivery_cursor,
)
from meterd.edge.problems import Answer, answer
from meterd.edge.replay_request import decode_replay
from meterd.edge.routes import (
    body_bytes,
    needs,
    read_body,
    respond,
    respond_array,
    unless,
)
from meterd.ledger import DeliveryPlace, EndpointSummary, Replayed, place_of_delivery

if TYPE_CHECKING:
    from collections.abc import Callable

    from quart import Response
    from quart_trio import QuartTrio

    from meterd.domain.config import Config
    from meterd.domain.endpoints import Endpoint
    from meterd.edge.access import Access
    from meterd.edge.holds import Hold
    from meterd.edge.limits import BodyBudget
    from meterd.edge.pages import PageTurn
    from meterd.edge.readiness import Readiness
    from meterd.edge.replay_request import ReplayRequest
    from meterd.ledger import DeliveryQuery, Ledger
    from meterd.work.clock import Clock
    from meterd.work.delivery import DeliveryActor

# Aggregations of one transaction of a replay: 0.3 ms each, and events wait meanwhile.
REPLAYED_AT_ONCE: Final = 50
# And of one request: under a second, after which its caller goes on with the cursor.
REPLAYED_MAX: Final = 2_000
# A dry run only reads: 0.08 ms each.
COUNTED_AT_ONCE: Final = 1_000
COUNTED_MAX: Final = 20_000


class Desk(NamedTuple):
    """What these routes have in common; ``turn`` is that of all long answers."""

    config: Callable[[], Config]
    ledger: Ledger
    delivery: DeliveryActor
    clock: Clock
    readiness: Readiness
    bodies: BodyBudget
    turn: PageTurn

    def endpoint(self, endpoint_id: str) -> Endpoint | None:
        """As it is configured now."""
        found = (one for one in self.config().webhooks if one.id == endpoint_id)
        return next(found, None)

    async def webhooks(self) -> list[dict[str, Any]]:
        """Those configured, in the order of the configuration, then those that were and to which
        something waits or is parked.
        """
        known = {one.endpoint_id: one for one in await self.ledger.endpoints()}
        ids = [endpoint.id for endpoint in self.config().webhooks]
        left = [
            one.endpoint_id
            for one in known.values()
            if one.endpoint_id not in ids and (one.pending or one.parked)
        ]
        return [
            webhook_document(
                known.get(endpoint_id) or EndpointSummary(endpoint_id, EndpointState(), 0, 0),
                self.endpoint(endpoint_id),
                self.delivery.worker(endpoint_id),
                self.clock.now_ms(),
            )
            for endpoint_id in [*ids, *left]
        ]

    async def refusal(self, endpoint_id: str) -> Answer | None:
        """Where nothing is sent to the webhook because of the configuration."""
        endpoint = self.endpoint(endpoint_id)
        if endpoint is not None and endpoint.enabled:
            return None
        if endpoint is None and await self.webhook(endpoint_id) is None:
            return _no_webhook(endpoint_id)
        what = (
            "is not in the configuration any more: put it back there under this id"
            if endpoint is None
            else "has enabled = false in the configuration: change it there"
        )
        return problems.problem(
            HTTPStatus.CONFLICT, f"{endpoint_id} {what}; a replay sends what closed meanwhile"
        )

    async def webhook(self, endpoint_id: str) -> dict[str, Any] | None:
        found = await self.webhooks()
        return next((one for one in found if one["id"] == endpoint_id), None)

    async def hold(self, endpoint_id: str) -> Hold | None:
        """What keeps everything from the endpoint."""
        state = await self.ledger.endpoint_state(endpoint_id)
        return endpoint_hold(endpoint_id, state, self.endpoint(endpoint_id), self.clock.now_ms())

    async def has_heard_of(self, endpoint_id: str) -> bool:
        """Whether it is configured, or was and has deliveries."""
        if self.endpoint(endpoint_id) is not None:
            return True
        return await self.ledger.endpoint_state(endpoint_id) != EndpointState()

    async def replay(self, asked: ReplayRequest) -> Replayed:
        """As much as one request may."""
        at_once = COUNTED_AT_ONCE if asked.dry_run else REPLAYED_AT_ONCE
        pages = (COUNTED_MAX if asked.dry_run else REPLAYED_MAX) // at_once
        again = created = 0
        after = asked.after
        for _ in range(pages):
            done = await self.ledger.replay(
                asked.replay, limit=at_once, after=after, dry_run=asked.dry_run
            )
            again, created, after = again + done.again, created + done.created, done.next
            if after is None:
                break
        return Replayed(again, created, after)


class _Deliveries:
    """A Listing of the deliveries of one query."""

    def __init__(self, desk: Desk, query: DeliveryQuery) -> None:
        self._desk = desk
        self._ledger = desk.ledger
        self._query = query

    async def read(
        self, count: int, behind: DeliveryPlace | None
    ) -> list[tuple[bytes, DeliveryPlace]]:
        page = await self._ledger.deliveries(self._query, limit=count, after=behind)
        waiting = {one.endpoint_id for one in page if one.status is DeliveryStatus.PENDING}
        holds = {endpoint_id: await self._desk.hold(endpoint_id) for endpoint_id in waiting}
        with_payload = self._query.after_sequence is not None
        return [
            (
                delivery_document(
                    one, held(one, holds.get(one.endpoint_id)), with_payload=with_payload
                ),
                place_of_delivery(one),
            )
            for one in page
        ]

    async def end(self, count: int, behind: DeliveryPlace) -> DeliveryPlace | None:
        return await self._ledger.deliveries_page_end(self._query, limit=count, after=behind)


def add_delivery_routes(app: QuartTrio, access: Access, desk: Desk) -> None:
    @app.get("/deliveries")
    @needs(Scope.READ, access)
    @unless(desk.readiness.refusal_to_read)
    async def deliveries() -> Response:
        asked = Parameters(request.args)
        query = deliveries_asked(asked)
        if query.endpoint_id is not None and not await desk.has_heard_of(query.endpoint_id):
            return respond(_no_webhook(query.endpoint_id))
        listing = Pages(_Deliveries(desk, query), desk.turn)
        pages, end = await listing.answer(asked.limit(), asked.delivery_cursor())
        return respond_array(pages, delivery_cursor(end))

    @app.get("/deliveries/<delivery_id>")
    @needs(Scope.READ, access)
    @unless(desk.readiness.refusal_to_read)
    async def delivery(delivery_id: str) -> Response:
        asked = Parameters(request.args)
        asked.refuse_others(("skip",))
        history = await desk.ledger.delivery(delivery_id, skip=asked.skip())
        if history is None:
            return respond(_no_delivery(delivery_id))
        hold = await desk.hold(history.delivery.endpoint_id)
        return respond(Answer(HTTPStatus.OK, history_document(history, hold)))

    @app.post("/deliveries/<delivery_id>/retry")
    @needs(Scope.ADMIN, access)
    @unless(desk.readiness.refusal)
    async def retry(delivery_id: str) -> Response:
        again = await desk.ledger.retry(delivery_id)
        history = None if again is None else await desk.ledger.delivery(delivery_id)
        if again is None or history is None:
            return respond(_no_delivery(delivery_id))
        hold = held(again, await desk.hold(again.endpoint_id), history.behind)
        return respond(Answer(HTTPStatus.OK, delivery_document(again, hold)))

    @app.post("/deliveries/replay")
    @needs(Scope.ADMIN, access)
    @unless(desk.readiness.refusal)
    async def replay() -> Response:
        with desk.bodies.holding(body_bytes()):
            body = await read_body()
            known = [endpoint.id for endpoint in desk.config().webhooks]
            asked = decode_replay(body, known, desk.clock.now_ms())
        done = await desk.replay(asked)
        shown = {
            "dryRun": asked.dry_run,
            "again": done.again,
            "created": done.created,
            "held": await desk.hold(asked.replay.endpoint_id),
            "cursor": aggregation_cursor(done.next),
        }
        given = {name: value for name, value in shown.items() if value is not None}
        return respond(answer(HTTPStatus.OK, given))


def add_webhook_routes(app: QuartTrio, access: Access, desk: Desk) -> None:
    @app.get("/webhooks")
    @needs(Scope.READ, access)
    @unless(desk.readiness.refusal_to_read)
    async def webhooks() -> Response:
        found = await desk.webhooks()
        return respond(Answer(HTTPStatus.OK, msgspec.json.encode(found)))

    @app.post("/webhooks/<endpoint_id>/test")
    @needs(Scope.ADMIN, access)
    @unless(desk.readiness.refusal)
    async def test(endpoint_id: str) -> Response:
        refused = await desk.refusal(endpoint_id)
        if refused is not None:
            return respond(refused)
        worker = desk.delivery.worker(endpoint_id)
        if worker is None:
            return respond(problems.starting("webhooks are not sent yet"))
        message, attempt = await worker.probe()
        shown = {
            "delivered": attempt.outcome.error is None and not attempt.outcome.dry_run,
            "id": message.id,
            "body": message.body.decode(),
            **attempt_document(attempt, message.body),
        }
        return respond(answer(HTTPStatus.OK, shown))

    @app.post("/webhooks/<endpoint_id>/enable")
    @needs(Scope.ADMIN, access)
    @unless(desk.readiness.refusal)
    async def enable(endpoint_id: str) -> Response:
        refused = await desk.refusal(endpoint_id)
        if refused is not None:
            return respond(refused)
        await desk.ledger.change_endpoint(endpoint_id, enabled)
        desk.delivery.reconsider(endpoint_id)
        shown = await desk.webhook(endpoint_id)
        assert shown is not None
        return respond(answer(HTTPStatus.OK, shown))


def _no_delivery(delivery_id: str) -> Answer:
    return problems.problem(
        HTTPStatus.NOT_FOUND,
        f"No delivery has the id {quoted(delivery_id)}: GET /deliveries lists them",
    )


def _no_webhook(endpoint_id: str) -> Answer:
    return problems.problem(
        HTTPStatus.NOT_FOUND,
        f"No webhook has the id {quoted(endpoint_id)}: GET /webhooks lists them",
    )
