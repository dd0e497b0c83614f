"""What meterd says of itself, against how that is described."""

from __future__ import annotations

import msgspec

from meterd.domain.alerts import Alert
from meterd.domain.config import Config, EventType, LogLevel, Retention, public_config
from meterd.domain.operations import Operation
from meterd.domain.periods import PeriodType
from meterd.edge import openapi_service as described
from tests.edge.api_bench import CONFIG, serving
from tests.edge.openapi_document import strays


def test_a_configuration_is_shown_as_described() -> None:
    """With every option that it may have, and with none."""
    from decimal import Decimal

    alert = Alert("quota", "api.calls", PeriodType.MONTHLY, (Decimal(5),), "c")
    full = msgspec.structs.replace(
        CONFIG,
        events={"api.calls": EventType(Operation.SUM, "Calls", "calls")},
        alerts=(alert, msgspec.structs.replace(alert, customer=None)),
        retention=Retention(86_400_000),
        log_level=LogLevel.DEBUG,
    )
    for config in (Config(), full):
        shown = public_config(config)
        assert strays(described.Configuration, shown) == set()
        for name, kind in (("events", described.EventTypeShown), ("alerts", described.AlertShown)):
            listed = shown[name].values() if name == "events" else shown[name]
            assert [one for one in listed if strays(kind, one)] == []


async def test_open_routes_answer_as_described() -> None:
    """Also while meterd is not ready, its disk is full and its clock behind."""
    async with serving() as api:
        for path, kind in (
            ("/", described.About),
            ("/ping", described.Pong),
            ("/healthz", described.Alive),
            ("/readyz", described.Ready),
        ):
            assert strays(kind, (await api.ask("GET", path)).content) == set()
        api.is_full, api.ahead_ms = True, 5000
        shown = await api.ask("GET", "/readyz")
        assert {"status", "disk", "clock"} <= set(shown.json())
        assert strays(described.Ready, shown.content) == set()
