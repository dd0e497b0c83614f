"""What docs/reliability.md says to run can be run."""

from __future__ import annotations

from tests.docs.reading import DOCS, ROOT
from tests.docs.shell import follow, pieces


def test_a_year_is_lived_again_by_its_seed() -> None:
    """To the byte: both times it comes to the same digest of all that happened."""
    [script] = pieces(DOCS / "reliability.md")
    told = [follow(script, ROOT).partition("trace ")[2].split()[0] for _ in range(2)]
    assert len(told[0]) == 32
    assert told[0] == told[1]
