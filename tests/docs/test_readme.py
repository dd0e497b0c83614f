"""README.md is followed to the letter: one terminal for what runs, another for all else."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from tests.docs.reading import README, ROOT, blocks_of
from tests.docs.shell import BASE_URL, STRICT_CURL, follow, free_address, pieces
from tests.docs.terminal import Terminal, clone
from tests.receiver import Receiver

if TYPE_CHECKING:
    from pathlib import Path

SERVE, FIRST, TEST, CONFIGURE, TEMPLATE, SENT, KEEP, LOAD = pieces(
    README,
    *("export PATH", "make test", "meterd check", "make run CONFIG"),
    *("meterd webhooks list", "meterd status", "EVENT_COUNT"),
)
# What a reader has of its own by then: a webhook, whose first attempt fails; events of January
# 2026, and a file of others; and the key, for the commands.
OWN: Final = """
sed -i '1i accept_past = "3650d"\\nidempotency_window = "3650d"' systemconfig.toml
cat >> systemconfig.toml <<END

[[webhooks]]
id = "billing"
url = "{url}"
secret = "whsec_of_some_length"
allow_private = ["127.0.0.1/32"]
schedule = []
END
"""
SEND: Final = """
export METERD_API_KEY=$API_KEY
curl -X POST "$BASE_URL/usage/api.calls" -H "x-apikey: $API_KEY" \\
     -d '{"customerId": "acme", "value": 3, "timestamp": "2026-01-14T10:20:00Z"}'
curl -X POST "$BASE_URL/aggregations/trigger" -H "x-apikey: $API_KEY"
parked() { meterd deliveries list --status parked --json | grep -o 'msg_[0-9a-f]*' | head -1; }
until [ "$(parked)" ]; do sleep 0.2; done
PARKED=$(parked)
printf 'customerId,value\\ncustomer_1,2\\ncustomer_2,0.5\\n' > usage.csv
"""
# A thousandth of the load, and one benchmark as a trial: the figures are not what is tested here.
LESS: Final = {"EVENT_COUNT=10000": "EVENT_COUNT=100", "--count 100000": "--count 2500"}
TRIAL: Final = "--quick --only meterd sending"


def test_five_minutes_and_all_that_follows(tmp_path: Path) -> None:
    """The first events, keys, webhooks, what keeps it well, load."""
    folder = clone(tmp_path)
    (folder / "tests").symlink_to(ROOT / "tests")
    receiver_port = free_address().rpartition(":")[2]
    shipped = folder / "systemconfig.toml"
    shipped.write_text(shipped.read_text().replace("localhost:3000", f"localhost:{receiver_port}"))
    bind = free_address()
    environ = {"METERD_BIND": bind, "PORT": receiver_port, "BENCH": TRIAL}
    [answer] = blocks_of(README, "json")
    with Receiver() as receiver, Terminal(SERVE, folder, environ) as terminal:
        receiver.statuses.append(500)
        terminal.wait_for('"serving"')
        [key] = re.findall(r"^ +(mk_\S+)$", terminal.said, re.MULTILINE)
        parts = (FIRST, OWN.format(url=receiver.url), CONFIGURE, SEND, SENT, KEEP, LOAD)
        said = follow(
            "\n".join((STRICT_CURL, *parts)),
            folder,
            {"mk_...": key, "msg_...": '"$PARKED"', BASE_URL: f"http://{bind}", **LESS},
            environ,
        )
    assert answer.text in said
    assert "Success:       100 ✅" in said
    assert "customer_1_hourly_" in said
    assert "web shop" in said.partition("+ meterd keys list")[2]
    assert "HTTP 500" in said.partition("+ meterd deliveries list --status parked\n")[2]
    assert "is under way to billing" in said
    assert "2 rows: 2 new" in said
    assert "no differences" in said
    assert "Success (201)" in said.partition("generate_batchevents")[2]
    assert "What was measured with --quick" in said


def test_the_file_of_the_template_is_served(tmp_path: Path) -> None:
    """By the name that it has there."""
    folder = clone(tmp_path)
    named = folder / "path" / "to" / "systemconfig.json"
    named.parent.mkdir(parents=True)
    named.write_text('{"_comment": "as the template has it", "periods": ["hourly"]}')
    with Terminal(TEMPLATE, folder, {"METERD_BIND": free_address()}) as terminal:
        terminal.wait_for('"serving"')
    assert '"config": "path/to/systemconfig.json"' in terminal.said


def test_all_tests_are_run_by_its_command() -> None:
    """What runs this test can't be run by it: `.ci/run` has the command as it stands, and what make
    would do for it has the tests in it.
    """
    command = TEST.strip()
    assert f"\n{command} " in (ROOT / ".ci" / "run").read_text()
    told = follow(f"{command} --dry-run", ROOT)
    assert ".venv/bin/pytest -n 2" in told
