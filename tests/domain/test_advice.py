"""meterd/domain/advice.py"""

from __future__ import annotations

import json

import pytest

from meterd.domain.advice import advice, no_longer_published
from meterd.domain.config import Config, EventType, decode
from meterd.domain.operations import Operation
from tests.domain.test_config import EVERYTHING, SECRET_ENV, toml


def test_advice() -> None:
    """What is valid and probably not meant is said, without the secret."""
    assert advice(Config()) == [
        "no event types: every event is answered with 503",
        "no periods: nothing is aggregated and no webhook is sent",
    ]
    private, *_ = advice(toml(EVERYTHING, **SECRET_ENV))
    assert private.startswith("webhook localhost-3000-")
    assert "address 127.0.0.1 is private" in private
    config = toml(EVERYTHING.replace("whsec_old_secret", "hunter2"), **SECRET_ENV)
    guessed = "webhook billing: a secret under 16 characters can be guessed"
    assert guessed in advice(config)


def test_event_types_that_are_taken_out_are_named_in_their_order() -> None:
    """Those that stay, and new ones, are not."""
    after = Config(events={"stays": EventType(Operation.SUM), "new": EventType(Operation.MAX)})
    assert no_longer_published(["z", "stays", "a"], after) == ["z", "a"]
    assert no_longer_published([], after) == []


@pytest.mark.parametrize(
    ("bind", "is_said"),
    [
        ("0.0.0.0:8080", True),
        ("[::]:8080", True),
        ("192.0.2.7:80", True),
        ("meter.example:80", True),
        ("127.0.0.2:8080", False),
        ("[::1]:8080", False),
        ("localhost:8080", False),
    ],
)
def test_an_address_that_others_reach_without_tls_is_pointed_out(bind: str, is_said: bool) -> None:
    """With TLS, or on this machine alone, nobody reads along."""
    server = f'[server]\nbind = "{bind}"\n'
    said = f"address {bind}: without TLS, keys and events can be read on their way"
    found = "\n".join(advice(decode(server.encode(), form="toml", environ={})))
    assert (said in found) == is_said
    tls = f'{server}tls_certificate = "a"\ntls_key = "b"\n'
    assert said not in "\n".join(advice(decode(tls.encode(), form="toml", environ={})))


@pytest.mark.parametrize(
    ("secrets", "told"),
    [
        (["my-own-long-secret-for-crm-x"], "secret"),
        (["whsec_my_own_long_secret_for_crm"], "secret"),
        (["whsec_" + "A" * 31], "secret"),
        (["whsec_" + "A" * 88], "secret"),
        (["whsec_" + "A" * 32], None),
        (["whsec_" + "A" * 43 + "="], None),
        (["whsec_" + "A" * 43], None),
        (["whsec_" + "A" * 32, "my-own-long-secret-for-crm-x"], "second secret"),
    ],
)
def test_a_secret_that_libraries_cannot_use_is_pointed_out(
    secrets: list[str], told: str | None
) -> None:
    """It signs all the same, and only receivers of the old form can verify it; it is not shown."""
    text = f'[[webhooks]]\nid = "crm"\nurl = "https://a.example"\nsecret = {json.dumps(secrets)}\n'
    found = advice(decode(text.encode(), form="toml", environ={}))[2:]
    said = (
        f"webhook crm: {told}: not whsec_ and the base64 of 24 to 64 bytes: only"
        " X-Webhook-Signature can be verified with it"
    )
    if told == "second secret":
        said = said.replace("only X-Webhook-Signature can", "nothing can")
    assert found == ([said] if told else [])
    assert not any(secret in line for line in found for secret in secrets)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://127.0.0.1:3000/x", True),
        ("http://localhost:3000/x", True),
        ("http://192.168.1.5/x", True),
        ("http://10.0.0.7/x", False),
        ("https://example.com/x", False),
        ("http://93.184.216.34/x", False),
    ],
)
def test_a_receiver_that_cannot_be_reached_is_pointed_out(url: str, told: bool) -> None:
    """Before the first period ends, and with the line to add."""
    text = f'[[webhooks]]\nurl = "{url}"\nsecret = "{"x" * 32}"\nallow_private = ["10.0.0.0/8"]'
    config = decode(text.encode(), form="toml", environ={})
    assert any("allow_private" in line for line in advice(config)) == told


def test_all_that_localhost_leads_to_is_pointed_out() -> None:
    """Most systems have two addresses for it, and one that is refused refuses the name."""
    text = f'[[webhooks]]\nid = "a"\nurl = "http://localhost/"\nsecret = "whsec_{"A" * 32}"\n'
    [line] = advice(decode(text.encode(), form="toml", environ={}))[2:]
    assert 'allow_private = ["127.0.0.1/32", "::1/128"]' in line
    half = text + 'allow_private = ["127.0.0.1/32"]'
    [line] = advice(decode(half.encode(), form="toml", environ={}))[2:]
    assert 'add "::1/128" to allow_private' in line
