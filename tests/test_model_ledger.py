"""The plain model passes the suite that engines pass: what it says may be held against them."""

from __future__ import annotations

from decimal import Decimal

import pytest
import trio

from meterd.domain.operations import Operation
from tests.ledger_bench import START_MS, SettableClock
from tests.ledger_conformance import LedgerConformance
from tests.model_ledger import APPEND_MAX, ModelLedger, read


class ModelBench:
    """See ``Bench``: a model has nothing to restart, but forgets what engines keep in memory."""

    def __init__(self) -> None:
        self.clock = SettableClock(START_MS)
        self.ledger = ModelLedger(self.clock)
        self.too_many = APPEND_MAX + 1

    async def restart(self) -> None:
        await trio.lowlevel.checkpoint()
        self.ledger.restarted()


@pytest.fixture
def bench() -> ModelBench:
    return ModelBench()


class TestModelLedger(LedgerConformance):
    pass


@pytest.mark.parametrize(
    ("operation", "result"),
    [
        (Operation.SUM, "0.3"),
        (Operation.AVG, "0.1"),
        (Operation.MIN, "-1"),
        (Operation.MAX, "1.2"),
        (Operation.COUNT, "3"),
        (Operation.FIRST, "0.1"),
        (Operation.LAST, "-1"),
    ],
)
def test_the_model_reads_all_seven_operations(operation: Operation, result: str) -> None:
    """Worked out by hand, so that the model leans on nothing it is to judge."""
    values = [Decimal("0.1"), Decimal("1.2"), Decimal(-1)]
    assert read(values, operation) == Decimal(result)


def test_an_average_is_rounded_half_even_to_34_digits() -> None:
    """Two thirds end in a 7; a tie goes to the even digit."""
    thirds = [Decimal(1), Decimal(1), Decimal(0)]
    assert str(read(thirds, Operation.AVG)) == "0." + "6" * 33 + "7"
    ties = [Decimal("1e-33") + 1, Decimal(1) + Decimal("2e-33")]
    assert read(ties, Operation.AVG) == Decimal(1) + Decimal("2e-33")
