"""Both signature families against what receivers run: published vectors, the libraries
standardwebhooks and svix, and Node's crypto as an independent implementation.

The libraries read the time of day, so what they judge is signed around now.
"""

from __future__ import annotations

import base64
import json
import subprocess
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
import standardwebhooks
import svix.webhooks

from meterd.domain.javascript import encode
from meterd.domain.signatures import sign, signing_key

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER_SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
# As the old system's documents show it: not base64, so its text is the key in both families.
PLAIN_SECRET = "whsec_your_webhook_secret"
MESSAGE_ID = "msg_p5jXN8AQM9LWM0D4loKWxJek"
BODY = encode({"customerId": "Ærø", "data": {"events": {"api.calls": Decimal("0.30")}}})

# Both libraries have one interface; older releases of svix have an exception of their own.
LIBRARIES = [standardwebhooks.Webhook, svix.webhooks.Webhook]
Library = Callable[[str | bytes], Any]
each_library = pytest.mark.parametrize("library", LIBRARIES, ids=["standardwebhooks", "svix"])
REFUSED = (standardwebhooks.WebhookVerificationError, svix.webhooks.WebhookVerificationError)


def signed_now(*secrets: str, age_s: int = 0) -> dict[str, str]:
    return sign(BODY, message_id=MESSAGE_ID, timestamp_s=int(time.time()) - age_s, secrets=secrets)


def test_the_published_vector_and_the_old_header_for_it() -> None:
    """All five headers for the published Standard Webhooks example."""
    headers = sign(
        b'{"test": 2432232314}',
        message_id=MESSAGE_ID,
        timestamp_s=1614265330,
        secrets=[SECRET],
    )
    assert headers == {
        "X-Webhook-Signature": (
            "v1=2e37df5d4a028c51a7f3133d64ae1e300d2c2c900f1b1d49d4369ad2530f8964"
        ),
        "X-Webhook-Timestamp": "1614265330",
        "webhook-id": MESSAGE_ID,
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


@each_library
@pytest.mark.parametrize("age_s", [0, 290, -290])
def test_the_libraries_accept_an_attempt_within_five_minutes(library: Library, age_s: int) -> None:
    """A receiver with either library reads the body that was signed."""
    assert library(SECRET).verify(BODY, signed_now(SECRET, age_s=age_s)) == json.loads(BODY)


@each_library
@pytest.mark.parametrize(
    "change",
    [
        {"webhook-id": "msg_another"},
        {"webhook-timestamp": str(int(time.time()) - 60)},
        {"webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_changed_header_is_refused(library: Library, change: dict[str, str]) -> None:
    """The id, the time and the signature are each bound to the others."""
    with pytest.raises(REFUSED):
        library(SECRET).verify(BODY, signed_now(SECRET) | change)


@each_library
def test_a_changed_body_is_refused(library: Library) -> None:
    """One byte more, less or other is another body."""
    headers = signed_now(SECRET)
    for tampered in (BODY + b" ", BODY[:-1], BODY.replace(b"0.3", b"0.4")):
        with pytest.raises(REFUSED):
            library(SECRET).verify(tampered, headers)


@each_library
@pytest.mark.parametrize("age_s", [301, -310])
def test_an_attempt_more_than_five_minutes_off_is_refused(library: Library, age_s: int) -> None:
    """An old attempt cannot be replayed, which is why each attempt is signed anew."""
    with pytest.raises(REFUSED):
        library(SECRET).verify(BODY, signed_now(SECRET, age_s=age_s))


@each_library
def test_another_key_is_refused(library: Library) -> None:
    """Who does not hold the secret cannot have signed."""
    with pytest.raises(REFUSED):
        library(OTHER_SECRET).verify(BODY, signed_now(SECRET))


@each_library
def test_a_plain_secret_signs_with_its_own_bytes(library: Library) -> None:
    """A secret that spells no key is itself the key, which the libraries take as bytes."""
    for secret in (PLAIN_SECRET, "geheim-ß"):
        library(secret.encode()).verify(BODY, signed_now(secret))


@each_library
@pytest.mark.parametrize("secrets", [(SECRET, OTHER_SECRET), (OTHER_SECRET, SECRET)])
def test_during_a_rotation_each_secret_verifies(library: Library, secrets: tuple[str, str]) -> None:
    """Receivers may change over at any moment of the rotation, and a third secret stays out."""
    headers = signed_now(*secrets)
    for secret in secrets:
        library(secret).verify(BODY, headers)
    with pytest.raises(REFUSED):
        library(base64.b64encode(bytes(24)).decode()).verify(BODY, headers)


def test_a_rotation_is_a_list_in_the_new_header_and_the_first_secret_in_the_old() -> None:
    """One space between the elements, each of the form ``v1,<base64>``; nothing else joins them."""
    both = sign(BODY, message_id=MESSAGE_ID, timestamp_s=1, secrets=[SECRET, PLAIN_SECRET])
    first = sign(BODY, message_id=MESSAGE_ID, timestamp_s=1, secrets=[SECRET])
    second = sign(BODY, message_id=MESSAGE_ID, timestamp_s=1, secrets=[PLAIN_SECRET])
    assert both == first | {
        "webhook-signature": f"{first['webhook-signature']} {second['webhook-signature']}"
    }
    elements = [element.split(",") for element in both["webhook-signature"].split(" ")]
    assert [version for version, _ in elements] == ["v1", "v1"]


def spelled(key: bytes) -> str:
    return "whsec_" + base64.b64encode(key).decode()


@pytest.mark.parametrize("size", [24, 25, 26, 32, 63, 64])
def test_a_spelled_key_is_its_bytes(size: int) -> None:
    """``whsec_`` and base64 of 24 to 64 bytes, padded or not, is that key."""
    key = bytes(range(0xFF, 0xFF - size, -1))
    assert signing_key(spelled(key)) == key
    assert signing_key(spelled(key).rstrip("=")) == key


@pytest.mark.parametrize(
    "secret",
    [
        spelled(bytes(23)),
        spelled(bytes(65)),
        spelled(b""),
        spelled(b"\xff" * 24).replace("/", "_"),  # the URL-safe alphabet is another one
        spelled(bytes(24)) + "\n",
        spelled(bytes(24))[:-1] + "ß",
        spelled(bytes(24))[:20] + "=" + spelled(bytes(24))[21:],
        spelled(bytes(24)).upper(),
        base64.b64encode(bytes(24)).decode(),
        PLAIN_SECRET,
        "geheim-ß",
    ],
)
def test_any_other_secret_is_its_utf8(secret: str) -> None:
    """What is almost a spelled key is taken as text, never as a guess at one."""
    assert signing_key(secret) == secret.encode()


@pytest.mark.parametrize("message_id", ["", "msg.1", "msg 1", "msg_1\r\n", "msg_ä", "\tmsg"])
def test_an_id_that_could_shift_what_is_signed_is_our_own_mistake(message_id: str) -> None:
    """A full stop would let part of the id pass as the time; other bytes would break the header."""
    with pytest.raises(AssertionError, match="visible ASCII"):
        sign(BODY, message_id=message_id, timestamp_s=1, secrets=[SECRET])


def test_a_body_is_never_sent_unsigned() -> None:
    """No secret means no headers at all, not headers without a signature."""
    with pytest.raises(AssertionError, match="has a secret"):
        sign(BODY, message_id=MESSAGE_ID, timestamp_s=1, secrets=[])


# A receiver of the old system: it parses the body and signs what JavaScript writes back.
RECEIVER = r"""
const { createHmac } = require("crypto");
const attempts = JSON.parse(require("fs").readFileSync(0, "utf8"));
const hmac = (key, text, form) => createHmac("sha256", key).update(text).digest(form);
console.log(JSON.stringify(attempts.map(({ secret, key, body }) => {
  const parsed = JSON.stringify(JSON.parse(body));
  const identified = `msg_p5jXN8AQM9LWM0D4loKWxJek.1768389300.${parsed}`;
  return {
    "X-Webhook-Signature": "v1=" + hmac(secret, `1768389300.${parsed}`, "hex"),
    "webhook-signature": "v1," + hmac(Buffer.from(key, "hex"), identified, "base64"),
  };
})));
"""


def test_node_computes_the_same_signatures_from_the_parsed_body() -> None:
    """An independent implementation agrees in both families, for every kind of secret and body."""
    bodies: list[object] = [
        {},
        {"events": {"10": Decimal("1E-7"), "9": 2**70, "a": Decimal("-0.0")}},
        {"customerId": "Ærø 中 😀 \u2028", "line": 'a"b\\c\n\x01'},
    ]
    keys = {
        SECRET: base64.b64decode(SECRET.removeprefix("whsec_")),
        OTHER_SECRET: bytes(range(32)),
        PLAIN_SECRET: PLAIN_SECRET.encode(),
        "geheim-ß": "geheim-ß".encode(),
    }
    attempts = [
        {"secret": secret, "key": keys[secret].hex(), "body": encode(body).decode()}
        for body in bodies
        for secret in keys
    ]
    answer = subprocess.run(
        ["node", "-e", RECEIVER],
        input=json.dumps(attempts).encode(),
        capture_output=True,
        check=True,
    )
    for attempt, computed in zip(attempts, json.loads(answer.stdout), strict=True):
        headers = sign(
            attempt["body"].encode(),
            message_id=MESSAGE_ID,
            timestamp_s=1768389300,
            secrets=[attempt["secret"]],
        )
        assert headers == headers | computed
