"""What docs/reliability.md says to run can be run, and what it names is there."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

import pytest

from tests.docs.reading import CODE, DOCS, ROOT
from tests.docs.shell import follow, pieces
from tests.system.torture.catalogue import harnesses

if TYPE_CHECKING:
    from pathlib import Path

PAGE = DOCS / "reliability.md"
HARNESSES = {harness.name: harness for harness in harnesses()}
MODULES = sorted((ROOT / "meterd").rglob("*.py"))
_DEFINED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def rows(heading: str) -> list[list[str]]:
    """Those of the table that begins with that heading, each as its cells."""
    table = PAGE.read_text().partition(f"\n| {heading} |")[2].partition("\n\n")[0]
    return [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]


def test_a_year_is_lived_again_by_its_seed() -> None:
    """To the byte: both times it comes to the same digest of all that happened."""
    [script] = pieces(PAGE)
    told = [follow(script, ROOT).partition("trace ")[2].split()[0] for _ in range(2)]
    assert len(told[0]) == 32
    assert told[0] == told[1]


@pytest.mark.parametrize("heading", ["promise", "rule"])
def test_every_test_that_is_named_is_there(heading: str) -> None:
    """Files with tests, conformance suites, harnesses and their mutants."""
    found = rows(heading)
    assert len(found) >= 20
    mutants = {mutant for harness in HARNESSES.values() for mutant in harness.mutants}
    for row in found:
        tests = row[1] if heading == "promise" else row[2]
        assert "`" in tests, row
        for named in CODE.findall(tests):
            if named.startswith("tests/"):
                path = ROOT / named
                files = [*path.glob("test_*.py")] if path.is_dir() else [path]
                assert any("def test_" in file.read_text() for file in files), named
            else:
                known = named in HARNESSES or named in mutants or named.startswith("make ")
                assert known or (ROOT / named).is_file(), named


def test_every_rule_is_kept_where_it_says() -> None:
    """In a file of that name, by a function, method or class that is made there."""
    for rule, where, _ in rows("rule"):
        for named in CODE.findall(where):
            if named == "meterd":
                continue
            module, _, inner = named.partition(".")
            if module[0].isupper():  # a class says itself where it is
                module, inner = module.lower(), named
            paths = [path for path in MODULES if str(path).endswith(f"/{module}.py")]
            assert paths, f"{rule}: there is no {named}"
            assert not inner or any(inner in made_in(path) for path in paths), f"{rule}: {named}"


def made_in(path: Path) -> set[str]:
    """What is defined there: by its own name, and by that of its class before it."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if not isinstance(node, _DEFINED):
            continue
        found.add(node.name)
        within = [one.name for one in node.body if isinstance(one, _DEFINED)]
        if isinstance(node, ast.ClassDef):
            found |= {*within, *(f"{node.name}.{one}" for one in within)}
    return found


def test_every_harness_is_run_as_often_as_it_says() -> None:
    """In both tiers."""
    told = {row[0].strip("`"): (row[2], row[3]) for row in rows("harness")}
    assert told == {name: (f"{one.short:,}", f"{one.long:,}") for name, one in HARNESSES.items()}
