"""Twenty thousand malformed requests at both lanes; ``tests/edge/malformed.py`` sends more."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from tests.edge.malformed import REFUSED, printed, run

if TYPE_CHECKING:
    from pathlib import Path

ROUNDS = 5
MUTATIONS = 20_000


def test_there_are_eighty_named_ones() -> None:
    """As many as the harness that this one comes from had."""
    assert len(REFUSED) >= 80


@pytest.mark.timeout(300)
@pytest.mark.parametrize("part", range(ROUNDS))
async def test_malformed_requests(tmp_path: Path, part: int) -> None:
    """Answered alike by both lanes, refused where they must be, and stored where acknowledged.

    A failure names its seed and number.
    """
    seed = random.SystemRandom().randrange(2**32)
    rows = await run(MUTATIONS // ROUNDS, seed, tmp_path)
    print(printed(seed, rows))
