"""stripe_invoice_webhook.py, when answers get lost, Stripe fails, and processes die amid it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.examples.stripe_example import Example, batch_of, body_of, payload_of, running, signed
from tests.examples.stripe_stand_in import INVOICES, ITEMS, Fault, Stripe

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

USED = {"api.calls": "1234567", "storage.bytes": "104857600"}
LINES = {"api.calls": 123457, "storage.bytes": 1}
ID = "customer_1_monthly_202601"
ADVANCE = f"{INVOICES}/in_1"


@pytest.fixture
def stripe() -> Iterator[Stripe]:
    with Stripe() as serving:
        yield serving


@pytest.fixture
def example(tmp_path: Path, stripe: Stripe) -> Iterator[Example]:
    with running(tmp_path, stripe.url) as started:
        yield started


# -- one request fails ----------------------------------------------------------------------------


@pytest.mark.parametrize("path", [INVOICES, ITEMS])
def test_an_answer_that_is_lost_once_is_asked_for_again(
    stripe: Stripe, example: Example, path: str
) -> None:
    """At once, with the same key: Stripe answers what it answered."""
    stripe.faults = [Fault(path)]
    assert example.deliver(body_of(USED)).status_code == 200
    assert stripe.made() == {(ID, 1): LINES}
    first, second, *_ = stripe.posts(path)
    assert first == second
    assert first.key


@pytest.mark.parametrize("forgotten", [False, True], ids=["key known", "key forgotten"])
@pytest.mark.parametrize("path", [INVOICES, ITEMS, ADVANCE])
def test_answers_that_stay_lost_make_no_second_invoice(
    tmp_path: Path, stripe: Stripe, path: str, forgotten: bool
) -> None:
    """503 until one comes, with what was done in between found again, also a day later."""
    stripe.faults = [Fault(path)] * 2
    with running(tmp_path, stripe.url, AUTO_ADVANCE="true") as example:
        answer = example.deliver(body_of(USED))
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "60")
        assert answer.json()["error"].startswith("Stripe: ")
        if forgotten:
            stripe.forget_keys()
        assert example.deliver(body_of(USED)).status_code == 200
    assert stripe.made() == {(ID, 1): LINES}


@pytest.mark.parametrize("executed", [False, True], ids=["failed", "failed and done"])
@pytest.mark.parametrize("path", [INVOICES, ITEMS])
def test_a_500_is_502_and_made_good_when_stripe_forgets_it(
    stripe: Stripe, example: Example, path: str, executed: bool
) -> None:
    """Stripe repeats its 500 as long as it knows the key; what it did all the same is found."""
    stripe.faults = [Fault(path, 500, executed)]
    answer = example.deliver(body_of(USED))
    assert (answer.status_code, answer.json()) == (502, {"error": "Stripe: Something went wrong"})
    assert "Retry-After" not in answer.headers  # this one alone is to wait
    assert example.deliver(body_of(USED)).status_code == (200 if executed else 502)
    stripe.forget_keys()
    assert example.deliver(body_of(USED)).status_code == 200
    assert stripe.made() == {(ID, 1): LINES}


@pytest.mark.parametrize("path", [INVOICES, ITEMS])
def test_a_refusal_is_502_and_asked_with_another_key(
    stripe: Stripe, example: Example, path: str
) -> None:
    """Stripe would repeat it for a day, though its reason be gone; nothing was made of it."""
    stripe.faults = [Fault(path, 400, executed=False)]
    refused = example.deliver(body_of(USED))
    assert (refused.status_code, refused.json()) == (
        502,
        {"error": "Stripe: The account may not do this"},
    )
    assert example.deliver(body_of(USED)).status_code == 200
    assert stripe.made() == {(ID, 1): LINES}


@pytest.mark.parametrize("path", [INVOICES, ITEMS])
def test_too_many_requests_are_503(stripe: Stripe, example: Example, path: str) -> None:
    """With Retry-After, so that meterd gives Stripe the time."""
    stripe.faults = [Fault(path, 429)]
    answer = example.deliver(body_of(USED))
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "60")
    assert example.deliver(body_of(USED)).status_code == 200
    assert stripe.made() == {(ID, 1): LINES}


def test_a_key_that_stripe_refuses_is_503(tmp_path: Path, stripe: Stripe) -> None:
    """Every webhook has to wait for the right one."""
    with running(tmp_path, stripe.url, STRIPE_API_KEY="sk_wrong") as example:
        answer = example.deliver(body_of(USED))
    assert (answer.status_code, answer.json()) == (
        503,
        {"error": "Stripe: Invalid API Key provided"},
    )
    with running(tmp_path, stripe.url) as example:
        assert example.deliver(body_of(USED)).status_code == 200
    assert stripe.made() == {(ID, 1): LINES}


def test_nobody_there_is_503(tmp_path: Path, stripe: Stripe) -> None:
    """Stripe is down; later it is not."""
    with Stripe() as gone:
        url = gone.url
    with running(tmp_path, url) as example:
        assert example.deliver(body_of(USED)).status_code == 503
    with running(tmp_path, stripe.url) as example:
        assert example.deliver(body_of(USED)).status_code == 200
    assert stripe.made() == {(ID, 1): LINES}


def test_a_sender_that_waits_no_longer_is_answered_at_its_repeat(
    stripe: Stripe, example: Example
) -> None:
    """The first goes on, the repeat waits for it: still one invoice."""
    stripe.faults = [Fault(INVOICES, held=True)]
    body = body_of(USED)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(example.url, content=body, headers=signed(body), trust_env=False, timeout=0.5)
    assert stripe.held.wait(20)
    with ThreadPoolExecutor() as pool:
        repeat = pool.submit(example.deliver, body)
        stripe.release()
        assert repeat.result().status_code == 200
    assert stripe.made() == {(ID, 1): LINES}
    assert "✅" in example.stop()


# -- the process dies -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("executed", "forgotten"),
    [(False, False), (True, False), (True, True)],
    ids=["before", "after, key known", "after, key forgotten"],
)
@pytest.mark.parametrize(("path", "before"), [(INVOICES, 0), (ITEMS, 0), (ITEMS, 1), (ADVANCE, 0)])
def test_a_kill_between_two_requests_makes_no_second_invoice(
    tmp_path: Path, stripe: Stripe, path: str, before: int, executed: bool, forgotten: bool
) -> None:
    """A kill -9 before or after Stripe did it, and a restart: all lines once, and none too late."""
    stripe.skip = before
    stripe.faults = [Fault(path, None, executed, held=True)]
    example = Example(tmp_path, stripe.url, AUTO_ADVANCE="true")
    sender = threading.Thread(target=ignoring_loss, args=(example,))
    sender.start()
    assert stripe.held.wait(20)
    example.kill()
    stripe.release()
    sender.join()
    stripe.advance()
    if forgotten:
        stripe.forget_keys()
    with running(tmp_path, stripe.url, AUTO_ADVANCE="true") as example:
        assert example.deliver(body_of(USED)).status_code == 200
        assert example.deliver(body_of(USED)).status_code == 200
    assert stripe.made() == {(ID, 1): LINES}
    stripe.advance()
    assert [invoice["status"] for invoice in stripe.invoices] == ["open"]


def ignoring_loss(example: Example) -> None:
    with pytest.raises(httpx.TransportError):
        example.deliver(body_of(USED))


# -- revisions ------------------------------------------------------------------------------------


def test_a_revision_is_invoiced_by_its_difference(stripe: Stripe, example: Example) -> None:
    """More, less, a type that came and one that went: together it is what the last totals cost."""
    example.deliver(payload_of({"api.calls": "100"}))
    example.deliver(payload_of({"api.calls": "134", "storage.bytes": "500000000"}, revision=2))
    example.deliver(payload_of({"api.calls": "50", "storage.bytes": "500000000"}, revision=3))
    example.deliver(payload_of({"api.calls": "51"}, revision=4))
    expected = {
        (ID, 1): {"api.calls": 10},
        (ID, 2): {"api.calls": 3, "storage.bytes": 5},
        (ID, 3): {"api.calls": -8},
        (ID, 4): {"storage.bytes": -5},
    }
    assert stripe.made() == expected
    descriptions = [item["description"] for item in stripe.items]
    assert descriptions[1] == "API calls: 134 instead of 100"
    assert descriptions[-1] == "Peak storage in bytes: 0 instead of 500000000"
    assert stripe.invoices[1]["description"] == "Usage 202601, revision 2"
    for revision in (1, 2, 3, 4):
        again = payload_of({"api.calls": "51"}, revision=revision)
        assert example.deliver(again).status_code == 200
    assert stripe.made() == expected


def test_a_revision_without_the_earlier_ones_is_invoiced_whole(
    stripe: Stripe, example: Example
) -> None:
    """And an earlier one that comes later is not invoiced: the later one has it all."""
    example.deliver(payload_of({"api.calls": "150"}, revision=3))
    late = example.deliver(payload_of({"api.calls": "100"}, revision=2))
    assert late.json()["done"] == ["customer_1 202601 revision 2: a later revision is invoiced"]
    assert stripe.made() == {(ID, 3): {"api.calls": 15}}


def test_a_revision_finishes_the_one_before(stripe: Stripe, example: Example) -> None:
    """Where meterd has given that up amid it: its difference is to what that asks for."""
    stripe.faults = [Fault(ITEMS), Fault(ITEMS)]
    assert example.deliver(payload_of(USED)).status_code == 503
    revised = payload_of({**USED, "api.calls": "1234577"}, revision=2)
    assert example.deliver(revised).status_code == 200
    assert stripe.made() == {(ID, 1): LINES, (ID, 2): {"api.calls": 1}}


# -- batches --------------------------------------------------------------------------------------


def test_a_batch_is_one_invoice_for_each_item(stripe: Stripe, example: Example) -> None:
    """One that fails makes it fail, the others are done; the repeat makes what is left, once."""
    batch = batch_of(
        payload_of({"api.calls": "10"}, customer="customer_1"),
        payload_of({"api.calls": "20"}, customer="gone"),
        payload_of({"api.calls": "30"}, customer="customer_2"),
        payload_of({"api.calls": "40"}, customer="customer_2", month="2026-02"),
        payload_of({"api.calls": "50"}, customer="customer_1", revision=2),
    )
    refused = payload_of({"api.calls": "60"}, customer="customer_9")
    answer = example.deliver(batch_of(*batch["data"]["items"], refused))
    assert (answer.status_code, answer.json()["error"]) == (
        502,
        "Stripe: No such customer: 'cus_gone'; customer_9 has no Stripe customer in customers.json",
    )
    expected = {
        (ID, 1): {"api.calls": 1},
        (ID, 2): {"api.calls": 4},
        ("customer_2_monthly_202601", 1): {"api.calls": 3},
        ("customer_2_monthly_202602", 1): {"api.calls": 4},
    }
    assert stripe.made() == expected
    stripe.customers.add("cus_gone")
    stripe.forget_keys()
    answer = example.deliver(batch)
    assert answer.status_code == 200
    assert len(answer.json()["done"]) == 5
    assert stripe.made() == {**expected, ("gone_monthly_202601", 1): {"api.calls": 2}}
    assert len(stripe.posts(INVOICES)) == 5
