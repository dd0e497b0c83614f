"""Reads the documents: which there are, and the blocks of code in them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent.parent
README = ROOT / "README.md"
DOCS = ROOT / "docs"
API = DOCS / "api.md"
DOCUMENTS = [
    README,
    ROOT / "CHANGELOG.md",
    *sorted(DOCS.glob("*.md")),
    ROOT / "examples" / "README.md",
]
BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
CODE = re.compile(r"`([^`\n]+)`")


class Block(NamedTuple):
    """A block of code."""

    document: Path
    language: str
    text: str


def blocks(document: Path) -> list[Block]:
    return [
        Block(document, language, re.sub(f"^{indent}", "", text, flags=re.MULTILINE))
        for indent, language, text in BLOCK.findall(document.read_text())
    ]


def blocks_of(document: Path, language: str) -> list[Block]:
    return [block for block in blocks(document) if block.language == language]


def all_blocks(language: str) -> list[Block]:
    return [block for document in DOCUMENTS for block in blocks_of(document, language)]
