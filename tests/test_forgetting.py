"""Every engine forgets: mypy holds it to the types, this test to the names."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import pytest

from meterd.embedded.engine import EmbeddedLedger
from meterd.forgetting import Forgetting
from tests.model_ledger import ModelLedger

if TYPE_CHECKING:

    def _forget(embedded: EmbeddedLedger, model: ModelLedger) -> tuple[Forgetting, Forgetting]:
        return embedded, model


PROMISED = [name for name in vars(Forgetting) if not name.startswith("_")]


@pytest.mark.parametrize("engine", [EmbeddedLedger, ModelLedger])
@pytest.mark.parametrize("name", PROMISED)
def test_engines_take_what_the_protocol_says(engine: type, name: str) -> None:
    """Parameters by the same names, in the same order; coroutines where it says so."""
    promised, kept = getattr(Forgetting, name), getattr(engine, name)
    assert inspect.iscoroutinefunction(kept) == inspect.iscoroutinefunction(promised)
    assert list(inspect.signature(kept).parameters) == list(inspect.signature(promised).parameters)
