"""What operations of the API are described with: parameters, exchanges and replies.

An exchange is a request with its answer, as an example: tests send every one of them to a daemon.
Refusals that many operations share are the very answers that are given (``problems``). Nothing here
knows which operations there are, nor how a document is written of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Annotated, Any, Final

import msgspec

from meterd.domain.credentials import Scope
from meterd.domain.instants import EXPECTED
from meterd.domain.periods import PeriodType
from meterd.edge import problems
from meterd.edge.limits import Limits
from meterd.edge.parameters import LIMIT_DEFAULT, LIMIT_MAX
from meterd.edge.problems import Answer

JSON: Final = "application/json"
# Examples are of this moment: the documents' usual customer, and January.
EVENT_ID: Final = "019bbc04-5a00-7000-8000-000000000000"
DELIVERY_ID: Final = "msg_0d2c1f8b7a6e5d4c3b2a190807f6e5d4"
NO_EVENT_ID: Final = "00000000-0000-7000-8000-000000000000"
CUSTOMER: Final = "customer_1"
EVENT_TYPE: Final = "api.calls"
RECEIVED_AT: Final = "2026-01-14T10:58:20.416Z"
WEBHOOK: Final = "billing"


class Problem(msgspec.Struct, frozen=True):
    """What was wrong, for people: clients go by the status."""

    error: str


Instant = Annotated[str, msgspec.Meta(extra_json_schema={"format": "date-time"})]


class Parameter(msgspec.Struct, frozen=True, kw_only=True):
    """``place`` is path, query or header. One that ``may_be_empty`` is no filter then."""

    name: str
    about: str
    schema: dict[str, Any]
    place: str = "query"
    required: bool = False
    may_be_empty: bool = False


class Exchange(msgspec.Struct, frozen=True, kw_only=True):
    """An example: what is sent, parameters by name and a body, and what is answered."""

    name: str
    about: str
    answer: Any
    status: HTTPStatus = HTTPStatus.OK
    given: Mapping[str, Any] = {}
    body: Any = msgspec.UNSET


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """What one status of an operation means: ``kind`` is the type of its body, ``headers`` are
    those it may have, ``links`` lead to operations with a parameter out of the body. ``others`` are
    bodies of other media types.
    """

    about: str
    status: HTTPStatus = HTTPStatus.OK
    kind: Any = Problem
    media: str = JSON
    others: Mapping[str, Any] = {}
    headers: tuple[str, ...] = ()
    links: Mapping[str, tuple[str, str]] = {}


class Refusal(msgspec.Struct, frozen=True):
    """One that is the same everywhere: its name among examples, when it comes, and the answer."""

    name: str
    about: str
    answer: Answer


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """A method of a path. ``scope`` is what its key needs, None where it needs none; ``body`` the
    type of what it takes.
    """

    id: str
    method: str
    path: str
    scope: Scope | None
    tag: str
    summary: str
    about: str
    replies: tuple[Reply, ...]
    exchanges: tuple[Exchange, ...]
    parameters: tuple[Parameter, ...] = ()
    body: Any = None
    body_required: bool = True
    refusals: tuple[Refusal, ...] = ()


# -- refusals -------------------------------------------------------------------------------------


def keyed(scope: Scope) -> tuple[Refusal, ...]:
    """Of every operation that needs a key with that scope."""
    return (
        Refusal("noKey", "No key was presented.", problems.NO_KEY),
        Refusal("unknownKey", "The key is not known.", problems.UNKNOWN_KEY),
        Refusal(
            f"{scope}ScopeNeeded",
            f"The key lacks the scope `{scope}`.",
            problems.forbidden(scope),
        ),
        Refusal(
            "tooManyWrongKeys",
            "Too many requests without a valid key came from this address.",
            problems.too_many_wrong_keys(1.0),
        ),
        Refusal("broken", "A mistake of meterd's own, which is in its log.", problems.BROKEN),
    )


_UNKNOWN_OUTCOME: Final = Refusal(
    "unknownOutcome",
    "Whether it was done is not known: send it again, an event under its idempotency key.",
    problems.UNKNOWN_OUTCOME,
)
ASKING: Final = (
    Refusal(
        "starting",
        "meterd has just been started, and counts what a crash left uncounted.",
        problems.starting("counting the events that were not in their totals when meterd ended"),
    ),
    Refusal("damaged", "A record on disk does not match its checksum.", problems.DAMAGED),
    _UNKNOWN_OUTCOME,
)
STORING: Final = (
    *ASKING,
    Refusal("diskFull", "The disk is full: nothing was stored.", problems.DISK_FULL),
)
WITH_BODY: Final = (
    Refusal(
        "tooLarge",
        "The body is too large.",
        problems.problem(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"Request body is longer than {Limits().body_bytes_max} bytes",
        ),
    ),
    Refusal(
        "compressed",
        "The body is compressed (`Content-Encoding`).",
        problems.compressed("gzip"),
    ),
    Refusal(
        "overloaded",
        "More comes than can be stored: nothing of this request was.",
        problems.overloaded("too many large requests are under way"),
    ),
)
DATING: Final = (
    Refusal(
        "wrongClock",
        "The clock of meterd's machine cannot be right: events would be dated wrong.",
        problems.wrong_clock(
            "the clock went forward by 50d: set it right, or restart meterd if it is right"
        ),
    ),
)
PRUNED: Final = (
    Refusal(
        "pruned",
        "What is asked for needs events whose time is over (`retention.events`).",
        problems.pruned(1_767_225_600_000),
    ),
)


def missing(what: str, error: str) -> tuple[Refusal, ...]:
    """That there is no such thing."""
    answer = problems.problem(HTTPStatus.NOT_FOUND, error)
    return (Refusal(f"no{what}", f"There is no such {what.lower()}.", answer),)


# -- parameters -----------------------------------------------------------------------------------

_INSTANT: Final = {"type": "string", "anyOf": [{"format": "date-time"}, {"format": "date"}]}
TEXT: Final = {"type": "string"}
PERIODS: Final = {"type": "string", "enum": [str(one) for one in PeriodType]}
CUSTOMER_ID: Final = Parameter(name="customerId", about="Of this customer only.", schema=TEXT)


def instant(name: str, about: str) -> Parameter:
    return Parameter(name=name, about=f"{about}: {EXPECTED}.", schema=_INSTANT)


def limit(limit_max: int = LIMIT_MAX, default: int | None = LIMIT_DEFAULT) -> Parameter:
    """``default`` is None where the answer is whole without it."""
    schema = {"type": "integer", "minimum": 1, "maximum": limit_max}
    if default is not None:
        schema["default"] = default
    return Parameter(name="limit", about="How many at most.", schema=schema)


CURSOR: Final = Parameter(
    name="cursor",
    about="Where to go on: follow the `Link` header of the answer before, which has it.",
    schema=TEXT,
)


def or_empty(*parameters: Parameter) -> tuple[Parameter, ...]:
    """As on the routes of old, where an empty parameter is no filter."""
    return tuple(msgspec.structs.replace(one, may_be_empty=True) for one in parameters)


def in_path(name: str, about: str) -> Parameter:
    schema = {"type": "string", "minLength": 1}
    return Parameter(name=name, about=about, schema=schema, place="path", required=True)


# -- replies --------------------------------------------------------------------------------------

UNFIT: Final = Reply(
    status=HTTPStatus.BAD_REQUEST, about="A parameter is not what it takes: the message names both."
)
PASSED_OVER: Final = (
    " A parameter that is empty is no filter, and those of other names are passed over."
)
