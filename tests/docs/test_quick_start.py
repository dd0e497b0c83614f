"""docs/quick-start.md is followed to the letter; docs/README.md leads to every document."""

from __future__ import annotations

import re
import socket
from typing import TYPE_CHECKING

from tests.docs.reading import DOCS, ROOT
from tests.docs.shell import BASE_URL, free_address, run
from tests.docs.terminal import clone

if TYPE_CHECKING:
    from pathlib import Path


def test_a_newcomer_gets_a_webhook(tmp_path: Path) -> None:
    """Configuration, event, running total, receiver, webhook; and the clone is as it was."""
    folder = clone(tmp_path)
    bind = free_address()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    said = run(
        DOCS / "quick-start.md",
        folder,
        {
            BASE_URL: f"http://{bind} METERD_BIND={bind}",
            "127.0.0.1:3000": f"127.0.0.1:{port}",
            "python3 ../": f"PORT={port} python3 ../",
        },
    )
    assert "Nothing to be done for 'venv'" in said
    assert "note: " not in said
    assert "💰 Billing: 5 API calls" in said
    assert (folder / "systemconfig.toml").read_bytes() == (ROOT / "systemconfig.toml").read_bytes()
    ignored = {line.strip("/") for line in (ROOT / ".gitignore").read_text().splitlines()}
    made = {path.name for path in folder.iterdir()} - {path.name for path in ROOT.iterdir()}
    assert made <= ignored, made
    assert '"api.calls":{"operation":"sum","value":3' in said
    assert re.search("delivered +", said.rpartition("+ meterd deliveries list")[2])


def test_the_index_leads_to_every_document() -> None:
    """And the README's end to the index."""
    linked = set(re.findall(r"\]\((\w[\w-]*\.md)\)", (DOCS / "README.md").read_text()))
    assert linked == {path.name for path in DOCS.glob("*.md")} - {"README.md"}
    more = (ROOT / "README.md").read_text().rpartition("## More")[2]
    assert "(docs/README.md)" in more
