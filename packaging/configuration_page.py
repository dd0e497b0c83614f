"""Writes docs/configuration.md to stdout: `make docs`.

What an option does is said once, in the comments of systemconfig.toml, and what its default is
stands in the types: this puts the two beside each other.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from meterd.domain.alerts import Alert
from meterd.domain.config import (
    OPTIONS,
    Config,
    EventType,
    Retention,
    Storage,
    public_config,
    public_endpoint,
)
from meterd.domain.credentials import ApiKey
from meterd.domain.durations import format_duration
from meterd.domain.endpoints import Endpoint

SHIPPED = Path(__file__).parent.parent / "systemconfig.toml"
OPTION = re.compile(r"(?:# )?(\w+) = ")
HEADER = re.compile(r'(?:# )?(\[+(\w+)(?:\."[^"]+")?\]+)')
VARIABLE = re.compile(r"#   ([A-Z_]+) +(.+)")
REQUIRED = "must be given"

INTRODUCTION = """# Configuration

Written by `make docs`: what an option does is out of the comments of
[systemconfig.toml](../systemconfig.toml), and its default out of the types. The file is TOML; a
`systemconfig.json` of the template is taken as it is.

```bash
meterd check        # whether it is valid, and what would run
meterd reload       # a running meterd takes it over
```

An unknown option is a fault, as is a value out of its bounds. `check` names all faults at once,
with their lines. A reload of a file with a fault changes nothing, and the log says why.
"""


class Described(NamedTuple):
    """A table or an option: what is said of it."""

    header: str
    text: str
    options: dict[str, str]


def described(shipped: str) -> dict[str, Described]:
    """The tables of the file, "" the top level, each with what is said of it and of its options."""
    found = {"": Described("", "", {})}
    table, said = "", list[str]()
    for line in shipped.splitlines():
        if header := HEADER.fullmatch(line):
            table = header[2]
            found.setdefault(table, Described(header[1], " ".join(said), {}))
            said = []
        elif option := OPTION.match(line):
            found[table].options.setdefault(option[1], " ".join(said))
            said = []
        elif line.startswith("#"):
            said.append(line.removeprefix("#").strip())
        else:
            said = []
    return found


def variables(shipped: str) -> dict[str, str]:
    return dict(VARIABLE.findall(shipped))


def defaults() -> dict[str, dict[str, Any]]:
    """By table and option, as they are written; an option that is not there has to be given, or is
    made of others.
    """
    usual = Config()
    endpoint = public_endpoint(Endpoint("", "", ("",)))
    for name in ("id", "url", "secret"):
        del endpoint[name]
    top = {name: default for name, default in public_config(usual).items() if name in OPTIONS[""]}
    server = {"bind": f"{usual.server.host}:{usual.server.port}"}
    return {
        "": {**dict.fromkeys(("keys", "server", "storage"), ()), **top},
        "events": of_type(EventType),
        "webhooks": endpoint,
        "alerts": of_type(Alert),
        "keys": of_type(ApiKey),
        "server": {**of_type(type(usual.server)), **server},
        "storage": of_type(Storage),
        "retention": of_type(Retention),
    }


def of_type(kind: type[msgspec.Struct]) -> dict[str, Any]:
    found = {}
    for field in msgspec.structs.fields(kind):
        if not field.required:
            is_duration = field.name.endswith("_ms") and field.default is not None
            name = field.name.removesuffix("_ms")
            found[name] = format_duration(field.default) if is_duration else field.default
    return found


def written(default: Any) -> str:
    """As TOML has it; none, where nothing is set."""
    if default is None or default in ("", (), [], {}):
        return "none"
    return f"`{msgspec.json.encode(default).decode().replace(',', ', ')}`"


def page(shipped: str) -> str:
    lines = [INTRODUCTION, "## Environment", ""]
    lines += table("variable", variables(shipped), {})
    known = defaults()
    for name, (header, text, options) in described(shipped).items():
        lines += ["", f"## {f'`{header}`' if header else 'Top level'}", ""]
        lines += [cell(text), ""] if text else []
        lines += table("option", options, known[name])
    return "\n".join(lines) + "\n"


def table(of: str, texts: dict[str, str], known: dict[str, Any]) -> list[str]:
    if of == "variable":
        rows = [f"| `{name}` | {cell(text)} |" for name, text in texts.items()]
        return ["| variable | what it is in place of |", "|---|---|", *rows]
    rows = [
        f"| `{name}` | {written(known[name]) if name in known else missing(text)} | {cell(text)} |"
        for name, text in texts.items()
    ]
    return ["| option | default | what it does |", "|---|---|---|", *rows]


def missing(text: str) -> str:
    return REQUIRED if "No default." in text else "see beside"


def cell(text: str) -> str:
    return text.removesuffix(" Default:").replace("|", "\\|").replace("*", "\\*")


if __name__ == "__main__":
    sys.stdout.write(page(SHIPPED.read_text()))
