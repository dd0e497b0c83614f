"""Usage over windows: UTC periods of one length, and events in groups of what their metadata says.

A window is a whole period, so its totals are those that are kept anyway. Groups are counted from
events, a portion at a time: portions are merged as totals are, in any order. Nothing here knows
where totals and events come from.
"""

from __future__ import annotations

from collections import defaultdict
from operator import itemgetter
from typing import TYPE_CHECKING, Final

import msgspec

from meterd.domain.periods import Period, PeriodType
from meterd.domain.totals import Totals, merge, totals_of

if TYPE_CHECKING:
    from collections.abc import Iterable
    from decimal import Decimal

    from meterd.domain.events import UsageEvent

# The values of a group, in the order in which they were asked for; None where an event has none.
Group = tuple[str | None, ...]
# Whose totals are one: the event type, and the group within it.
GroupKey = tuple[str, Group]

UNGROUPED: Final[Group] = ()
_VALUES: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_TEXT: Final = msgspec.json.Encoder()
_STRING: Final = ord('"')


class UsageQuery(msgspec.Struct, frozen=True):
    """One customer's usage in windows of ``[from_ms, to_ms)``, which are whole; None is no bound.

    ``group_by`` are names of metadata. ``filters`` has for such names the texts (``group_text``)
    that are let through: an event must have one of them, of every name.
    """

    customer_id: str
    window: PeriodType
    event_type: str | None = None
    from_ms: int | None = None
    to_ms: int | None = None
    group_by: tuple[str, ...] = ()
    filters: dict[str, frozenset[str]] = {}

    @property
    def needs_events(self) -> bool:
        """Whether stored totals do not answer it."""
        return bool(self.group_by or self.filters)


class Customer(msgspec.Struct, frozen=True):
    """One that an event came of, and when the first was received."""

    id: str
    first_seen_ms: int


class WindowTotals(msgspec.Struct, frozen=True):
    """One customer's totals of a period by event type, as they stand: running, if not closed."""

    period: Period
    closed: bool
    by_type: dict[str, Totals]


class CustomerUsage(msgspec.Struct, frozen=True):
    """A customer's totals of one period; ``first_seen_ms`` is None of whom no event ever came."""

    customer_id: str
    first_seen_ms: int | None
    window: WindowTotals


class UsagePortion(msgspec.Struct, frozen=True):
    """What some events of a window come to; ``before`` is where to go on, None at the end."""

    groups: dict[GroupKey, Totals]
    before: bytes | None


class UsageRow(msgspec.Struct, frozen=True):
    """The totals of one event type, and group if there are groups, in one window."""

    period: Period
    closed: bool
    event_type: str
    group: Group
    totals: Totals


class Groups:
    """The groups of one window while its events are read; ``texts`` is how much their names take.

    Both grow with what customers put into their metadata: who adds portions looks at them.
    """

    def __init__(self) -> None:
        self._found: dict[GroupKey, Totals] = {}
        self.texts = 0

    def __len__(self) -> int:
        return len(self._found)

    def add(self, portion: dict[GroupKey, Totals]) -> None:
        for key, totals in portion.items():
            before = self._found.get(key)
            if before is None:
                self.texts += sum(len(text) for text in key[1] if text is not None)
            self._found[key] = totals if before is None else merge(before, totals)

    def rows(self, window: WindowTotals) -> list[UsageRow]:
        """By event type, then by group: what has no value first."""
        return [
            UsageRow(window.period, window.closed, event_type, group, totals)
            for (event_type, group), totals in sorted(self._found.items(), key=_order)
        ]


def stored_rows(window: WindowTotals) -> list[UsageRow]:
    """The window's totals as rows, by event type."""
    return [
        UsageRow(window.period, window.closed, event_type, UNGROUPED, totals)
        for event_type, totals in sorted(window.by_type.items())
    ]


def group_events(
    events: Iterable[tuple[UsageEvent, bytes]], query: UsageQuery
) -> dict[GroupKey, Totals]:
    """The totals of those of the events that the filters let through, by group.

    With each event goes its position (``event_ids.position``), by which first and last are known.
    """
    counted: defaultdict[GroupKey, list[tuple[bytes, Decimal]]] = defaultdict(list)
    known: dict[bytes, Group | None] = {}
    for event, at in events:
        metadata = event.metadata
        if metadata in known:
            group = known[metadata]
        else:
            group = known[metadata] = _group_of(metadata, query)
        if group is not None:
            counted[event.event_type, group].append((at, event.value))
    return {key: _totals_of(found) for key, found in counted.items()}


def group_text(value: msgspec.Raw | None) -> str | None:
    """What a value of metadata is grouped by and filtered by: a string is its own text, anything
    else its JSON, as it was sent but for white space. None for null, and where there is none.
    """
    if value is None:
        return None
    text = _TEXT.encode(value)
    if text[0] == _STRING:
        return msgspec.json.decode(text, type=str)
    return None if text == b"null" else msgspec.json.format(text, indent=-1).decode()


def _group_of(metadata: bytes, query: UsageQuery) -> Group | None:
    """None for what a filter does not let through."""
    values = _VALUES(metadata)
    for name, texts in query.filters.items():
        if group_text(values.get(name)) not in texts:
            return None
    return tuple(group_text(values.get(name)) for name in query.group_by)


def _totals_of(found: list[tuple[bytes, Decimal]]) -> Totals:
    found.sort(key=itemgetter(0))
    return totals_of([value for _, value in found], found[0][0], found[-1][0])


def _order(item: tuple[GroupKey, Totals]) -> tuple[str, list[tuple[bool, str]]]:
    (event_type, group), _ = item
    return event_type, [(text is not None, text or "") for text in group]
