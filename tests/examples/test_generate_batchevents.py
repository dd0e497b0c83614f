"""generate_batchevents.py against a real meterd."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.examples.example import run

if TYPE_CHECKING:
    from tests.daemon_process import DaemonProcess

NAME = "generate_batchevents.py"
# Port 9, discard: nothing listens there.
NOWHERE = "http://127.0.0.1:9"


def test_more_than_a_request_takes_is_split(daemon: DaemonProcess) -> None:
    """2500 events go in three requests, each with its result, and every one is stored."""
    done = run(NAME, "--count", "2500", "--customers", "5", BASE_URL=daemon.url, API_KEY=daemon.key)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "Generated 2500 events for 5 customers\n"
        "Event types: api.calls, storage.bytes, response.time.ms\n"
        "\n"
        f"Sending to: {daemon.url}/usagebatch\n"
        '[1/3] Success (201): {"message":"Events captured","count":1000}\n'
        '[2/3] Success (201): {"message":"Events captured","count":1000}\n'
        '[3/3] Success (201): {"message":"Events captured","count":500}\n'
    )
    stored = daemon.request("GET", "/events?limit=5000").json()
    assert {event["metadata"]["batchIndex"] for event in stored} == set(range(2500))
    assert {event["customerId"] for event in stored} == {f"customer-00{n}" for n in range(1, 6)}


def test_the_options_win_over_the_environment(daemon: DaemonProcess) -> None:
    """--url and --token are where it sends, and ten events are one request."""
    done = run(
        NAME, "--url", f"{daemon.url}/", "--token", daemon.key, BASE_URL=NOWHERE, API_KEY="wrong"
    )
    assert done.returncode == 0
    assert done.stdout.startswith("Generated 10 events for 3 customers\n")
    assert done.stdout.endswith(
        f"Sending to: {daemon.url}/usagebatch\n"
        'Success (201): {"message":"Events captured","count":10}\n'
    )
    assert len(daemon.request("GET", "/events").json()) == 10


def test_a_refused_request_ends_the_run(daemon: DaemonProcess) -> None:
    """The error is on stderr with the answer, the exit code is 1, and no further one is sent."""
    done = run(NAME, "--count", "1001", BASE_URL=daemon.url, API_KEY="wrong")
    assert done.returncode == 1
    assert done.stdout.endswith("/usagebatch\n")
    assert done.stderr == '[1/2] Error (401): {"error":"Unauthorized"}\n'


def test_a_meterd_that_is_not_there_ends_the_run() -> None:
    """A failed connection is an error, not a traceback."""
    done = run(NAME, BASE_URL=NOWHERE, API_KEY="any")
    assert done.returncode == 1
    assert done.stderr.startswith("Request failed: ConnectError: ")
    assert len(done.stderr.splitlines()) == 1


def test_a_dry_run_prints_the_events_and_sends_nothing() -> None:
    """What is printed is the body that would be sent, also where nobody listens."""
    done = run(NAME, "--dry-run", "--count", "20", "--customers", "2", BASE_URL=NOWHERE)
    assert (done.returncode, done.stderr) == (0, "")
    head, _, events = done.stdout.partition("Dry run - events that would be sent:\n")
    assert head.startswith("Generated 20 events for 2 customers\n")
    fields = {"eventType", "customerId", "value", "metadata"}
    assert [set(event) for event in json.loads(events)] == [fields] * 20


def test_one_is_not_many() -> None:
    """Of one event and of one customer it says so."""
    done = run(NAME, "--dry-run", "--count", "1", "--customers", "1", BASE_URL=NOWHERE)
    assert done.stdout.startswith("Generated 1 event for 1 customer\n")
