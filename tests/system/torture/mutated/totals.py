"""Mutants of totals: how exactly they are added up."""

from __future__ import annotations

from decimal import Context, InvalidOperation

from tests.system.torture.mutants import mutant, patch


@mutant
def sums_of_700_digits() -> None:
    """A sum is rounded, if it is one of the greatest and the least that are let in."""
    _round_to(700)


@mutant
def sums_of_34_digits() -> None:
    """A sum is what IEEE 754 has room for."""
    _round_to(34)


def _round_to(digits: int) -> None:
    from meterd.domain import totals

    patch(totals, "EXACT", Context(prec=digits, traps=[InvalidOperation]))
