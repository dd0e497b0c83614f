"""stripe_invoice_webhook.py: each monthly aggregation is one invoice of the right sum.

Stripe is a stand-in, the library that speaks to it is the real one; webhooks are made and signed by
meterd's own code.
"""

from __future__ import annotations

import base64
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from meterd.domain.periods import PeriodType
from tests.examples.example import EXAMPLES, run
from tests.examples.stripe_example import (
    NAME,
    SECRET,
    Example,
    batch_of,
    body_of,
    payload_of,
    running,
    signed,
)
from tests.examples.stripe_stand_in import INVOICES, ITEMS, KEY, Fault, Stripe

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

USED = {"api.calls": "1234567", "storage.bytes": "104857600"}
# 123456.7 and 1.048576 cents.
LINES = {"api.calls": 123457, "storage.bytes": 1}
FIRST = ("customer_1_monthly_202601", 1)


@pytest.fixture
def stripe() -> Iterator[Stripe]:
    with Stripe() as serving:
        yield serving


@pytest.fixture
def example(tmp_path: Path, stripe: Stripe) -> Iterator[Example]:
    with running(tmp_path, stripe.url) as started:
        yield started


def told(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json().get("error", "")


def test_a_month_is_one_invoice_of_what_was_used(stripe: Stripe, example: Example) -> None:
    """A draft, each line on it and none pending; with the period, and what it was made of."""
    answer = example.deliver(body_of({**USED, "response.time.ms": "234.5"}))
    done = "customer_1 202601 revision 1: in_1 for cus_A, 1234.58 usd"
    assert (answer.status_code, answer.json()) == (200, {"received": True, "done": [done]})
    assert stripe.made() == {FIRST: LINES}
    [invoice] = stripe.invoices
    assert (invoice["customer"], invoice["currency"]) == ("cus_A", "usd")
    assert (invoice["status"], invoice["auto_advance"]) == ("draft", False)
    assert invoice["description"] == "Usage 202601"
    assert [item["description"] for item in stripe.items] == [
        "API calls: 1234567",
        "Peak storage in bytes: 104857600",
    ]
    # 1 January 2026, and the last second of the month.
    assert stripe.items[0]["period"] == {"start": "1767225600", "end": "1769903999"}
    assert example.stop() == f"✅ {done}\n"


@pytest.mark.parametrize(
    ("currency", "told"), [("jpy", "123458 jpy"), ("kwd", "123.458 kwd"), ("isk", "1234.58 isk")]
)
def test_an_amount_is_told_as_people_write_it(
    tmp_path: Path, stripe: Stripe, currency: str, told: str
) -> None:
    """Not every currency's smallest unit is a hundredth, nor what Stripe takes for it."""
    text = (EXAMPLES / NAME).read_text().replace('"usd")', f'"{currency}")')
    example = Example(tmp_path, stripe.url, text)
    try:
        [done] = example.deliver(body_of(USED)).json()["done"]
    finally:
        example.kill()
    assert done.endswith(f" for cus_A, {told}")


def test_readme_shows_what_it_says(stripe: Stripe, example: Example) -> None:
    """To the byte."""
    example.deliver(body_of({"api.calls": "542000"}))
    example.deliver(body_of({"api.calls": "1"}, "customer_9"))
    said = (example.banner + example.stop()).replace(
        example.url.split(":")[2], "3000/webhooks/stripe"
    )
    assert f"```text\n{said}```\n" in (EXAMPLES / "README.md").read_text()


ROUNDED = [
    ("4", None),  # 0.4 cents: nothing to invoice
    ("5", 1),  # half a cent
    ("15", 2),
    ("25", 3),  # a banker's half would be 2
    ("24.999999999999999999999999999999999999999999999999", 2),
    ("90071992547409935", 9007199254740994),  # no double holds it
    ("1e+9", 100000000),
    ("-25", -3),
]


def test_a_line_is_rounded_once_and_exactly(stripe: Stripe, example: Example) -> None:
    """Halves away from zero, of the exact total: no float is in between."""
    for year, (total, _) in enumerate(ROUNDED, 2001):
        payload = payload_of({}, month=f"{year}-01")
        payload["data"]["exact"] = {"api.calls": total}
        example.deliver(payload)
    asked = [int(one.params["amount"]) for one in stripe.posts(ITEMS)]
    assert asked == [cents for _, cents in ROUNDED if cents is not None]


def test_a_repeat_makes_nothing_and_asks_nobody(stripe: Stripe, example: Example) -> None:
    """Also after a restart, with Stripe's keys forgotten; and many at a time."""
    body = body_of(USED)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(example.deliver, [body] * 16))
    assert [answer.status_code for answer in answers] == [200] * 16
    assert stripe.made() == {FIRST: LINES}
    assert len(stripe.requests) == 4  # a look, the invoice, two lines
    stripe.forget_keys()
    assert example.deliver(body).json() == answers[0].json()
    assert len(stripe.requests) == 4


def test_a_restart_forgets_nothing(tmp_path: Path, stripe: Stripe) -> None:
    """The database is found again."""
    for _ in range(2):
        with running(tmp_path, stripe.url) as example:
            assert example.deliver(body_of(USED)).status_code == 200
        stripe.forget_keys()
    assert len(stripe.posts(INVOICES)) == 1


def test_a_lost_database_makes_no_second_invoice(tmp_path: Path, stripe: Stripe) -> None:
    """Stripe is looked at first: there may be what nobody here knows of, on any page."""
    with running(tmp_path, stripe.url) as example:
        assert example.deliver(body_of(USED)).status_code == 200
    for number in range(150):  # others of the same customer, made later
        other = {**stripe.invoices[0], "metadata": {"other": "1"}, "id": f"in_other_{number}"}
        stripe.invoices.append(other)
    stripe.forget_keys()
    (tmp_path / "stripe_invoices.sqlite3").unlink()
    with running(tmp_path, stripe.url) as example:
        assert "in_1 for cus_A" in example.deliver(body_of(USED)).json()["done"][0]
    assert len(stripe.posts(INVOICES)) == 1
    assert len(stripe.posts(ITEMS)) == 2


# -- what is not to be believed, or not to be invoiced --------------------------------------------


def test_only_what_meterd_signed_is_read(stripe: Stripe, example: Example) -> None:
    """Tampered, expired, wrongly keyed or without its headers: 401, and Stripe hears nothing."""
    body = body_of(USED)
    good = signed(body)
    attempts = [
        (body.replace(b"1234567", b"1234568"), good),
        (body, signed(body, age_s=310)),
        (body, signed(body, age_s=-310)),
        (body, signed(body, secret="whsec_" + "A" * 32)),
        (body, {**good, "webhook-id": "msg_2"}),
        (body, {**good, "webhook-signature": "v1"}),
        (b"\xff", good),
        *((body, {k: v for k, v in good.items() if k != gone}) for gone in good if gone[0] == "w"),
    ]
    assert len(attempts) == 10
    for tampered, headers in attempts:
        answer = example.post(tampered, headers)
        assert answer.status_code == 401
        assert answer.json()["error"].startswith("Invalid signature: ")
    assert stripe.requests == []
    assert example.post(body, good).status_code == 200


def test_what_is_not_invoiced_is_answered_200(stripe: Stripe, example: Example) -> None:
    """So that meterd does not send it again; Stripe is not asked."""
    done: list[tuple[bytes | dict[str, Any], list[str]]] = [
        (body_of(USED, period_type=PeriodType.DAILY), ["ignored: customer_1 daily 20260101"]),
        ({"type": "webhook.test"}, ["ignored: webhook.test"]),
        (
            payload_of({"response.time.ms": "10"}),
            ["customer_1 202601 revision 1: nothing to invoice"],
        ),
        (
            payload_of({"api.calls": "0"}, month="2026-02"),
            ["customer_1 202602 revision 1: nothing to invoice"],
        ),
        (batch_of(), []),
    ]
    for webhook, said in done:
        answer = example.deliver(webhook)
        assert (answer.status_code, answer.json()["done"]) == (200, said)
    assert stripe.requests == []


def broken(**data: Any) -> dict[str, Any]:
    payload = payload_of(USED)
    payload["data"].update(data)
    return payload


BROKEN: list[tuple[bytes | dict[str, Any], str]] = [
    (b"{", "not JSON"),
    (b"[]", "type is missing"),
    ({"type": 1}, "type is missing, or no str"),
    ({"type": "aggregation.batch", "data": {}}, "items is missing, or no list"),
    ({"type": "aggregation.completed"}, "period is missing"),
    (broken(exact=None), "exact is missing, or no dict"),
    (broken(exact={"api.calls": 1.5}), "api.calls is missing, or no str"),
    (broken(exact={"api.calls": "many"}), "exact: "),
    (broken(exact={"api.calls": "NaN"}), "NaN is no number"),
    (broken(exact={"api.calls": "1e+9999"}), "exact: "),
    (broken(revision="1"), "revision is missing, or no int"),
    (broken(periodStart="January"), "periodStart"),
]


def test_a_body_that_is_none_is_400_and_its_field_named(stripe: Stripe, example: Example) -> None:
    """Signed, and still not an aggregation."""
    for webhook, named in BROKEN:
        status, reason = told(example.deliver(webhook))
        assert (status, named in reason) == (400, True), reason
    assert stripe.requests == []


def test_other_requests_are_refused(example: Example) -> None:
    """Another path, a body without a length, one that is too long."""
    body = body_of(USED)
    other = httpx.post(example.url + "/other", content=body, headers=signed(body), trust_env=False)
    assert other.status_code == 404
    large = b" " * (8 * 1024 * 1024 + 1)
    assert example.post(large, signed(large)).status_code == 413
    chunked = httpx.post(example.url, content=iter([body]), headers=signed(body), trust_env=False)
    assert chunked.status_code == 411


@pytest.mark.parametrize("size", [24, 32, 64])
@pytest.mark.parametrize("padded", [True, False])
def test_a_secret_of_any_length_is_taken(
    tmp_path: Path, stripe: Stripe, size: int, padded: bool
) -> None:
    """As `openssl rand -base64` writes it, and without its padding."""
    text = base64.b64encode(bytes(range(size))).decode()
    secret = "whsec_" + (text if padded else text.rstrip("="))
    with running(tmp_path, stripe.url, WEBHOOK_SECRET=secret) as example:
        body = b'{"type": "webhook.test"}'
        assert example.post(body, signed(body, secret=secret)).status_code == 200


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({}, "STRIPE_API_KEY is not set"),
        ({"STRIPE_API_KEY": KEY}, "WEBHOOK_SECRET is not set"),
        (
            {"STRIPE_API_KEY": KEY, "WEBHOOK_SECRET": "whsec_test_secret"},
            "WEBHOOK_SECRET takes whsec_ and the base64 of 24 to 64 bytes",
        ),
        (
            {"STRIPE_API_KEY": KEY, "WEBHOOK_SECRET": SECRET, "DATABASE": "/nowhere/at/all"},
            "DATABASE /nowhere/at/all: unable to open database file",
        ),
    ],
)
def test_a_setting_that_is_missing_is_named(variables: dict[str, str], reason: str) -> None:
    """In one line, with exit code 1."""
    done = run(NAME, PORT="0", **variables)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"❌ Error: {reason}\n")


# -- customers and prices -------------------------------------------------------------------------


def test_a_customer_that_stripe_does_not_know_is_refused_until_it_does(
    stripe: Stripe, example: Example
) -> None:
    """Not in the file: 422. Not at Stripe: 502, and that Stripe repeats itself is in no way."""
    body = body_of(USED, "customer_9")
    assert told(example.deliver(body)) == (
        422,
        "customer_9 has no Stripe customer in customers.json",
    )
    assert stripe.requests == []
    example.customers.write_text('{"customer_9": "cus_typo"}')
    for _ in range(2):
        assert told(example.deliver(body)) == (502, "Stripe: No such customer: 'cus_typo'")
    example.customers.write_text('{"customer_9": "cus_B"}')
    assert example.deliver(body).status_code == 200
    assert stripe.made() == {("customer_9_monthly_202601", 1): LINES}
    assert stripe.invoices[0]["customer"] == "cus_B"


def test_customers_may_have_stripes_ids_in_meterd(stripe: Stripe, example: Example) -> None:
    """And then no file is needed."""
    example.customers.unlink()
    assert example.deliver(body_of(USED, "cus_C")).status_code == 200
    assert stripe.invoices[0]["customer"] == "cus_C"
    example.customers.write_text("[]")
    assert told(example.deliver(body_of(USED)))[0] == 500


def test_a_price_that_changes_between_repeats_changes_no_invoice(
    tmp_path: Path, stripe: Stripe
) -> None:
    """What was begun is finished at the price it was begun with; and corrected at that price."""
    stripe.faults = [Fault(ITEMS, 500, executed=False)] * 2
    with running(tmp_path, stripe.url) as example:
        assert example.deliver(body_of(USED)).status_code == 502
    text = (EXAMPLES / NAME).read_text()
    dearer = text.replace('Decimal("0.1")', 'Decimal("0.2")')
    assert dearer != text
    stripe.forget_keys()
    example = Example(tmp_path, stripe.url, dearer)
    assert example.deliver(body_of(USED)).status_code == 200
    assert example.deliver(payload_of({"api.calls": "10"}, month="2026-02")).status_code == 200
    revised = payload_of({**USED, "api.calls": "1234667"}, revision=2)
    assert example.deliver(revised).status_code == 200
    example.stop()
    assert stripe.made() == {
        FIRST: LINES,
        ("customer_1_monthly_202602", 1): {"api.calls": 2},
        (FIRST[0], 2): {"api.calls": 10},
    }
