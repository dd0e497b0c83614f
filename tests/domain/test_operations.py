"""meterd/domain/operations.py"""

from __future__ import annotations

from meterd.domain.operations import Operation


def test_the_seven_operations_in_the_order_messages_name_them() -> None:
    """Configurations and the API know the operations by these words."""
    assert [str(op) for op in Operation] == ["sum", "avg", "min", "max", "count", "first", "last"]
