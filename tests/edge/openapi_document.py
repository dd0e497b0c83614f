"""What tests read in the API's document: its operations, and the examples that it has of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import quote

import msgspec
from jsonschema import Draft202012Validator

if TYPE_CHECKING:
    from collections.abc import Iterator

JSON: Final = "application/json"


class Operation(NamedTuple):
    path: str
    method: str
    shown: dict[str, Any]


class Sent(NamedTuple):
    """An example: the request, and what the document says that it is answered with."""

    operation: Operation
    name: str
    path: str
    query: list[tuple[str, str]]
    headers: dict[str, str]
    body: Any  # None for none
    status: int
    answer: Any


def operations(document: dict[str, Any]) -> list[Operation]:
    return [
        Operation(path, method, shown)
        for path, methods in document["paths"].items()
        for method, shown in methods.items()
    ]


def exchanges(document: dict[str, Any]) -> list[Sent]:
    """Every example of an answer that is written beside its operation, with its request."""
    return [
        sent(operation, name, int(status), example["value"])
        for operation in operations(document)
        for status, response in operation.shown["responses"].items()
        for content in response["content"].values()
        for name, example in content.get("examples", {}).items()
        if "$ref" not in example
    ]


def sent(operation: Operation, name: str, status: int, answer: Any) -> Sent:
    path, query, headers = operation.path, [], {}
    for parameter in operation.shown.get("parameters", ()):
        example = parameter.get("examples", {}).get(name)
        if example is None:
            assert parameter["in"] != "path", f"{operation.path}: {name} lacks {parameter['name']}"
            continue
        values = example["value"] if isinstance(example["value"], list) else [example["value"]]
        match parameter["in"]:
            case "path":
                path = path.replace(f"{{{parameter['name']}}}", quote(values[0], safe=""))
            case "query":
                query += [(parameter["name"], str(value)) for value in values]
            case "header":
                headers[parameter["name"]] = values[0]
    taken = operation.shown.get("requestBody", {}).get("content", {}).get(JSON, {})
    body = taken.get("examples", {}).get(name, {}).get("value")
    return Sent(operation, name, path, query, headers, body, status, answer)


def request_examples(document: dict[str, Any]) -> set[tuple[str, str]]:
    """Operation and name of every example that stands on the side of a request."""
    found = set()
    for operation in operations(document):
        known = operation.shown["operationId"]
        for parameter in operation.shown.get("parameters", ()):
            found |= {(known, name) for name in parameter.get("examples", {})}
        taken = operation.shown.get("requestBody", {}).get("content", {}).get(JSON, {})
        found |= {(known, name) for name in taken.get("examples", {})}
    return found


def validator(document: dict[str, Any], schema: dict[str, Any]) -> Draft202012Validator:
    """Of a schema of the document, which may refer to others of it."""
    return Draft202012Validator(
        {**schema, "components": document["components"]},
        format_checker=Draft202012Validator.FORMAT_CHECKER,
    )


def faults(document: dict[str, Any], schema: dict[str, Any], value: Any) -> list[str]:
    return [fault.message for fault in validator(document, schema).iter_errors(value)]


def schemas_and_examples(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], Any]]:
    """Every example of the document, with the schema of its place."""
    shared = document["components"]["examples"]
    for operation in operations(document):
        where = operation.shown["operationId"]
        contents = [operation.shown.get("requestBody", {}).get("content", {}).get(JSON, {})]
        for response in operation.shown["responses"].values():
            contents += response["content"].values()
        for content in [*contents, *operation.shown.get("parameters", ())]:
            for name, example in content.get("examples", {}).items():
                found = example if "$ref" not in example else shared[example["$ref"].split("/")[-1]]
                yield f"{where}: {name}", content["schema"], found["value"]


def strays(kind: type[msgspec.Struct], shown: bytes | dict[str, Any]) -> set[str]:
    """The keys of a document that its described type lacks; raises where a value is not what the
    type says.
    """
    decoded = msgspec.json.decode(shown) if isinstance(shown, bytes) else shown
    msgspec.convert(decoded, kind)
    return set(decoded) - {field.encode_name for field in msgspec.structs.fields(kind)}
