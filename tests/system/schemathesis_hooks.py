"""What schemathesis loads beside its own checks: what schema-valid data may be refused for.

A schema says what a field looks like, not what else must be so: that a cursor came from an earlier
answer, that a window begins there, how long ago something was. Each such refusal has its sentence
here; any other is a document that promises too much.
"""

from __future__ import annotations

import re
from typing import Any, Final

import schemathesis

SENTENCES: Final = (
    # Opaque, and taken from an earlier answer.
    "cursor must be taken from the Link header of an earlier answer",
    "cursor must be that of an earlier answer",
    # Calendars and clocks.
    "(at|from|to) must be in the years 1970 to 9998",
    "(from|to) must be where a window that is .* begins",
    "to must be later than from",
    "to must not be before from",
    "from must not be in the future",
    "timestamp must be at most .* (ago|ahead)",
    # What is configured, or stored.
    "endpoint must be one of: billing",
    "eventType must be one of: .*",
    "idempotencyKey was used before for other content",
    # One field against another.
    "afterSequence needs endpoint",
    "idempotencyKey must be that of the header Idempotency-Key",
    # Counted in bytes, where a schema counts characters.
    "customerId must be at most 256 bytes of UTF-8",
)
REFUSALS: Final = re.compile("|".join(SENTENCES))
REFUSED: Final = (400, 422)


@schemathesis.check
def refused_for_what_no_schema_says(
    ctx: schemathesis.CheckContext, response: Any, case: schemathesis.Case[Any]
) -> None:
    """Schema-valid data is taken, or refused by one of these sentences, each of its faults."""
    mode = case.meta.generation.mode if case.meta is not None else None
    if response.status_code not in REFUSED or mode is not schemathesis.GenerationMode.POSITIVE:
        return
    strange = [fault for fault in faults(response.json()) if not REFUSALS.match(fault)]
    if strange:
        raise AssertionError(f"schema-valid data was refused: {strange}")


def faults(answer: dict[str, Any]) -> list[str]:
    """Every sentence of a refusal that says what is wrong."""
    items = answer.get("validationErrors", ())
    return [
        *answer.get("details", ()),
        *(error for item in items for error in item["errors"]),
    ] or [answer["error"]]
