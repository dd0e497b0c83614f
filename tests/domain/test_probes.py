"""The message that tries an endpoint."""

from __future__ import annotations

import json

from meterd.domain.deliveries import delivery_id
from meterd.domain.probes import ID_LIMIT, probe


def test_a_probe_says_what_it_is() -> None:
    """Its type, which no aggregation has, its endpoint, and when it was made."""
    made = probe("billing", 7, 1_768_389_300_999)
    assert json.loads(made.body) == {
        "type": "webhook.test",
        "endpoint": "billing",
        "data": {"message": "A test of this webhook: nothing was metered, and nothing follows."},
        "created": 1_768_389_300,
    }
    assert b" :" not in made.body
    assert (made.sequence, made.attempts) == (0, 1)


def test_its_id_has_the_form_of_every_delivery_id() -> None:
    """So a receiver that stores ids needs nothing new; no two are alike."""
    smallest, largest = probe("a", 0, 0).id, probe("a", ID_LIMIT - 1, 0).id
    assert smallest == "msg_" + "0" * 32
    assert largest == "msg_" + "f" * 32
    assert len(largest) == len(delivery_id("a", "b", 1))
