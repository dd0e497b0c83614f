"""How the daemons are configured that are killed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tests.system.torture.daemons.clients import EVENT_TYPES
from tests.system.torture.daemons.sink import BATCHES, MOODS
from tests.system.torture.daemons.threshold_checks import ALERT
from tests.system.torture.daemons.webhook_checks import SECRET

if TYPE_CHECKING:
    from tests.system.torture.daemons.sink import Sink

GRACE_MS: Final = 1_000
# Longer than a life goes on behind its last event.
KEPT_DAYS: Final = 500
_CONFIG: Final = """
periods = ["hourly", "daily", "weekly", "monthly", "yearly"]
grace = "1s"
{event_types}
{alert}
{webhooks}
[retention]
events = "{days}d"
"""
_WEBHOOK: Final = """
[[webhooks]]
id = "{name}"
url = "{url}"
secret = "{secret}"
allow_private = ["127.0.0.0/8"]
batch = {batch}
"""


def configuration(sink: Sink) -> str:
    event_types = "\n".join(f'[events."{name}"]\nop = "{op}"' for name, op in EVENT_TYPES.items())
    webhooks = "\n".join(
        _WEBHOOK.format(name=name, url=sink.url(name), secret=SECRET, batch=BATCHES.get(name, 1))
        for name in MOODS
    )
    return _CONFIG.format(event_types=event_types, webhooks=webhooks, alert=ALERT, days=KEPT_DAYS)
