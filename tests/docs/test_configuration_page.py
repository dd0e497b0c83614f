"""docs/configuration.md is what `make docs` writes now, and lacks nothing."""

from __future__ import annotations

import runpy
from typing import TYPE_CHECKING

import pytest

from meterd.domain.config import ENVIRONMENT, OPTIONS, Config, decode
from tests.docs.at_work import at_work
from tests.docs.reading import DOCS, ROOT
from tests.docs.shell import pieces

if TYPE_CHECKING:
    from pathlib import Path

PAGE = runpy.run_path(str(ROOT / "packaging" / "configuration_page.py"))
SHIPPED = (ROOT / "systemconfig.toml").read_text()
# What the page has in place of a default: what must be given, and what is made of others.
WITHOUT_DEFAULT = {
    *(("events", "op"), ("webhooks", "id"), ("webhooks", "url"), ("webhooks", "secret")),
    *(("webhooks", "secret_env"), ("keys", "id"), ("keys", "hash"), ("keys", "scopes")),
    *(("alerts", "id"), ("alerts", "event"), ("alerts", "period"), ("alerts", "thresholds")),
}


def test_the_page_is_what_is_written_now() -> None:
    """If not: make docs."""
    assert (DOCS / "configuration.md").read_text() == PAGE["page"](SHIPPED)


@pytest.mark.parametrize("table", OPTIONS)
def test_every_option_is_described_with_the_default_of_its_type(table: str) -> None:
    """Each of the table's, in words, and the default where the type has one. Tables of the top
    level have a section each.
    """
    described = PAGE["described"](SHIPPED)
    options = set(OPTIONS[table]) - (set(described) if table == "" else set())
    assert set(described[table].options) == options
    assert all(len(text) > 20 for text in described[table].options.values())
    without = {(table, name) for name in options if name not in PAGE["defaults"]()[table]}
    assert without == {one for one in WITHOUT_DEFAULT if one[0] == table}


def test_the_words_and_the_types_agree() -> None:
    """Where the comment names a default, it is that of the type, and means the same."""
    compared = 0
    for table, described in PAGE["described"](SHIPPED).items():
        known = PAGE["defaults"]()[table]
        for name, text in described.options.items():
            said = text.partition("Default: ")[2].lstrip('"')
            if name in known and said:
                default = PAGE["written"](known[name]).strip('`"')
                words = ("none", "empty", "everybody") if default == "none" else (default,)
                assert said.startswith(words), f"{table} {name}"
                compared += 1
    assert compared >= 20


def test_every_variable_is_described() -> None:
    """Those that win over the text, and the one that names the file."""
    assert set(PAGE["variables"](SHIPPED)) == {"METERD_CONFIG", *ENVIRONMENT[""]}


def test_a_default_that_is_written_means_the_default() -> None:
    """As the page shows it, an option can be set."""
    top = {name: value for name, value in PAGE["defaults"]()[""].items() if value}
    text = "\n".join(f"{name} = {PAGE['written'](value).strip('`')}" for name, value in top.items())
    assert 'grace = "5m"' in text
    assert decode(text.encode(), form="toml", environ={}) == Config()


def test_a_change_is_checked_and_taken_over(tmp_path: Path) -> None:
    """By the commands of the page."""
    [script] = pieces(DOCS / "configuration.md")
    with at_work(tmp_path) as meterd:
        meterd.daemon.configure(event_types='[events."of.tomorrow"]\nop = "sum"')
        assert "of.tomorrow" in meterd.follow(script)
        meterd.daemon.wait_for("configuration reloaded")
        event = {"customerId": "c", "value": 1}
        sent = meterd.daemon.request("POST", "/usage/of.tomorrow", json=event)
        assert sent.status_code == 201
