"""The page of the API's document: sound HTML that has all of it, and nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from typing import Final

from meterd.edge.docs_page import curl, page
from meterd.edge.openapi import document
from tests.edge.openapi_document import operations

DOCUMENT: Final = document(None)
ORIGIN: Final = "https://meter.example:8443"
VOID: Final = {"meta", "link", "br", "hr", "img", "input"}
FETCHING: Final = {"src", "srcset", "action", "formaction", "data", "poster", "background"}


class Read(HTMLParser):
    """What of a page is looked at; ``faults`` are elements that are not closed as they began."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.faults: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        self.faults += self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            self.faults.append(f"</{tag}> at {self.getpos()}")

    def handle_data(self, data: str) -> None:
        if self._open:
            self.texts.setdefault(self._open[-1], []).append(data)

    def values(self, name: str) -> list[str]:
        return [given[name] or "" for _, given in self.elements if name in given]


TEXT: Final = page(DOCUMENT).at(ORIGIN).decode()
PAGE: Final = Read(TEXT)


def test_the_page_is_sound_html() -> None:
    """Every element is closed, in order; ids are there once; what is linked to is there."""
    assert PAGE.faults == []
    assert TEXT.lstrip().startswith("<!doctype html>")
    ids = PAGE.values("id")
    assert len(set(ids)) == len(ids)
    links = PAGE.values("href")
    assert {link[1:] for link in links if link.startswith("#")} <= set(ids)


def test_nothing_comes_from_elsewhere() -> None:
    """No script, no handler, nothing that is fetched; the only link is to the document itself."""
    assert {"script", "iframe", "object", "embed", "img", "link", "form", "base"}.isdisjoint(
        tag for tag, _ in PAGE.elements
    )
    names = {name for _, given in PAGE.elements for name in given}
    assert FETCHING.isdisjoint(names)
    assert not any(name.startswith("on") or name == "style" for name in names)
    assert {link for link in PAGE.values("href") if not link.startswith("#")} == {"/openapi.json"}
    [style] = PAGE.texts["style"]
    assert "url(" not in style
    assert "@import" not in style


def test_the_policy_lets_the_style_through() -> None:
    """Alone: its hash is that of the bytes between the tags."""
    [style] = re.findall(r"<style>(.*?)</style>", TEXT, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in page(DOCUMENT).policy


def test_all_of_the_document_is_there() -> None:
    """Every operation with its path, parameters, statuses and first line of curl; every type."""
    ids = set(PAGE.values("id"))
    text = "".join(one for some in PAGE.texts.values() for one in some)
    shown = set(PAGE.texts["span"]) | set(PAGE.texts["p"])
    for path, method, operation in operations(DOCUMENT):
        assert operation["operationId"] in ids
        assert {path, method, *operation["responses"]} <= shown
        assert {one["name"] for one in operation.get("parameters", ())} <= shown
        assert curl({**operation, "path": path, "method": method}) in PAGE.texts["pre"]
    assert {f"schema-{name}" for name in DOCUMENT["components"]["schemas"]} <= ids
    for example in DOCUMENT["components"]["examples"].values():
        assert example["value"]["error"] in text
    assert f"export BASE_URL={ORIGIN}\n" in text


def test_code_is_marked_and_all_else_escaped() -> None:
    """Texts of the document are texts, whatever is in them; and the address, which clients say."""
    assert "<code>x-apikey: &lt;key&gt;</code>" in TEXT
    assert "`" not in "".join(PAGE.texts["p"])
    evil = json.loads(json.dumps(DOCUMENT).replace("Capture an event", "<script>alert(1)</script>"))
    written = page(evil).at("http://<script>'\"&").decode()
    assert "<script" not in written
    assert "http://&lt;script&gt;" in written
    assert Read(written).faults == []


def test_a_line_of_curl() -> None:
    """What a shell takes for its own is quoted."""
    operation = {
        "path": "/a/{id}",
        "method": "post",
        "security": [{}],
        "parameters": [
            {"name": "id", "in": "path", "examples": {"one": {"value": "x/y z"}}},
            {"name": "q", "in": "query", "examples": {"one": {"value": ["a&b", "$c"]}}},
            {"name": "Prefer", "in": "header", "examples": {"one": {"value": "it's"}}},
        ],
        "requestBody": {
            "content": {"application/json": {"examples": {"one": {"value": {"who": "o'neill"}}}}}
        },
    }
    assert curl(operation).split(" \\\n     ") == [
        'curl -X POST "$BASE_URL/a/x%2Fy%20z?q=a%26b&q=%24c"',
        '-H "x-apikey: $API_KEY"',
        "-H 'Prefer: it'\"'\"'s'",
        """-d '{"who": "o'"'"'neill"}'""",
    ]
