"""The plain model passes the suite of thresholds: what it says may be held against engines."""

from __future__ import annotations

import pytest
import trio

from tests.ledger_bench import START_MS, SettableClock
from tests.model_thresholds import ModelThresholds
from tests.threshold_deliveries_conformance import ThresholdDeliveriesConformance
from tests.threshold_looks_conformance import ThresholdLooksConformance
from tests.thresholds_conformance import ThresholdsConformance


class ModelBench:
    """See ``ledger_bench.Bench``."""

    def __init__(self) -> None:
        self.clock = SettableClock(START_MS)
        self.ledger = ModelThresholds(self.clock)

    async def restart(self) -> None:
        await trio.lowlevel.checkpoint()
        self.ledger.restarted()


@pytest.fixture
def bench() -> ModelBench:
    return ModelBench()


class TestModelThresholdLooks(ThresholdLooksConformance):
    pass


class TestModelThresholds(ThresholdsConformance):
    pass


class TestModelThresholdDeliveries(ThresholdDeliveriesConformance):
    pass
