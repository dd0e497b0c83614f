"""The code map binds: imports go one way, libraries have homes, files stay small, tests mirror."""

from __future__ import annotations

import ast
import re
import sys
from functools import cache
from pathlib import Path

import meterd

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "meterd"
LINES_MAX = 400
FUNCTION_LINES_MAX = 70

# One outside library, one home (a home may be a few files that are one thing).
HOMES = {
    "lmdb": {"embedded.transaction", "embedded.store", "embedded.snapshot"},
    "xxhash": {"embedded.transaction"},
    "quart": {
        *("edge.api", "edge.delivery_api", "edge.usage_api", "edge.void_api"),
        *("edge.routes", "edge.openapi_api"),
    },
    "quart_trio": {
        *("edge.api", "edge.delivery_api", "edge.usage_api", "edge.void_api"),
        "edge.openapi_api",
    },
    "werkzeug": {"edge.api"},
    "hypercorn": {"edge.hypercorn_lane"},
    "httpx": {"edge.egress", "edge.keep_alive", "client"},
    "h11": {"edge.answers"},
    "jinja2": {"edge.docs_page"},
    "markupsafe": {"edge.docs_page"},
    "click": {
        *("cli", "options", "upkeep", "tables", "proof_commands"),
        *("delivery_history", "delivery_commands", "webhook_commands"),
        *("listing", "listing_commands", "usage_commands", "void_command"),
        *("import_command", "export_command", "status_commands", "completion_command"),
        *("bars", "key_commands"),
    },
    "rich": {"upkeep", "tables", "delivery_commands", "bars"},
    "prometheus_client": {"edge.metrics", "edge.metric_families", "status_reading"},
    "pyarrow": {"parquet"},
}
# What the domain may use: nothing that acts. trio and structlog are for those who do.
DOMAIN_OUTSIDE = {"msgspec"}
DOMAIN_NEVER = {"time", "random", "secrets", "os", "socket", "threading", "logging", "subprocess"}
# tests/test_cli.py runs the entry point, and compares what the build wrote with git.
UNMIRRORED = {"__main__", "built"}


def code_map() -> list[str]:
    """The modules in the order of the package's docstring."""
    found: list[str] = []
    folder = ""
    for line in (meterd.__doc__ or "").splitlines():
        matched = re.match(r"^(    |      )([a-z_0-9]+)(/?)\s{2,}\S", line)
        if matched is None:
            continue
        indent, name, is_folder = matched.groups()
        if is_folder:
            folder = f"{name}."
        elif len(indent) == 4:
            found.append(name)
            folder = ""
        else:
            found.append(folder + name)
    return found


def modules() -> dict[str, Path]:
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.name != "__init__.py"
    }


@cache
def imported(path: Path) -> set[str]:
    """The full names of everything that a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def own(names: set[str]) -> set[str]:
    """The modules of meterd among imported names."""
    known = modules()
    found = set()
    for name in names:
        if not name.startswith("meterd."):
            continue
        parts = name.split(".")[1:]
        for length in range(len(parts), 0, -1):
            if ".".join(parts[:length]) in known:
                found.add(".".join(parts[:length]))
                break
    return found


def test_the_code_map_names_every_file() -> None:
    """A newcomer finds each file in the map, and nothing that is not there."""
    assert sorted(code_map()) == sorted(set(modules()) - {"__main__"})


def test_imports_go_one_way() -> None:
    """A file imports only from files above it in the code map."""
    order = {name: place for place, name in enumerate(code_map())}
    backward = [
        f"{name} imports {other}"
        for name, path in modules().items()
        if name in order
        for other in own(imported(path))
        if order[other] >= order[name]
    ]
    assert backward == []


def test_each_library_has_one_home() -> None:
    """Replacing a library, or taking over its next version, is a matter of one file."""
    strays = [
        f"{name} imports {library}"
        for name, path in modules().items()
        for library, homes in HOMES.items()
        if any(found.split(".")[0] == library for found in imported(path)) and name not in homes
    ]
    assert strays == []


def test_the_domain_does_not_act() -> None:
    """Rules take values and give values: no I/O, no clock, no randomness, no task."""
    standard = sys.stdlib_module_names
    acting = [
        f"{name} imports {found}"
        for name, path in modules().items()
        if name.startswith("domain.")
        for found in imported(path)
        if (top := found.split(".")[0]) in DOMAIN_NEVER
        or (top not in standard and top not in DOMAIN_OUTSIDE | {"meterd"})
    ]
    assert acting == []


def test_only_the_clock_reads_the_time_of_day() -> None:
    """Every other file gets the time as a value, so that tests and simulations choose it."""
    readers = {
        name
        for name, path in modules().items()
        if re.search(r"\btime\.(time|time_ns)\(|datetime\.now\(|utcnow\(", path.read_text())
    }
    assert readers == {"work.clock"}


def test_every_file_has_its_test() -> None:
    """``tests/`` mirrors ``meterd/``."""
    missing = []
    for name in set(modules()) - UNMIRRORED:
        *folders, file = name.split(".")
        mirror = ROOT.joinpath("tests", *folders, f"test_{file}.py")
        if not mirror.is_file():
            missing.append(str(mirror.relative_to(ROOT)))
    assert sorted(missing) == []


def test_files_and_functions_stay_small() -> None:
    """Nobody has to read a file of over 400 lines, or a function of over 70."""
    large = []
    for path in [*PACKAGE.rglob("*.py"), *(ROOT / "tests").rglob("*.py")]:
        text = path.read_text()
        if (lines := len(text.splitlines())) > LINES_MAX:
            large.append(f"{path.relative_to(ROOT)}: {lines} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > FUNCTION_LINES_MAX:
                    large.append(f"{path.relative_to(ROOT)}: {node.name} has {length} lines")
    assert large == []


def test_every_file_says_what_it_answers_for() -> None:
    """A file opens with a docstring."""
    silent = [
        name
        for name, path in modules().items()
        if not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert silent == []
