"""The types of usage as they are described, against usage as it is shown."""

from __future__ import annotations

from decimal import Decimal

import msgspec

from meterd.domain.config import EventType
from meterd.domain.operations import Operation
from meterd.domain.periods import PeriodType, period_at
from meterd.domain.totals import totals_of
from meterd.domain.usage import Customer, CustomerUsage, UsageQuery, UsageRow, WindowTotals
from meterd.edge import openapi_usage as described
from meterd.edge.openapi_parts import CURSOR
from meterd.edge.usage_documents import customer_document, live_document, row_document
from meterd.edge.usage_request import _KNOWN
from tests.edge.openapi_document import strays

DAY = period_at(PeriodType.DAILY, 0)
TYPES = {"calls": EventType(Operation.SUM)}
TOTALS = totals_of([Decimal("0.1"), Decimal(2)], b"", b"")


def test_usage_has_what_is_described() -> None:
    """Also of a type that is not configured any more, in groups, and of nobody."""
    window = WindowTotals(DAY, True, {"calls": TOTALS, "gone": TOTALS})
    for seen_ms in (None, 5):
        shown = live_document(CustomerUsage("c", seen_ms, window), TYPES)
        assert strays(described.LiveUsage, shown) == set()
        for figures in msgspec.json.decode(shown)["usage"].values():
            assert strays(described.Figures, figures) == set()
            assert strays(described.ExactFigures, figures["exact"]) == set()
    assert strays(described.Customer, customer_document(Customer("c", 5))) == set()
    for names, group in (((), ()), (("a", "b"), ("x", None))):
        query = UsageQuery("c", PeriodType.DAILY, group_by=names)
        shown = row_document(UsageRow(DAY, False, "calls", group, TOTALS), query, TYPES)
        assert strays(described.UsageRow, shown) == set()


def test_every_parameter_is_described() -> None:
    """Those that a request is read for; the filters, whose names are anybody's, in the text."""
    known = {name for name in _KNOWN if not name.startswith("filter.")}
    assert {one.name for one in described.USAGE.parameters} == known
    assert "`filter.metadata.<name>`" in described.USAGE.about
    assert CURSOR in described.USAGE.parameters
