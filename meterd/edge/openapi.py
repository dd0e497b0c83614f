"""The API's document: OpenAPI 3.1 of the operations that there are, for programs.

Schemas are those of the types that decode what comes in (``domain.events``), and of types that say
what goes out, which tests hold against real answers. Nothing here is written by hand a second time:
a route that is not described, or the reverse, fails a test.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

import msgspec

from meterd import __version__
from meterd.domain.events import NewItem
from meterd.edge import (
    openapi_aggregations,
    openapi_deliveries,
    openapi_events,
    openapi_ingest,
    openapi_service,
    openapi_usage,
    openapi_webhooks,
)
from meterd.edge.openapi_parts import JSON, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from meterd.edge.openapi_parts import Operation, Parameter, Refusal, Reply

OPERATIONS: Final = (
    *openapi_ingest.OPERATIONS,
    *openapi_events.OPERATIONS,
    *openapi_aggregations.OPERATIONS,
    *openapi_usage.OPERATIONS,
    *openapi_deliveries.OPERATIONS,
    *openapi_webhooks.OPERATIONS,
    *openapi_service.OPERATIONS,
)
_TAGS: Final = {
    "Events": "Usage events: sent, looked at, taken back.",
    "Aggregations": "A customer's totals of a period, as they are published.",
    "Usage": "Live totals, and usage over time.",
    "Webhooks": "What is sent to whom, what came of it, and sending it again.",
    "Service": "How meterd is doing, and how it is configured.",
}
_ABOUT: Final = (
    "Self-hosted usage metering: events in, exact totals kept, signed webhooks out.\n\n"
    "Every request but those to `/`, `/ping`, `/healthz`, `/readyz`, `/openapi.json` and `/docs`"
    " carries a key, as `x-apikey: <key>` or `Authorization: Bearer <key>`. A key has scopes:"
    " `ingest` sends events, `read` looks at what is stored, `admin` changes it, `metrics` watches"
    " meterd. Each operation names the one that it needs.\n\n"
    'Answers are JSON, errors too: `{"error": "..."}`. Instants are written in UTC, to the'
    " millisecond. Numbers are the nearest doubles; `exact` has every digit, as text. `GET` is"
    " answered to `HEAD`, too. There may be more fields one day: pass over what you do not"
    " know.\n\n"
    "Whatever is asked, an unknown path is answered with 404, another method with 405 and `Allow`,"
    " and a request that is not sound HTTP, too long or too slow with 400, 408, 413, 414 or 431."
)
_HEADERS: Final = {
    "Link": 'Where the next page is: `</events?cursor=...>; rel="next"`. The last page has none.',
    "Retry-After": "After how many seconds to try again.",
    "WWW-Authenticate": "Which key is asked for, and what is wrong with the one presented"
    " (RFC 6750).",
    "Accept-Encoding": "Which content codings of a body are taken: none but `identity`.",
    "Meterd-Malformed": "What breaks a body that is no JSON, and where.",
    "Meterd-Pruned-Until": "From which moment on all events are there, where some of before are not"
    " (`retention.events`).",
}
_SCHEMA_REF: Final = "#/components/schemas/{name}"


def document(event_types: Sequence[str] | None) -> dict[str, Any]:
    """``event_types`` are those that are configured, None for who may not know."""
    kinds = list(dict.fromkeys(_kinds()))
    schemas, components = msgspec.json.schema_components(
        [_describable(kind) for kind in kinds], ref_template=_SCHEMA_REF
    )
    written = _Written(dict(zip(kinds, schemas, strict=True)))
    paths: defaultdict[str, dict[str, Any]] = defaultdict(dict)
    for operation in OPERATIONS:
        paths[operation.path][operation.method] = written.operation(operation)
    if event_types:
        of_event = {"type": "string", "enum": list(event_types)}
        components["NewItem"]["properties"]["eventType"] = of_event
        in_path = paths["/usage/{eventType}"]["post"]["parameters"][0]
        in_path["schema"] = of_event
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "meterd",
            "version": __version__,
            "summary": "Usage metering",
            "description": _ABOUT,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": about} for name, about in _TAGS.items()],
        "paths": dict(paths),
        "components": {
            "schemas": dict(sorted(components.items())),
            "examples": written.examples,
            "headers": {
                name: {"description": about, "schema": {"type": "string"}}
                for name, about in _HEADERS.items()
            },
            "securitySchemes": {
                "apiKey": {"type": "apiKey", "in": "header", "name": "x-apikey"},
                "bearer": {"type": "http", "scheme": "bearer"},
            },
        },
    }


def _kinds() -> Iterator[Any]:
    """The types of all bodies that are JSON."""
    yield Problem
    for operation in OPERATIONS:
        if operation.body is not None:
            yield operation.body
        for reply in operation.replies:
            yield reply.kind
            yield from reply.others.values()


def _describable(kind: Any) -> Any:
    """As ``kind``, without a default that msgspec cannot write into a schema: raw JSON."""
    if kind is openapi_ingest.NewBatch:
        return openapi_ingest.batch_of(_describable(NewItem))
    if not (isinstance(kind, type) and issubclass(kind, msgspec.Struct)):
        return kind
    fields = msgspec.structs.fields(kind)
    if not any(isinstance(field.default, msgspec.Raw) for field in fields):
        return kind
    return msgspec.defstruct(
        kind.__name__,
        [
            (field.name, field.type)
            if field.required
            else (field.name, field.type | msgspec.UnsetType, msgspec.UNSET)
            for field in fields
        ],
        namespace={"__doc__": kind.__doc__},
    )


class _Written:
    """Operations as OpenAPI writes them; ``examples`` are those that refusals share."""

    def __init__(self, schemas: dict[Any, dict[str, Any]]) -> None:
        self._schemas = schemas
        self.examples: dict[str, Any] = {}

    def operation(self, operation: Operation) -> dict[str, Any]:
        shown: dict[str, Any] = {
            "operationId": operation.id,
            "tags": [operation.tag],
            "summary": operation.summary,
            "description": operation.about,
        }
        if operation.scope is None:
            shown["security"] = []
        else:
            scope = str(operation.scope)
            shown["security"] = [{"apiKey": [scope]}, {"bearer": [scope]}]
            shown["x-scope"] = scope
        if operation.parameters:
            shown["parameters"] = [_parameter(one, operation) for one in operation.parameters]
        if operation.body is not None:
            shown["requestBody"] = {
                "required": True,
                "content": {
                    JSON: {
                        "schema": self._schemas[operation.body],
                        "examples": {
                            one.name: {"summary": one.about, "value": one.body}
                            for one in operation.exchanges
                            if one.body is not msgspec.UNSET
                        },
                    }
                },
            }
        shown["responses"] = self._responses(operation)
        return shown

    def _responses(self, operation: Operation) -> dict[str, Any]:
        found = {int(one.status): self._response(one) for one in operation.replies}
        for exchange in operation.exchanges:
            content = next(iter(found[exchange.status]["content"].values()))
            example = {"summary": exchange.about, "value": exchange.answer}
            content.setdefault("examples", {})[exchange.name] = example
        for refusal in operation.refusals:
            self._refuse(found, refusal)
        return {str(status): found[status] for status in sorted(found)}

    def _response(self, reply: Reply) -> dict[str, Any]:
        shown: dict[str, Any] = {
            "description": reply.about,
            "content": {
                media: {"schema": self._schemas[kind]}
                for media, kind in {reply.media: reply.kind, **reply.others}.items()
            },
        }
        if reply.headers:
            shown["headers"] = {name: _header(name) for name in reply.headers}
        if reply.links:
            shown["links"] = {
                f"{target}": {"operationId": target, "parameters": {name: expression}}
                for target, (name, expression) in reply.links.items()
            }
        return shown

    def _refuse(self, found: dict[int, dict[str, Any]], refusal: Refusal) -> None:
        """Adds it to what its status means."""
        answer = refusal.answer
        body = msgspec.json.decode(answer.body)
        self.examples[refusal.name] = {"summary": refusal.about, "value": body}
        status = int(answer.status)
        if status not in found:
            found[status] = {
                "description": refusal.about,
                "content": {JSON: {"schema": self._schemas[Problem]}},
            }
        elif refusal.about not in found[status]["description"]:
            found[status]["description"] += f" {refusal.about}"
        content = found[status]["content"][JSON]
        example = {"$ref": f"#/components/examples/{refusal.name}"}
        content.setdefault("examples", {})[refusal.name] = example
        for name, _ in answer.headers:
            found[status].setdefault("headers", {})[name] = _header(name)


def _header(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/headers/{name}"}


def _parameter(parameter: Parameter, operation: Operation) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "name": parameter.name,
        "in": parameter.place,
        "required": parameter.required,
        "description": parameter.about,
        "schema": parameter.schema,
    }
    if parameter.place == "query":
        shown["allowEmptyValue"] = parameter.may_be_empty
    examples = {
        one.name: {"value": one.given[parameter.name]}
        for one in operation.exchanges
        if parameter.name in one.given
    }
    return {**shown, "examples": examples} if examples else shown
