"""No block of code in docs/ is there that nothing runs or checks."""

from __future__ import annotations

import re

import pytest

from tests.docs.reading import DOCS, SCRIPTS, Block, blocks
from tests.docs.test_receivers import programs

# What can't be run, with the reason: by document and the block's first line.
NOT_RUN = {
    ("architecture.md", " client"): "a drawing; tests/docs/test_architecture.py reads its files",
    ("reliability.md", "python -m tests.simulation SEED"): "SEED is that of a year that failed",
}
# Of documents that are not run as a whole, tests/test_docs.py runs each curl, and holds the others
# to the command line and the Makefile.
# A moment that curl asks about is run with it.
CHECKED_COMMANDS = re.compile(r"(?:curl|meterd|make) |export \w+=\$\(date ")
ALL = [block for document in sorted(DOCS.glob("*.md")) for block in blocks(document)]


def is_run(block: Block) -> bool:
    """The cases say by which test."""
    match block.language:
        case "bash":
            lines = block.text.replace("\\\n", " ").splitlines()
            return block.document in SCRIPTS or all(
                not line or line.startswith("#") or CHECKED_COMMANDS.match(line) for line in lines
            )
        case "python" | "javascript":
            return block.text in programs().values()  # test_receivers
        case "toml":
            return True  # test_docs decodes every one
        case _:
            return False


@pytest.mark.parametrize("block", ALL, ids=lambda one: f"{one.document.name}-{one.language}")
def test_every_block_is_run_or_checked(block: Block) -> None:
    """Else it is listed above, with the reason."""
    excused = (block.document.name, block.text.split("  ")[0].splitlines()[0]) in NOT_RUN
    assert is_run(block) != excused, block.text


def test_fences_are_closed() -> None:
    """What is not found as a block is no test's: each fence is one's beginning or end."""
    for document in DOCS.glob("*.md"):
        fences = len(re.findall(r"^ *```", document.read_text(), re.MULTILINE))
        assert fences == 2 * len(blocks(document)), document.name


def test_what_is_excused_is_there() -> None:
    """A list of what is not run holds nothing that is gone."""
    firsts = {(block.document.name, block.text.split("  ")[0].splitlines()[0]) for block in ALL}
    assert set(NOT_RUN) <= firsts
