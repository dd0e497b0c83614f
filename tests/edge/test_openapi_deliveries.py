"""The types of deliveries as they are described, against deliveries as they are shown."""

from __future__ import annotations

import msgspec

from meterd.domain.deliveries import BATCH, Attempt, Delivery, Member, Threshold
from meterd.domain.endpoint_states import EndpointState
from meterd.domain.outcomes import ErrorKind, Outcome
from meterd.domain.periods import PeriodType
from meterd.edge import openapi_deliveries as described
from meterd.edge.delivery_documents import attempt_document, delivery_document, history_document
from meterd.edge.holds import Hold
from meterd.edge.parameters import _OF_DELIVERIES
from meterd.edge.replay_request import FIELDS
from meterd.ledger import DeliveryHistory, LoggedAttempt
from tests.edge.openapi_document import strays

BODY = b'{"type":"aggregation.completed"}'
PLAIN = Delivery("msg_1", "billing", 1, "c", PeriodType.DAILY, 0, 1, BODY, 5, 6)
HELD = Hold("paused", "later", until="1970-01-01T00:00:01.000Z", enable="POST /...")


def test_a_delivery_has_what_is_described() -> None:
    """Waiting, held, delivered, of a threshold, and a batch; alone and with its payload."""
    from decimal import Decimal

    threshold = msgspec.structs.replace(PLAIN, threshold=Threshold("api.calls", Decimal(5)))
    batch = msgspec.structs.replace(
        PLAIN, sequence=BATCH + 1, customer_id="", members=(Member(1, b"", "c"),)
    )
    tried = msgspec.structs.replace(
        PLAIN, begun_ms=7, delivered_ms=8, dry_run=True, last_attempt_ms=8, last_error="HTTP 500"
    )
    for one in (PLAIN, threshold, batch, tried):
        for hold in (None, HELD):
            assert strays(described.ListedDelivery, delivery_document(one, hold)) == set()
            history = DeliveryHistory(one, (), EndpointState(), "msg_0", "msg_b", 0)
            assert strays(described.DeliveryHistory, history_document(history, hold)) == set()
    shown = delivery_document(PLAIN, None, with_payload=True)
    assert strays(described.ListedDelivery, shown) == set()


def test_an_attempt_has_what_is_described() -> None:
    """Answered, cut, with bytes that are no text, and without any answer."""
    outcomes = (
        Outcome(status=500, headers=(("a", "b"),), body=b"no", cut=True, error="HTTP 500"),
        Outcome(status=200, body=b"\xff", address="192.0.2.1:443"),
        Outcome("Request timeout", ErrorKind.TIMEOUT, dry_run=True),
    )
    for outcome in outcomes:
        attempt = Attempt("billing", 1, 1, 5, 6, outcome, "http://b.test/", (("a", "b"),), "ff")
        shown = attempt_document(attempt, BODY)
        assert strays(described.Attempt, shown) == set()
        logged = LoggedAttempt(attempt, 3, "msg_b", 2)
        history = DeliveryHistory(PLAIN, (logged,), EndpointState(), kept=1)
        document = msgspec.json.decode(history_document(history, None))
        assert strays(described.LoggedAttempt, document["attemptLog"][0]) == set()


def test_what_may_be_asked_is_described() -> None:
    """Parameters of the listing, and fields of a replay."""
    assert {one.name for one in described.LIST_DELIVERIES.parameters} == set(_OF_DELIVERIES)
    fields = msgspec.structs.fields(described.ReplayRequest)
    assert {one.encode_name for one in fields} == set(FIELDS)
