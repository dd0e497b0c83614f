"""Malformed requests at both lanes: a few here, many in the harness ``malformed`` of the torture
suite.
"""

from __future__ import annotations

import random
import re
from typing import TYPE_CHECKING

from tests.edge.lane_bench import SERVED
from tests.edge.malformed import CUSTOMER, REFUSED, is_carried, mutated, run, with_customer

if TYPE_CHECKING:
    from pathlib import Path

MUTATIONS = 500


def test_there_are_eighty_named_ones() -> None:
    """As many as the harness that this one comes from had."""
    assert len(REFUSED) >= 80


def test_each_mutation_has_a_customer_of_its_own() -> None:
    """In requests that are as sound as before."""
    raw = with_customer(SERVED["a batch's idempotency key"])
    assert raw.count(CUSTOMER) == 4
    assert raw.endswith(b"]")
    assert re.findall(rb"Content-Length: (\d+)", raw) == [b"137"] * 2
    assert b"\r\n\r\n" + b"[" in raw
    mutations = [mutated(random.Random(seed)) for seed in range(1000)]
    assert not any(CUSTOMER in each for each in mutations)


def test_an_answer_without_its_headers_is_seen() -> None:
    """Also the second of two."""
    whole = b"HTTP/1.1 200 \r\ncache-control: no-store\r\nx-content-type-options: nosniff\r\n\r\n"
    assert is_carried(whole * 2, 2)
    assert not is_carried(whole + b"HTTP/1.1 200 \r\n\r\n", 2)


async def test_malformed_requests(tmp_path: Path) -> None:
    """Answered alike by both lanes, refused where they must be, and stored where acknowledged.

    A failure names its seed and number.
    """
    seed = random.SystemRandom().randrange(2**31)
    seen = await run(MUTATIONS, seed, tmp_path)
    assert seen["named"] == 2 * len(REFUSED)
