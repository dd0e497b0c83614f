"""What the model test draws from: events, rules, times and outcomes, few enough to meet again."""

from __future__ import annotations

from decimal import Decimal

import hypothesis.strategies as st

from meterd.domain.aggregations import ClosingRules
from meterd.domain.events import UsageEvent
from meterd.domain.operations import Operation
from meterd.domain.outcomes import Outcome
from meterd.domain.periods import DAY_MS, HOUR_MS, PeriodType

CUSTOMERS = st.sampled_from(["acme", "acme2", "b", "Ærø", "c1", "c2", "c3"])
TYPES = ("api.calls", "api", "Größe", "x")
VALUES = st.one_of(
    st.integers(-1000, 1000).map(Decimal),
    st.decimals(-10, 10, places=3),
    st.sampled_from(["1e308", "-1e308", "1E-400", "9007199254740993", "0.10", "-0"]).map(Decimal),
)
EVENT = st.builds(
    UsageEvent, CUSTOMERS, st.sampled_from(TYPES), VALUES, st.sampled_from([b"{}", b'{"a":1}'])
)
# Few customers, keys and contents, so that most are repeats or conflicts.
KEYED_EVENT = st.builds(
    UsageEvent,
    st.sampled_from(["acme", "b", "Ærø"]),
    st.sampled_from(["api", "x"]),
    st.sampled_from(["1", "1.0", "2"]).map(Decimal),
    st.sampled_from([b"{}", b'{"a":1,"b":2}', b'{"b":2,"a":1}']),
    st.sampled_from(["1", "2", "order-4711", "k" * 255, "é" * 255]),
)
EVENTS = st.lists(EVENT | KEYED_EVENT, min_size=1, max_size=8)
RULES = st.builds(
    ClosingRules,
    st.dictionaries(st.sampled_from(TYPES), st.sampled_from(Operation), min_size=1),
    st.one_of(st.just(frozenset(PeriodType)), st.frozensets(st.sampled_from(PeriodType))),
    st.sampled_from([("billing",), ("billing", "crm"), ()]),
)
# Around the present of the machine, in steps that fall on and beside the bounds of periods.
AGES = st.none() | st.sampled_from([-1, 0, 1, 60_000, HOUR_MS, DAY_MS, 40 * DAY_MS, 800 * DAY_MS])
LIMITS = st.integers(1, 12)
ENDPOINTS = st.sampled_from(["billing", "crm"])
OUTCOMES = st.sampled_from([Outcome(), Outcome(dry_run=True), Outcome("Request timeout")])
