"""docs/architecture.md speaks of files that there are, and of every actor."""

from __future__ import annotations

import re

from tests.docs.reading import DOCS, ROOT

PAGE = (DOCS / "architecture.md").read_text()
FOLDERS = "domain|embedded|work|edge"


def test_every_file_it_names_is_there() -> None:
    """In the drawing, too."""
    named = set(re.findall(rf"\b((?:{FOLDERS})/\w+)", PAGE)) | {"daemon", "ledger", "__init__"}
    assert len(named) > 30
    assert {one for one in named if not (ROOT / "meterd" / f"{one}.py").is_file()} == set()


def test_every_actor_is_in_it() -> None:
    """Whose file says that it is an actor, and why."""
    actor = re.compile(r"^(?:An actor|Actors) because|^.* an actor with its", re.MULTILINE)
    actors = {
        str(path.relative_to(ROOT / "meterd").with_suffix(""))
        for path in (ROOT / "meterd").rglob("*.py")
        if actor.search(path.read_text())
    }
    assert len(actors) >= 6
    table = PAGE.partition("## The actors")[2].partition("## The store")[0]
    assert {one for one in actors if f"`{one}`" not in table} == set()
