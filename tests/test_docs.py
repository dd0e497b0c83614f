"""What the documents say is so: routes, commands, configurations, links, and what curl answers."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Any

import click
import pytest

from meterd.cli import main
from meterd.domain.config import decode
from meterd.domain.credentials import Scope
from meterd.edge.problems import STATUS_OF_REASON
from tests.docs.reading import (
    API,
    BLOCK,
    CODE,
    DOCS,
    DOCUMENTS,
    README,
    ROOT,
    Block,
    all_blocks,
    blocks,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.daemon_process import DaemonProcess

# The webhook that the documents ask about; nobody is there.
BILLING = """
[[webhooks]]
id = "billing"
url = "http://127.0.0.1:9/"
secret = "whsec_of_some_length"
[[webhooks]]
id = "example-receiver"
url = "http://127.0.0.1:9/example"
secret = "whsec_of_some_length"
"""
# Where the documents say that meterd listens.
BASE_URL = "http://127.0.0.1:8080"


def commands(block: Block) -> Iterator[str]:
    """Each command of a shell block, without comments; what a backslash goes on with is one."""
    for line in block.text.replace("\\\n", " ").splitlines():
        command = line.split(" #", 1)[0].strip()
        if command and not command.startswith("#"):
            yield command


def named(block: Block) -> str:
    return f"{block.document.relative_to(ROOT)}: {block.text[:40]!r}"


def test_there_is_something_to_test() -> None:
    """The patterns above find what the documents hold."""
    assert len(all_blocks("bash")) >= 15
    assert len(all_blocks("json")) >= 1
    assert len(all_blocks("toml")) >= 2


# -- the API --------------------------------------------------------------------------------------


def table(heading: str) -> list[list[str]]:
    """The rows of the API's table that begins with that heading."""
    lines = iter(API.read_text().splitlines())
    for line in lines:
        if line.startswith(f"| {heading} |"):
            break
    next(lines)
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return rows


def routes() -> list[tuple[str, str]]:
    found = []
    for request, *_ in table("request"):
        method = ""
        for code in CODE.findall(request):
            words = code.split()
            method = words[0] if len(words) > 1 else method
            found.append((method, words[-1]))
    return found


def test_every_route_of_the_table_is_there(daemon: DaemonProcess) -> None:
    """By its method and path; and those said to need no key need none."""
    found = routes()
    assert len(found) >= 10
    for method, path in found:
        answer = daemon.request(method, path.replace("{eventType}", "api.calls"))
        assert answer.status_code not in (401, 403, 405), f"{method} {path}"
        assert b"Not found" not in answer.content, f"{method} {path}"
    open_routes = [row[0] for row in table("request") if "no key" in row[1]]
    assert len(open_routes) == 2
    for path in CODE.findall(" ".join(open_routes)):
        answer = daemon.request("GET", path.split()[-1], headers={"x-apikey": "none"})
        assert answer.status_code == 200, path


def test_every_route_that_is_there_is_in_the_table(daemon: DaemonProcess) -> None:
    """As far as meterd itself names them."""
    documented = {f"{method} {path}" for method, path in routes()}
    endpoints = daemon.request("GET", "/").json()["endpoints"]
    assert endpoint_texts(endpoints) <= documented


def endpoint_texts(endpoints: dict[str, Any]) -> set[str]:
    found: set[str] = set()
    for value in endpoints.values():
        found |= endpoint_texts(value) if isinstance(value, dict) else {value}
    return found


def test_every_status_of_a_refused_event_is_in_the_table() -> None:
    """Whoever meets one finds it explained."""
    documented = {int(code) for codes, _ in table("code") for code in codes.split(", ")}
    assert {int(status) for status in STATUS_OF_REASON.values()} <= documented
    others = {200, 201, 202, 207, 401, 403, 404, 405, 409, 415, 429, 507}
    assert others <= documented
    told = (ROOT / "examples" / "README.md").read_text()
    assert {code for code in others | documented if f"| {code} |" not in told} == set()


def test_scopes_and_variables_are_those_that_there_are() -> None:
    """README.md names each scope; each variable that it names is one."""
    text = README.read_text()
    assert all(f"`{scope}`" in text for scope in Scope)
    variables = set(re.findall(r"`(METERD_\w+|DRY_RUN)`", text))
    assert variables == {
        "METERD_CONFIG",
        "METERD_BIND",
        "METERD_DATA_DIR",
        "METERD_API_KEY",
        "DRY_RUN",
    }


# -- commands -------------------------------------------------------------------------------------


def examples(command: click.Command) -> Iterator[str]:
    """Every ``meterd ...`` that a help shows as its example, with a folder for that of today."""
    example = (command.epilog or "").replace("$(date +%F)", "today")
    yield from re.findall(r"meterd(?: [^&|;)]+)+", example)
    if isinstance(command, click.Group):
        for below in command.commands.values():
            yield from examples(below)


def meterd_commands() -> list[str]:
    """Every ``meterd ...`` that a help or a document shows between backticks. Those in blocks are
    run: tests/docs/test_blocks.py says where.
    """
    shown = []
    for document in DOCUMENTS:
        prose = BLOCK.sub("", document.read_text())
        shown += CODE.findall(prose)
    shown += examples(main)
    return sorted(
        {
            matched[1]
            for command in shown
            if (matched := re.match(r"(?:\S*/)?meterd((?: [^&|]+)+)", command))
            and not matched[1].startswith(" <")
        }
    )


@pytest.mark.parametrize("arguments", meterd_commands())
def test_meterd_takes_the_commands_that_are_shown(arguments: str) -> None:
    """Subcommands, options and the values that they take."""
    given = shlex.split(arguments)
    command: click.Command = main
    try:
        context = main.make_context("meterd", list(given), resilient_parsing=False)
        while isinstance(command, click.Group):
            name, found, rest = command.resolve_command(
                context, [*context._protected_args, *context.args]
            )
            assert found is not None, f"meterd has no {name}"
            command = found
            context = command.make_context(name, list(rest), parent=context)
    except click.exceptions.Exit:
        pass  # --version or --help has said it


def test_meterd_commands_are_shown() -> None:
    """The README tells of each, and each has an example."""
    assert len(list(examples(main))) >= 30
    shown = " ".join(meterd_commands())
    for name in ("check", "keys create", "keys list"):
        assert f" {name}" in shown


def test_make_has_the_targets_that_are_shown() -> None:
    """And the Makefile says of each what it does."""
    makefile = (ROOT / "Makefile").read_text()
    shown = {
        matched[1]
        for block in all_blocks("bash")
        for command in commands(block)
        if (matched := re.match(r"(?:\w+=\S+ )*make (\w+)", command))
    }
    assert shown >= {"run", "test"}
    for target in shown:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
        assert f"# make {target} " in makefile, target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_files_are_there(document: Path) -> None:
    """What a document links to, and what its commands run."""
    text = document.read_text()
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        found = document.parent / path if path else document
        assert found.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", found.read_text(), re.MULTILINE)
            assert anchor in {
                re.sub(r"[^\w -]", "", one).lower().replace(" ", "-") for one in headings
            }
    for block in blocks(document):
        for path in re.findall(r"(?<![\w/])examples/[\w./-]+", block.text):
            assert (ROOT / path).is_file(), path


# -- configurations -------------------------------------------------------------------------------


@pytest.mark.parametrize("block", all_blocks("toml"), ids=named)
def test_configurations_are_valid(block: Block) -> None:
    """As they stand."""
    decode(block.text.encode(), form="toml", environ={})


OPTIONS_SHOWN = [
    shown
    for document in (README, DOCS / "webhooks.md")
    for shown in re.findall(r"`((?:periods|grace|dry_run) = [^`]+)`", document.read_text())
]


@pytest.mark.parametrize("shown", OPTIONS_SHOWN)
def test_options_in_the_text_are_valid(shown: str) -> None:
    """Those that the reader is told to set."""
    decode(shown.encode(), form="toml", environ={})


def test_the_event_in_the_table_is_one(daemon: DaemonProcess) -> None:
    """It is captured as it stands."""
    [[_, what]] = [row for row in table("request") if "/usage/{eventType}" in row[0]]
    [body] = CODE.findall(what)
    assert daemon.request("POST", "/usage/api.calls", content=body).status_code == 201
