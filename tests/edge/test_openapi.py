"""The API's document: sound, whole, and nothing in it that a daemon does not do."""

from __future__ import annotations

import json
import os
import subprocess
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from meterd.domain.credentials import Scope, hash_of
from meterd.domain.events import BATCH_MAX
from meterd.edge.docs_page import curl
from meterd.edge.openapi import OPERATIONS, document
from meterd.edge.openapi_parts import DELIVERY_ID, EVENT_ID
from meterd.edge.routes import _template
from tests.daemon_process import DaemonProcess
from tests.edge.api_bench import serving
from tests.edge.openapi_document import (
    JSON,
    Sent,
    exchanges,
    faults,
    operations,
    request_examples,
    schemas_and_examples,
)
from tests.edge.receivers import TRUSTING_NOBODY
from tests.receiver import Receiver

if TYPE_CHECKING:
    from collections.abc import Iterator

DOCUMENT = document(None)
# Answers that the document shows and that no request brings about in a daemon that is well; what
# they look like is the daemon's own word (problems.py), and tests of each have it said.
NOT_PROVOKED = {
    *("broken", "damaged", "diskFull", "overloaded", "pruned", "starting", "tooManyWrongKeys"),
    *("unknownOutcome", "wrongClock"),
}
PROVOKED = {
    *("noKey", "unknownKey", "tooLarge", "compressed"),
    *(f"{scope}ScopeNeeded" for scope in Scope),
}
TYPES = '[events."api.calls"]\nop = "sum"\n'
# Examples are of a moment that goes by; and a key for each scope.
OPTIONS = 'accept_past = "3650d"\n' + "".join(
    f'[[keys]]\nid = "{scope}"\nhash = "{hash_of(f"key-of-{scope}")}"\nscopes = ["{scope}"]\n'
    for scope in Scope
)


def test_the_document_is_openapi() -> None:
    """By the specification's own schema, and with nothing that refers to nothing."""
    OpenAPIV31SpecValidator(DOCUMENT).validate()
    assert DOCUMENT["openapi"].startswith("3.1")


def test_every_example_is_of_its_schema() -> None:
    """Requests that are refused are examples, too: of what is wrong with a body."""
    found = list(schemas_and_examples(DOCUMENT))
    assert len(found) > 200
    unfit = {where for where, schema, value in found if faults(DOCUMENT, schema, value)}
    assert unfit == {
        *("captureEvent: invalid", "captureEvent: noObject"),
        *("captureBatch: lenient", "captureBatch: invalidBatch", "captureBatch: empty"),
        *("listEvents: badLimit", "listAggregations: badPeriod", "voidEvent: noReason"),
    }


async def test_routes_and_document_have_each_other() -> None:
    """Every path and method that is served is described, and nothing else; HEAD goes with GET."""
    async with serving() as api:
        served = {
            (_template(rule.rule), method.lower())
            for rule in api.app.url_map.iter_rules()
            for method in rule.methods or ()
            if method != "HEAD"
        }
    assert served == {(one.path, one.method) for one in operations(DOCUMENT)}


def test_operations_name_their_scope() -> None:
    """Those that need a key say which, and how each refusal of it looks."""
    for operation in operations(DOCUMENT):
        needed = operation.shown.get("x-scope")
        assert (needed is None) == (operation.shown["security"] == [])
        assert (needed is None) == ("401" not in operation.shown["responses"])
    names = [one.id for one in OPERATIONS]
    assert len(set(names)) == len(names)


def test_event_types_are_for_who_may_know_them() -> None:
    """They are configured, so they stand in the document only where it is asked for them."""
    told = document(["api.calls", "a/b"])
    parameter = told["paths"]["/usage/{eventType}"]["post"]["parameters"][0]
    assert parameter["schema"]["enum"] == ["api.calls", "a/b"]
    item = told["components"]["schemas"]["NewItem"]["properties"]["eventType"]
    assert item["enum"] == ["api.calls", "a/b"]
    assert "a/b" not in json.dumps(DOCUMENT)
    OpenAPIV31SpecValidator(told).validate()


def test_bounds_are_those_of_the_decoder() -> None:
    """The schemas of what is sent are made of the types that decode it."""
    schemas = DOCUMENT["components"]["schemas"]
    event = schemas["NewEvent"]
    assert event["required"] == ["customerId", "value"]
    assert event["properties"]["customerId"]["maxLength"] == 256
    assert event["properties"]["idempotencyKey"]["maxLength"] == 255
    assert event["properties"]["metadata"]["type"] == "object"
    batch = DOCUMENT["paths"]["/usagebatch"]["post"]["requestBody"]["content"][JSON]["schema"]
    assert (batch["minItems"], batch["maxItems"]) == (1, BATCH_MAX)


# -- every example, sent --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def billed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    """A daemon that has what the examples tell of: an event, a closed hour, and its webhook."""
    with Receiver() as receiver:
        webhook = (
            f'[[webhooks]]\nid = "billing"\nurl = "{receiver.url}"\n'
            'secret = "whsec_secret"\nallow_private = ["127.0.0.0/8"]\n'
        )
        daemon = DaemonProcess(
            tmp_path_factory.mktemp("documented"),
            event_types=TYPES,
            webhooks=webhook,
            options=OPTIONS,
        )
        event = {"customerId": "customer_1", "value": 1, "timestamp": "2026-01-14T10:58:00.000Z"}
        event["metadata"] = {"endpoint": "/api/users"}
        assert daemon.request("POST", "/usage/api.calls", json=event).status_code == 201
        daemon.trigger()
        receiver.wait_for(4)
        while len(daemon.request("GET", "/deliveries?status=delivered").json()) < 4:
            pass  # told of at once, and settled together a moment later
        yield daemon
        daemon.stop()


def in_place(text: str, daemon: DaemonProcess) -> str:
    """With the ids of an event and a delivery that there are, for those of the examples."""
    if EVENT_ID in text:
        text = text.replace(
            EVENT_ID, daemon.request("GET", "/events?order=oldest").json()[0]["_id"]
        )
    if DELIVERY_ID in text:
        listed = daemon.request("GET", "/deliveries?period=hourly&limit=1").json()
        text = text.replace(DELIVERY_ID, listed[0]["id"])
    return text


def send(example: Sent, daemon: DaemonProcess, key: str | None = None) -> httpx.Response:
    presented = {"x-apikey": daemon.key if key is None else key}
    return httpx.request(
        example.operation.method.upper(),
        daemon.url + in_place(example.path, daemon),
        params=tuple(example.query),
        headers={**example.headers, **presented} if presented["x-apikey"] else example.headers,
        content=None if example.body is None else json.dumps(example.body).encode(),
        timeout=30,
        verify=TRUSTING_NOBODY,
    )


def assert_documented(example: Sent, answer: httpx.Response) -> Any:
    """Status, media type, headers and body are what the document says of them; gives the body."""
    name = f"{example.operation.shown['operationId']}: {example.name}"
    said = example.operation.shown["responses"][str(answer.status_code)]
    media = answer.headers["Content-Type"].split(";")[0]
    assert media in said["content"], name
    body = answer.json() if media == JSON else answer.text
    assert faults(DOCUMENT, said["content"][media]["schema"], body) == [], f"{name}: {body}"
    told = {"Retry-After", "WWW-Authenticate", "Link", "Meterd-Pruned-Until"}
    told |= {"Accept-Encoding", "Meterd-Malformed"}
    assert {one for one in told if one in answer.headers} <= set(said.get("headers", ()))
    return body


def test_every_example_is_answered_as_it_says(billed: DaemonProcess) -> None:
    """In the order of the document: the status, a body of its schema, and what the example has;
    where nothing in it goes by the time or by chance, it is that to the byte.
    """
    sent = exchanges(DOCUMENT)
    left = request_examples(DOCUMENT) - {
        (one.operation.shown["operationId"], one.name) for one in sent
    }
    assert left == set(), "requests without an answer"
    for example in in_order(sent):
        name = f"{example.operation.shown['operationId']}: {example.name}"
        answer = send(example, billed)
        assert answer.status_code == example.status, f"{name}: {answer.text}"
        body = assert_documented(example, answer)
        if "error" in example.answer or answer.request.url.path.startswith("/usage/"):
            assert body == example.answer, name
        elif isinstance(example.answer, list | dict) and example.name not in {"again", "openapi"}:
            # A retry may be in the air already, and the whole document is no example.
            assert keys(example.answer) <= keys(body), name


def in_order(sent: list[Sent]) -> list[Sent]:
    """As requests stand in the document: what is repeated comes behind what it repeats."""
    places = {
        (one.shown["operationId"], name): place
        for one in operations(DOCUMENT)
        for place, name in enumerate(
            one.shown.get("requestBody", {}).get("content", {}).get(JSON, {}).get("examples", {})
        )
    }
    known = [one.shown["operationId"] for one in operations(DOCUMENT)]
    return sorted(
        sent,
        key=lambda one: (
            known.index(one.operation.shown["operationId"]),
            places.get((one.operation.shown["operationId"], one.name), 0),
        ),
    )


def keys(value: Any) -> set[str]:
    assert value, "an example that shows nothing"
    return set(value[0] if isinstance(value, list) else value)


def test_refusals_look_as_they_are_shown(billed: DaemonProcess) -> None:
    """Without a key, with a wrong one, with one of another scope, and with too large a body."""
    shown = DOCUMENT["components"]["examples"]
    assert set(shown) == NOT_PROVOKED | PROVOKED
    first = {one.operation.shown["operationId"]: one for one in reversed(exchanges(DOCUMENT))}
    for example in first.values():
        scope = example.operation.shown.get("x-scope")
        if scope is None:
            assert send(example, billed, key="").status_code == example.status
            continue
        other = next(one for one in Scope if one != scope)
        for name, key, status in (
            ("noKey", "", 401),
            ("unknownKey", "key-of-nobody", 401),
            (f"{scope}ScopeNeeded", f"key-of-{other}", 403),
        ):
            refused = send(example, billed, key=key)
            assert refused.status_code == status
            assert assert_documented(example, refused) == shown[name]["value"]
            assert (
                name
                in example.operation.shown["responses"][str(status)]["content"][JSON]["examples"]
            )
            assert "WWW-Authenticate" in refused.headers


def test_too_much_is_refused_as_it_says(billed: DaemonProcess) -> None:
    """Too many events, which are counted, and too many bytes, which are not."""
    example = next(one for one in exchanges(DOCUMENT) if one.name == "two")
    many = example._replace(body=example.body * BATCH_MAX)
    answer = send(many, billed)
    assert answer.status_code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    assert assert_documented(many, answer)["received"] == 2 * BATCH_MAX
    long = example._replace(body="x" * (5 << 20))
    answer = send(long, billed)
    shown = DOCUMENT["components"]["examples"]["tooLarge"]["value"]
    assert assert_documented(long, answer) == shown


def test_what_breaks_a_request_is_described(billed: DaemonProcess) -> None:
    """A coding, and a body that is no JSON, which says where."""
    [example] = [one for one in exchanges(DOCUMENT) if one.name == "two"]
    packed = example._replace(headers={**example.headers, "Content-Encoding": "gzip"})
    answer = send(packed, billed)
    shown = DOCUMENT["components"]["examples"]["compressed"]["value"]
    assert (answer.status_code, assert_documented(packed, answer)) == (415, shown)
    answer = httpx.post(
        f"{billed.url}/usagebatch", content=b"[{]", headers={"x-apikey": billed.key}
    )
    assert_documented(example, answer)
    assert answer.headers["Meterd-Malformed"] == "expected '\"' (byte 2)"


def test_curl_lines_of_the_page_work(billed: DaemonProcess) -> None:
    """The first of each operation, as it is copied from the page."""
    environ = {**os.environ, "BASE_URL": billed.url, "API_KEY": billed.key}
    first = {
        one.operation.shown["operationId"]: one for one in reversed(in_order(exchanges(DOCUMENT)))
    }
    for path, method, shown in operations(DOCUMENT):
        line = in_place(curl({**shown, "path": path, "method": method}), billed)
        done = subprocess.run(
            ["bash", "-c", f"{line} -s -o /dev/null -w '%{{http_code}}'"],
            capture_output=True,
            text=True,
            timeout=30,
            env=environ,
        )
        assert done.returncode == 0, done.stderr
        expected = first[shown["operationId"]].status
        # What was captured or void before is so now.
        assert int(done.stdout) in {expected, 200}, f"{line}: {done.stdout}"
