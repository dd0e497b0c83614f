"""The API's document as one page for people: HTML and CSS, no script, nothing from elsewhere.

It is made of the document that programs get (``openapi``), so it says the same. Texts of the
document are escaped; of their markup only paragraphs and ``code`` are read. What a client chose,
the address it asked under, is put in at each request (``Page.at``).
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import shlex
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import quote, urlencode

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from meterd.edge.docs_template import STYLE, TEMPLATE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_CODE: Final = re.compile(r"`([^`]+)`")
_REF: Final = "#/components/"
# Where the page says under which address it was asked for; no text of the document has it.
_ORIGIN: Final = "\x00origin\x00"
_STYLE_HASH: Final = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
# Nothing may be loaded, run or sent, whatever somebody managed to write into the page.
_POLICY: Final = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'"
)


class Page(NamedTuple):
    """The page but for the address that it is asked for under; ``policy`` is what it may do (the
    header Content-Security-Policy).
    """

    text: str
    policy: str = _POLICY

    def at(self, origin: str) -> bytes:
        """``origin`` is as ``http://127.0.0.1:8080``; any text, it is escaped."""
        return self.text.replace(_ORIGIN, html.escape(origin)).encode()


def page(document: Mapping[str, Any]) -> Page:
    """The page of that document."""
    shown = _Shown(document)
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(prose=_prose, json=_json, kind=shown.kind, bounds=_bounds)
    text = environment.from_string(TEMPLATE).render(
        document=document,
        # Of this package, and of nobody else.
        style=Markup(STYLE),  # noqa: S704 # nosec B704
        origin=_ORIGIN,
        groups=shown.groups(),
        schemas=document["components"]["schemas"],
        resolve=shown.resolve,
        curl=curl,
    )
    return Page(text)


class _Shown:
    """What the template asks of the document."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document

    def groups(self) -> list[tuple[Mapping[str, Any], list[dict[str, Any]]]]:
        """Each tag with its operations, which have their path and method."""
        operations = [
            {**operation, "path": path, "method": method}
            for path, methods in self._document["paths"].items()
            for method, operation in methods.items()
        ]
        return [
            (tag, [one for one in operations if tag["name"] in one["tags"]])
            for tag in self._document["tags"]
        ]

    def resolve(self, part: Mapping[str, Any]) -> Mapping[str, Any]:
        """What it is, or refers to."""
        if "$ref" not in part:
            return part
        kind, name = part["$ref"].removeprefix(_REF).split("/")
        found: Mapping[str, Any] = self._document["components"][kind][name]
        return found

    def kind(self, schema: Mapping[str, Any]) -> Markup:
        """Which values a schema takes, in a word or two, with links to what has a name."""
        if "$ref" in schema:
            name = schema["$ref"].rsplit("/", 1)[1]
            return Markup('<a href="#schema-{0}">{0}</a>').format(name)
        if "enum" in schema:
            return Markup(" or ").join(_literal(value) for value in schema["enum"])
        if "anyOf" in schema and "type" not in schema:
            return Markup(" or ").join(self.kind(one) for one in schema["anyOf"])
        kind = schema.get("type", "any")
        if kind == "array" and isinstance(schema.get("items"), dict):
            return Markup("array of {}").format(self.kind(schema["items"]))
        if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
            return Markup("object of {}").format(self.kind(schema["additionalProperties"]))
        formats = [one.get("format") for one in schema.get("anyOf", ())] or [schema.get("format")]
        return escape(" or ".join(one for one in formats if one) or kind)


def _literal(value: Any) -> Markup:
    return Markup("<code>{}</code>").format(value)


def _bounds(schema: Mapping[str, Any]) -> str:
    """The limits that a schema sets, as a sentence."""
    limits = list(_limits(schema))
    return "" if not limits else f"{'; '.join(limits)}."


def _limits(schema: Mapping[str, Any]) -> Iterator[str]:
    if "minimum" in schema:
        yield f"{schema['minimum']} to {schema['maximum']}"
    for name, what in (("Length", "characters"), ("Items", "elements")):
        least, most = schema.get(f"min{name}"), schema.get(f"max{name}")
        if most is not None:
            yield f"{least} to {most} {what}" if least else f"up to {most} {what}"
    if "default" in schema:
        yield f"default {json.dumps(schema['default'])}"


def _prose(text: str) -> Markup:
    """Paragraphs, with ``code`` between backticks."""
    paragraphs = (" ".join(one.split()) for one in text.replace("``", "`").split("\n\n"))
    return Markup().join(
        Markup("<p>{}</p>\n").format(
            # What is escaped first has no markup of its own left.
            Markup(_CODE.sub(r"<code>\1</code>", str(escape(one))))  # noqa: S704 # nosec B704
        )
        for one in paragraphs
    )


def _json(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)


def curl(operation: Mapping[str, Any], name: str | None = None) -> str:
    """The line that sends an example of an operation of the page: that one, or the first."""
    body = _examples(operation.get("requestBody", {}).get("content", {}).get("application/json"))
    parameters = operation.get("parameters", [])
    names = [*body, *(name for one in parameters for name in one.get("examples", {}))]
    chosen = name or next(iter(names), "")
    query: list[tuple[str, Any]] = []
    path, fields = operation["path"], []
    if operation["security"]:
        fields.append('-H "x-apikey: $API_KEY"')
    for parameter in parameters:
        examples = parameter.get("examples", {})
        if chosen not in examples:
            continue
        value = examples[chosen]["value"]
        match parameter["in"]:
            case "path":
                path = path.replace(f"{{{parameter['name']}}}", quote(value, safe=""))
            case "query":
                query.append((parameter["name"], value))
            case _:
                field = f"{parameter['name']}: {value}"
                fields.append(f"-H {shlex.quote(field)}")
    asked = f"?{urlencode(query, doseq=True)}" if query else ""
    method = "-X POST " if operation["method"] == "post" else ""
    if chosen in body:
        fields.append(f"-d {shlex.quote(json.dumps(body[chosen]['value'], ensure_ascii=False))}")
    return " \\\n     ".join([f'curl {method}"$BASE_URL{path}{asked}"', *fields])


def _examples(content: Mapping[str, Any] | None) -> Mapping[str, Any]:
    return {} if content is None else content.get("examples", {})
