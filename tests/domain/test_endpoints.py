"""meterd/domain/endpoints.py"""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest

from meterd.domain.endpoints import (
    Endpoint,
    endpoint_secrets,
    endpoint_url,
    id_of_url,
    masked_secret,
    masked_url,
    network,
)
from meterd.domain.sections import Refused, identifier


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com",
        "http://localhost:3000/webhooks/metering",
        "HTTPS://EXAMPLE.com/a",
        "http://[::1]:8080/x",
        "https://example.com/a%20b?token=x&y=@z",
        "http://127.0.0.1",
    ],
)
def test_a_url_is_taken_as_it_is(url: str) -> None:
    """Nothing is normalised: the receiver sees the path it was configured with."""
    assert endpoint_url(url) == url


NO_URL = "must be an http:// or https:// URL with a host and a valid port"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://example.com", NO_URL),
        ("example.com/hooks", NO_URL),
        ("//example.com", NO_URL),
        ("http://", NO_URL),
        ("http:///path", NO_URL),
        ("http://:80/", NO_URL),
        ("http://example.com:0/", NO_URL),
        ("http://example.com:65536/", NO_URL),
        ("http://example.com:x/", NO_URL),
        ("http://[::1", NO_URL),
        (
            "http://user:hunter2@example.com/",
            "must not hold a user name or password: the signature proves who sends",
        ),
        (
            "http://@example.com/",
            "must not hold a user name or password: the signature proves who sends",
        ),
        ("http://example.com/#a", "must not hold a fragment (#...): it would not be sent"),
        ("http://example.com/#", "must not hold a fragment (#...): it would not be sent"),
        (
            "http://good.example\\.evil.example/",
            "must not hold a backslash: programs disagree on which host is meant",
        ),
        (
            "http://example.com/a b",
            "must be ASCII without spaces: percent-encode the path, and write the host as xn--...",
        ),
        (
            "http://müller.example/",
            "must be ASCII without spaces: percent-encode the path, and write the host as xn--...",
        ),
        ("http://example.com/\t", "must not hold control characters or lone surrogates"),
        ("http://example.com/" + "a" * 2030, "must be 1 to 2048 bytes of UTF-8, not 2049"),
        (7, "must be a string, not a number"),
    ],
)
def test_what_is_no_endpoint_url(url: Any, message: str) -> None:
    """Each refusal says what is wrong, and none repeats a URL, which may hold a password."""
    with pytest.raises(Refused) as raised:
        endpoint_url(url)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("value", "secrets"),
    [("whsec_x", ("whsec_x",)), (["new", "old"], ("new", "old")), ("ü", ("ü",)), (["a"], ("a",))],
)
def test_one_secret_or_two(value: Any, secrets: tuple[str, ...]) -> None:
    """In the order given: the first signs the old header."""
    assert endpoint_secrets(value) == secrets


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", "must be 1 to 256 bytes of UTF-8, not 0"),
        ([], "must be one secret, or a list of two during a rotation"),
        (["a", "b", "c"], "must be one secret, or a list of two during a rotation"),
        (["same", "same"], "must be two different secrets"),
        (["hunter2", 5], "must be a string, not a number"),
        (12345, "must be a string, not a number"),
        ("hunter2\n", "must not hold control characters or lone surrogates"),
    ],
)
def test_what_is_no_secret(value: Any, message: str) -> None:
    """The refusal never repeats what was given."""
    with pytest.raises(Refused) as raised:
        endpoint_secrets(value)
    assert str(raised.value) == message


def test_an_address_range() -> None:
    """A range of either family, or one address."""
    assert network("10.0.5.0/24") == ipaddress.IPv4Network("10.0.5.0/24")
    assert network("::1") == ipaddress.IPv6Network("::1/128")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            "10.0.5.1/24",
            (
                'must be an address range such as 10.0.5.0/24, not "10.0.5.1/24";'
                " did you mean 10.0.5.0/24?"
            ),
        ),
        ("localhost", 'must be an address range such as 10.0.5.0/24, not "localhost"'),
        (10, "must be an address range such as 10.0.5.0/24, not a number"),
        ("0.0.0.0/0", "must name a range, not every address (0.0.0.0/0)"),
        ("::/0", "must name a range, not every address (::/0)"),
    ],
)
def test_what_is_no_address_range(value: Any, message: str) -> None:
    """An integer would be one address to Python, and a range of all would be no guard."""
    with pytest.raises(Refused) as raised:
        network(value)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("url", "endpoint_id"),
    [
        ("https://example.com", "example.com-100680ad"),
        ("http://localhost:3000/webhooks/metering", "localhost-3000-"),
        ("http://[::1]:80/", "1-80-"),
        ("http://[::]/", "endpoint-"),
        ("http://" + "a" * 60 + ".example/", "a" * 40 + "-"),
    ],
)
def test_an_id_made_from_the_url(url: str, endpoint_id: str) -> None:
    """Readable, and one that could have been written by hand; it never changes between versions."""
    assert id_of_url(url).startswith(endpoint_id)
    assert identifier(id_of_url(url))


def test_ids_of_different_urls_differ_and_tell_no_token() -> None:
    """Path and query, where receivers have their tokens, only enter the hash."""
    ids = [id_of_url(f"https://hooks.example/{token}") for token in ("s3cret1", "s3cret2")]
    assert ids[0] != ids[1]
    assert not any("s3cret" in endpoint_id for endpoint_id in ids)


@pytest.mark.parametrize(
    ("secret", "masked"),
    [("whsec_abcdwxyz", "***wxyz"), ("12345678", "***5678"), ("1234567", "***")],
)
def test_a_masked_secret(secret: str, masked: str) -> None:
    """The last four characters tell two secrets apart; of a short one they would tell too much."""
    assert masked_secret(secret) == masked


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("https://example.com/a", "https://example.com/a"),
        ("https://example.com/a?", "https://example.com/a?"),
        ("https://example.com/a?token=s3cret&b=&c", "https://example.com/a?token=***&b=***&***"),
        ("https://example.com/?s3cret?x=1", "https://example.com/?s3cret?x=***"),
        ("https://example.com/?a=b=c;d=e", "https://example.com/?a=***"),
    ],
)
def test_a_masked_url(url: str, masked: str) -> None:
    """Every value of the query is masked; names stay."""
    assert masked_url(url) == masked


def test_no_secret_in_the_repr() -> None:
    """Logs and tracebacks show values by their repr."""
    assert "hunter2" not in repr(Endpoint("a", "http://x/?t=hunter2", ("hunter2",)))
