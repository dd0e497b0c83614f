"""Webhooks over HTTP: as they stand, tried, enabled again."""

from __future__ import annotations

import json

import msgspec

from meterd.domain.outcomes import Outcome
from tests.edge.api_bench import CONFIG, all_settled, delivering, serving
from tests.edge.test_delivery_api import CRM, GONE, REFUSED, closed, error_of, ok


async def test_webhooks_with_what_is_known_of_them() -> None:
    """As configured, masked; how they stand, what waits, and what the worker counted."""
    async with serving() as api:
        [before] = await ok(api, "GET", "/webhooks")
        assert (before["id"], before["state"], before["lastSequence"]) == ("billing", "on", 0)
        assert "statistics" not in before
        await closed(api, "a", "b", "c")
        api.posts.outcome = GONE
        async with delivering(api):
            [gone] = await ok(api, "GET", "/webhooks")
            api.config = msgspec.structs.replace(CONFIG, webhooks=(CRM,))
            api.delivery.reconfigure()
            crm, billing = await ok(api, "GET", "/webhooks")
        assert (gone["state"], gone["goneSince"]) == ("gone", "2026-03-10T10:58:00.000Z")
        assert (gone["pending"], gone["parked"], gone["lastSequence"]) == (3, 0, 3)
        assert gone["url"] == "http://b.test/?token=***"
        counted = gone["statistics"]
        assert counted["failed"] == counted["attempts"] == counted["consecutiveFailures"] > 0
        assert counted["lastError"] == "HTTP 410: Gone"
        assert counted["lastFailureAt"] == "2026-03-10T10:58:00.000Z"
        assert counted["delivered"] == 0
        assert "lastSuccessAt" not in counted
        assert (crm["id"], crm["state"]) == ("crm", "on")
        assert billing == {
            "id": "billing",
            "state": "removed",
            "lastSequence": 3,
            "pending": 3,
            "parked": 0,
            "countedTo": 10_000,
        }


async def test_a_test_says_what_came_of_it() -> None:
    """In the answer, whose status is 200 in either case; nothing of it is kept."""
    async with serving() as api:
        async with delivering(api):
            for outcome in (Outcome(status=204), REFUSED):
                api.posts.outcome = outcome
                told = await ok(api, "POST", "/webhooks/billing/test", content=b"")
                assert told["delivered"] == (outcome.error is None)
                assert (told["status"], told.get("error")) == (outcome.status, outcome.error)
                assert json.loads(told["body"])["type"] == "webhook.test"
                assert dict(told["requestHeaders"])["webhook-id"] == told["id"]
                assert api.posts.sent[-1] == (told["id"], told["body"].encode())
                assert (await api.ask("GET", f"/deliveries/{told['id']}")).status_code == 404
        assert await ok(api, "GET", "/deliveries") == []


async def test_a_webhook_that_cannot_be_tested() -> None:
    """Unknown: 404; off, or taken out: 409. Each says why, and what to do."""
    meanwhile = "; a replay sends what closed meanwhile"
    taken_out = "is not in the configuration any more"
    async with serving() as api:
        await closed(api, "a")
        off = msgspec.structs.replace(CONFIG.webhooks[0], enabled=False)
        api.config = msgspec.structs.replace(CONFIG, webhooks=(off,))
        async with delivering(api):
            for do in ("test", "enable"):
                api.config = msgspec.structs.replace(CONFIG, webhooks=(off,))
                assert error_of(await api.ask("POST", f"/webhooks/billing/{do}")) == (
                    409,
                    f"billing has enabled = false in the configuration: change it there{meanwhile}",
                )
                api.config = msgspec.structs.replace(CONFIG, webhooks=())
                assert error_of(await api.ask("POST", f"/webhooks/billing/{do}")) == (
                    409,
                    f"billing {taken_out}: put it back there under this id{meanwhile}",
                )
                assert error_of(await api.ask("POST", f"/webhooks/nobody/{do}")) == (
                    404,
                    'No webhook has the id "nobody": GET /webhooks lists them',
                )


async def test_a_webhook_that_was_and_has_nothing_left_is_not_listed() -> None:
    """Nothing waits for it to come back, and nothing is parked; its deliveries are still there."""
    async with serving() as api:
        await closed(api, "a")
        async with delivering(api):
            api.config = msgspec.structs.replace(CONFIG, webhooks=())
            assert await ok(api, "GET", "/webhooks") == []
            assert len(await ok(api, "GET", "/deliveries?endpoint=billing")) == 1
            assert (await api.ask("POST", "/webhooks/billing/enable")).status_code == 404


async def test_a_test_under_dry_run_was_not_delivered() -> None:
    """Nobody received it."""
    async with serving() as api:
        api.config = msgspec.structs.replace(CONFIG, dry_run=True)
        async with delivering(api):
            told = await ok(api, "POST", "/webhooks/billing/test")
        assert (told["delivered"], told["dryRun"]) == (False, True)
        assert api.posts.sent == []


async def test_a_webhook_that_is_enabled_gets_what_waited() -> None:
    """When it is due; the answer shows how it stands."""
    async with serving() as api:
        await closed(api, "a")
        api.posts.outcome = GONE
        async with delivering(api):
            api.posts.outcome = Outcome(status=200)
            shown = await ok(api, "POST", "/webhooks/billing/enable")
            assert (shown["id"], shown["state"]) == ("billing", "on")
            api.clock.advance(seconds=6)  # when its next attempt is due
            await all_settled()
            [done] = await ok(api, "GET", "/deliveries")
        assert (done["status"], done["attempts"]) == ("delivered", 2)
