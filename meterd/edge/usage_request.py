"""What a request for usage asks for: windows, groups, filters, and what is wrong with them, named.

Unlike the reads of old, these refuse parameters that they do not know, that come twice, or that are
empty: one that was passed over would put too much on a bill.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final, NamedTuple

from meterd.domain.instants import format_instant
from meterd.domain.periods import PeriodType, period_at
from meterd.domain.sections import quoted
from meterd.domain.usage import UsageQuery
from meterd.edge.parameters import (
    Parameters,
    UnfitParameterError,
    refuse_empty,
    refuse_other,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

# Windows, or customers, in one answer; and rows.
LIMIT_MAX: Final = 10_000
GROUP_BY_MAX: Final = 4
_METADATA: Final = "metadata."
_FILTER: Final = "filter.metadata."
_ONCE: Final = ("customerId", "eventType", "from", "to", "window", "limit", "cursor")
_KNOWN: Final = (*_ONCE, "groupBy", f"{_FILTER}<name>")
# Where calendars end, for the store and for Python.
_FIRST_MS: Final = 0
_BEHIND_LAST_MS: Final = 253_370_764_800_000  # 9999-01-01


class UsageRequest(NamedTuple):
    """``limit`` is None where the whole answer is asked for; ``after_ms`` where a page goes on."""

    query: UsageQuery
    limit: int | None
    after_ms: int | None


def usage_asked(given: Iterable[tuple[str, str]]) -> UsageRequest:
    """What ``GET /usage`` was given, names with values."""
    values = _by_name(given)
    asked = Parameters({name: values[name][0] for name in _ONCE if name in values})
    customer_id = asked.text("customerId")
    if customer_id is None:
        raise UnfitParameterError("customerId must be given: usage is of one customer")
    window = asked.period_type("window") or PeriodType.DAILY
    from_ms, to_ms = _range(asked, window)
    group_by = tuple(_metadata_name(text) for text in values.get("groupBy", ()))
    if len(group_by) > GROUP_BY_MAX or len(set(group_by)) < len(group_by):
        raise UnfitParameterError(f"groupBy must be up to {GROUP_BY_MAX} different names")
    filters = {
        name.removeprefix(_FILTER): frozenset(texts)
        for name, texts in values.items()
        if name.startswith(_FILTER)
    }
    event_type = asked.text("eventType")
    query = UsageQuery(customer_id, window, event_type, from_ms, to_ms, group_by, filters)
    return UsageRequest(query, asked.limit_given(LIMIT_MAX), asked.window_cursor())


class LiveRequest(NamedTuple):
    """The period of that type at that moment, None for now."""

    period_type: PeriodType
    at_ms: int | None


def live_usage_asked(given: Iterable[tuple[str, str]]) -> LiveRequest:
    """What ``GET /customers/{customerId}/usage`` was given."""
    asked = Parameters(_once(given, ("period", "at")))
    period_type, at_ms = asked.period_type() or PeriodType.MONTHLY, asked.instant_ms("at")
    if at_ms is not None:
        _start_of(period_type, "at", at_ms)
    return LiveRequest(period_type, at_ms)


class CustomersRequest(NamedTuple):
    """``after`` is where a page goes on."""

    limit: int
    after: str | None


def customers_asked(given: Iterable[tuple[str, str]]) -> CustomersRequest:
    """What ``GET /customers`` was given."""
    asked = Parameters(_once(given, ("limit", "cursor")))
    return CustomersRequest(asked.limit(LIMIT_MAX), asked.customer_cursor())


def _by_name(given: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    values: defaultdict[str, list[str]] = defaultdict(list)
    for name, value in given:
        if name.startswith(_FILTER) and name != _FILTER:
            refuse_empty(name, value)
        else:
            refuse_other(name, value, _KNOWN)
        if name in _ONCE and name in values:
            raise _repeated(name)
        values[name].append(value)
    return values


def _once(given: Iterable[tuple[str, str]], names: tuple[str, ...]) -> dict[str, str]:
    values: dict[str, str] = {}
    for name, value in given:
        refuse_other(name, value, names)
        if name in values:
            raise _repeated(name)
        values[name] = value
    return values


def _repeated(name: str) -> UnfitParameterError:
    return UnfitParameterError(f"{name} must be given once")


def _metadata_name(text: str) -> str:
    name = text.removeprefix(_METADATA)
    if not name or name == text:
        raise UnfitParameterError(
            f"groupBy must be metadata.<name>, as in groupBy=metadata.plan, and not {quoted(text)}"
        )
    return name


def _range(asked: Parameters, window: PeriodType) -> tuple[int | None, int | None]:
    """Both at borders of windows: what is cut off of one is not known of stored totals."""
    from_ms, to_ms = asked.instant_ms("from"), asked.instant_ms("to")
    if to_ms is not None and _start_of(window, "to", to_ms + 1) == to_ms + 1:
        to_ms += 1  # a window's last millisecond, as meterd writes periodEnd
    for name, instant_ms in (("from", from_ms), ("to", to_ms)):
        if instant_ms is None:
            continue
        start_ms = _start_of(window, name, instant_ms)
        if instant_ms != start_ms:
            end_ms = period_at(window, start_ms).end_ms
            raise UnfitParameterError(
                f"{name} must be where a window that is {window} begins, in UTC:"
                f" {format_instant(start_ms)} or {format_instant(end_ms)}"
            )
    if from_ms is not None and to_ms is not None and from_ms >= to_ms:
        raise UnfitParameterError("to must be later than from: it is where the last window ends")
    return from_ms, to_ms


def _start_of(window: PeriodType, name: str, instant_ms: int) -> int:
    """Where the window begins that has this moment: not in 1969, as the first week of 1970 does."""
    if not _FIRST_MS <= instant_ms < _BEHIND_LAST_MS:
        raise UnfitParameterError(f"{name} must be in the years 1970 to 9998")
    start_ms = period_at(window, instant_ms).start_ms
    if start_ms < _FIRST_MS:
        raise UnfitParameterError(f"{name} must not be in a week that begins in 1969")
    return start_ms
