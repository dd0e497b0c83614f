"""The short tier of the torture suite, and the proof that each harness can fail."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.system.torture.catalogue import empty_folder, harnesses, new_seed
from tests.system.torture.harness import Run
from tests.system.torture.hindered import skip_if

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.system.torture.harness import Harness

MUTANTS = [
    pytest.param(harness, mutant, id=f"{harness.name}-{mutant}")
    for harness in harnesses()
    for mutant in harness.mutants
]


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("harness", harnesses(), ids=lambda harness: harness.name)
def test_it_does_no_harm(harness: Harness, record_property: Callable[[str, object], None]) -> None:
    """Nothing acknowledged is lost, nothing counts twice, nothing wrong goes undetected."""
    skip_if(harness.hindrance())
    seed = new_seed()
    with empty_folder() as folder:
        tally = harness.run(Run(harness.short, seed, folder))
    record_property("torture", f"{harness.name}: {tally.line(harness.unit)} (seed {seed})")
    assert not tally.broken, f"seed {seed}: {tally.line(harness.unit)}\n{tally.first}"
    assert tally.done >= harness.short, f"only {tally.done} of {harness.short}"


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("harness", "mutant"), MUTANTS)
def test_its_harness_notices(
    harness: Harness, mutant: str, record_property: Callable[[str, object], None]
) -> None:
    """A meterd without that promise is found broken: the harness can fail."""
    skip_if(harness.hindrance())
    seed = new_seed()
    with empty_folder() as folder:
        count = harness.mutant_count or 40 * harness.short
        tally = harness.run(Run(count, seed, folder, mutant=mutant))
    record_property("torture", f"mutant {mutant} caught by {harness.name}: {tally.first[:100]}")
    assert tally.broken, f"seed {seed}: {harness.name} did not notice {mutant}"
