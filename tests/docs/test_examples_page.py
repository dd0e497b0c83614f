"""examples/README.md is followed to the letter, a terminal for each program that goes on.

Its dry run is that of docs/webhooks.md: tests/docs/test_webhooks.py has both.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import httpx

from tests.docs.reading import ROOT
from tests.docs.shell import BASE_URL, STRICT_CURL, follow, free_address, pieces
from tests.docs.terminal import Terminal, clone
from tests.examples.stripe_example import SECRET, body_of, signed
from tests.examples.stripe_stand_in import KEY, Stripe

if TYPE_CHECKING:
    from pathlib import Path

SERVE, SEND, RECEIVE, INVOICE, ASK, _DRY_RUN, LOAD = pieces(
    ROOT / "examples" / "README.md",
    *("export API_KEY", "WEBHOOK_SECRET=", "pip install stripe"),
    *("examples/curl-examples.sh", "DRY_RUN", "# 10,000 events"),
)
# Some of the load: how much is taken is not what is tested here.
LESS: Final = {
    "EVENT_COUNT=200 DELAY": "EVENT_COUNT=5 DELAY",
    "EVENT_COUNT=10000": "EVENT_COUNT=100",
    "EVENT_COUNT=1000 ": "EVENT_COUNT=20 ",
    "--count 100000": "--count 1500",
}


def port_of(address: str) -> str:
    return address.rpartition(":")[2]


def test_events_are_sent_and_webhooks_received(tmp_path: Path) -> None:
    """Random ones, alone and in batches; all that curl can ask; ten generators at once."""
    folder = clone(tmp_path)
    bind, port = free_address(), port_of(free_address())
    shipped = folder / "systemconfig.toml"
    shipped.write_text(shipped.read_text().replace("localhost:3000", f"localhost:{port}"))
    environ = {"METERD_BIND": bind, "BASE_URL": f"http://{bind}"}
    tested = "METERD_API_KEY=$API_KEY meterd webhooks test example-receiver"
    parts = (STRICT_CURL, SEND, ASK, LOAD, tested)
    with (
        Terminal(SERVE, folder, environ) as serving,
        Terminal(RECEIVE, folder, {"PORT": port}) as receiving,
    ):
        serving.wait_for('"serving"')
        receiving.wait_for("Listening on")
        [key] = re.findall(r"^ +(mk_\S+)$", serving.said, re.MULTILINE)
        said = follow(
            "\n".join(parts),
            folder,
            {"<the key>": key, BASE_URL: f"http://{bind}", **LESS},
            environ,
        )
        receiving.wait_for("webhook.test")
    assert "Success:       100 ✅" in said
    assert "Total Events:  5\n" in said
    assert '[3/3] Success (201): {"message":"Events captured","count":500}' in said
    assert "✅ All steps succeeded" in said
    assert "example-receiver: 200" in said
    assert said.count("Success:       20 ✅") == 10
    assert "[2/2] Success (201)" in said


def test_an_invoice_is_made(tmp_path: Path) -> None:
    """By what the page installs and starts, for a customer of the file that it writes."""
    port = port_of(free_address())
    with Stripe() as stripe:
        # Both libraries are there, as the page has them installed: pip only says so.
        environ = {"PORT": port, "STRIPE_API_BASE": stripe.url, "PIP_NO_INDEX": "1"}
        script = (
            INVOICE.replace("whsec_$(head -c 32 /dev/urandom | base64)", SECRET)
            .replace("sk_test_...", KEY)
            .replace("cus_...", "cus_A")
        )
        with Terminal(script, clone(tmp_path), environ) as terminal:
            terminal.wait_for("Listening on")
            body = body_of({"api.calls": "1000"})
            url = f"http://127.0.0.1:{port}/webhooks/stripe"
            assert httpx.post(url, content=body, headers=signed(body)).status_code == 200
            terminal.wait_for("✅ customer_1 202601 revision 1: ")
        assert stripe.made()
