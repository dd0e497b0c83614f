"""What cannot be run on this machine is said at the end, and fails where everything must be run."""

from __future__ import annotations

import os
from typing import Final

import pytest

# Set by .ci/run: there a machine that lost its root or its compiler would go unnoticed for ever.
MUST_RUN: Final = "TORTURE_MUST_RUN"


def skip_if(hindrance: str | None) -> None:
    """Ends the test where there is one."""
    if hindrance is not None and os.environ.get(MUST_RUN):
        pytest.fail(f"not run, and {MUST_RUN} is set: {hindrance}", pytrace=False)
    if hindrance is not None:
        pytest.skip(hindrance)
