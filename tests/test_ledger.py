"""Every engine is a Ledger: mypy holds it to the types, this test to the names."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import pytest

from meterd.embedded.engine import EmbeddedLedger
from meterd.ledger import Ledger
from tests.model_ledger import ModelLedger

if TYPE_CHECKING:

    def _are_ledgers(embedded: EmbeddedLedger, model: ModelLedger) -> tuple[Ledger, Ledger]:
        return embedded, model


PROMISED = [name for name in vars(Ledger) if not name.startswith("_")]


@pytest.mark.parametrize("engine", [EmbeddedLedger, ModelLedger])
@pytest.mark.parametrize("name", PROMISED)
def test_engines_take_what_the_protocol_says(engine: type, name: str) -> None:
    """Parameters by the same names, in the same order, with the same defaults."""
    promised, kept = getattr(Ledger, name), getattr(engine, name)
    assert inspect.iscoroutinefunction(kept) == inspect.iscoroutinefunction(promised)
    assert [
        (one.name, one.kind, one.default) for one in inspect.signature(kept).parameters.values()
    ] == [
        (one.name, one.kind, one.default) for one in inspect.signature(promised).parameters.values()
    ]
