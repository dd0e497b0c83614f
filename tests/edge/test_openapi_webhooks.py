"""The types of webhooks as they are described, against webhooks as they are shown."""

from __future__ import annotations

import msgspec

from meterd.domain.config import public_endpoint
from meterd.edge import openapi_webhooks as described
from tests.edge.api_bench import CONFIG, delivering, serving
from tests.edge.openapi_document import strays


async def test_webhooks_have_what_is_described() -> None:
    """Before anything was sent, behind a test, and enabled."""
    async with serving() as api:
        [before] = (await api.ask("GET", "/webhooks")).json()
        assert strays(described.Webhook, before) == set()
        async with delivering(api):
            probed = await api.ask("POST", "/webhooks/billing/test")
            assert strays(described.Probed, probed.content) == set()
            enabled = await api.ask("POST", "/webhooks/billing/enable")
            assert strays(described.Webhook, enabled.content) == set()
            statistics = enabled.json()["statistics"]
            assert strays(described.Statistics, statistics) == set()


def test_a_webhook_is_configured_as_described() -> None:
    """Every option that is shown, and in a rotation both secrets."""
    [endpoint] = CONFIG.webhooks
    rotating = msgspec.structs.replace(endpoint, secrets=("whsec_one_of_two", "whsec_two_of_two"))
    for one in (endpoint, rotating):
        shown = public_endpoint(one)
        assert strays(described.ConfiguredWebhook, shown) == set()
        assert strays(described.Webhook, {**shown, **_STATE}) == set()


_STATE = {"state": "on", "lastSequence": 0, "pending": 0, "parked": 0, "countedTo": 10_000}
