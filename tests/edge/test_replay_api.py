"""Replays over HTTP: counted, made, gone on with, refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from meterd.edge import delivery_api
from tests.edge.api_bench import CONFIG, all_settled, delivering, serving
from tests.edge.test_delivery_api import CRM, closed, error_of, ok

if TYPE_CHECKING:
    import pytest


async def test_a_replay_is_counted_and_then_made() -> None:
    """To an endpoint that is new; a second one sends again."""
    async with serving() as api:
        await closed(api, "a", "b")
        api.config = msgspec.structs.replace(CONFIG, webhooks=(*CONFIG.webhooks, CRM))
        asked = {"endpoint": "crm", "from": "2026-03-10"}
        counted = await ok(api, "POST", "/deliveries/replay", json={**asked, "dryRun": True})
        assert counted == {"dryRun": True, "again": 0, "created": 2}
        assert await ok(api, "GET", "/deliveries?endpoint=crm") == []
        async with delivering(api):
            made = await ok(api, "POST", "/deliveries/replay", json=asked)
            assert made == {"dryRun": False, "again": 0, "created": 2}
            await all_settled()
            again = await ok(api, "POST", "/deliveries/replay", json=asked)
            await all_settled()
        assert again == {"dryRun": False, "again": 2, "created": 0}
        found = await ok(api, "GET", "/deliveries?endpoint=crm")
        assert [(one["status"], one["attempts"]) for one in found] == [("delivered", 2)] * 2


async def test_a_long_replay_goes_on_with_its_cursor(monkeypatch: pytest.MonkeyPatch) -> None:
    """So many at once and so many in one request; each aggregation once."""
    monkeypatch.setattr(delivery_api, "REPLAYED_AT_ONCE", 2)
    monkeypatch.setattr(delivery_api, "REPLAYED_MAX", 4)
    async with serving() as api:
        await closed(api, *(f"c{number}" for number in range(9)))
        api.config = msgspec.structs.replace(CONFIG, webhooks=(CRM,))
        asked = {"endpoint": "crm", "from": "2026-03-10T09:00:00Z", "to": "2026-03-10T10:00:00Z"}
        counts, cursor = [], None
        while True:
            done = await ok(
                api,
                "POST",
                "/deliveries/replay",
                json=asked if cursor is None else {**asked, "cursor": cursor},
            )
            counts.append(done["created"])
            cursor = done.get("cursor")
            if cursor is None:
                break
        assert counts == [4, 4, 1]
        stream = await ok(api, "GET", "/deliveries?endpoint=crm&afterSequence=0")
        assert len({one["customerId"] for one in stream}) == 9


async def test_an_unfit_replay_is_refused() -> None:
    """The rest is in test_replay_request.py."""
    async with serving() as api:
        answer = await api.ask("POST", "/deliveries/replay", content=b'{"endpoint":"x"}')
        assert error_of(answer) == (400, "endpoint must be one of: billing")
        too_long = await api.ask("POST", "/deliveries/replay", content=b" " * 400_000)
        assert too_long.status_code == 413
