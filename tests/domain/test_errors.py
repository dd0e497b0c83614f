"""Failures that an operator or a caller may meet."""

from __future__ import annotations

import inspect

from meterd.domain import errors
from meterd.domain.errors import CorruptRecordError, MeterdError, StoreError


def test_every_failure_is_one_of_ours_and_says_what_it_means() -> None:
    """The command line catches MeterdError, and shows nothing else without a traceback."""
    found = [kind for _, kind in inspect.getmembers(errors, inspect.isclass)]
    assert len(found) > 5
    for kind in found:
        assert issubclass(kind, MeterdError)
        assert inspect.getdoc(kind), kind


def test_a_damaged_record_is_a_failure_of_the_store() -> None:
    """Who opens or reads a store need not know every way in which it may be unusable."""
    assert issubclass(CorruptRecordError, StoreError)
