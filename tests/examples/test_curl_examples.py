"""curl-examples.sh against a real meterd."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from tests.examples.example import run

if TYPE_CHECKING:
    from pathlib import Path

    from tests.daemon_process import DaemonProcess

NAME = "curl-examples.sh"
PROGRAMS = ("bash", "env", "curl", "cat", "grep", "mktemp", "rm")


def only(folder: Path, *programs: str) -> str:
    """A PATH on which nothing else is found."""
    folder.mkdir()
    for name in programs:
        found = shutil.which(name)
        assert found, f"{name} is not installed"
        (folder / name).symlink_to(found)
    return str(folder)


def test_every_step_succeeds(daemon: DaemonProcess) -> None:
    """From health to refusals, with the events stored and their aggregations there."""
    done = run(NAME, BASE_URL=f"{daemon.url}/", API_KEY=daemon.key)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "✅ All steps succeeded\n" in done.stdout
    assert "\x1b" not in done.stdout
    assert daemon.key not in done.stdout
    for status in (400, 401, 404, 405, 413, 422):
        assert f" → {status}\n" in done.stdout
    # 20 + 5 + 10 and 1 of a batch; 15 and 3 of the batches.
    for customer, count in (("cust_acme", 36), ("cust_globex", 18)):
        assert len(daemon.request("GET", f"/events?customerId={customer}").json()) == count
        assert daemon.request("GET", f"/aggregations?customerId={customer}").json()


def test_it_needs_no_jq(daemon: DaemonProcess, tmp_path: Path) -> None:
    """Without jq the answers are shown as they came."""
    path = only(tmp_path / "programs", *PROGRAMS)
    done = run(NAME, BASE_URL=daemon.url, API_KEY=daemon.key, PATH=path)
    assert (done.returncode, done.stderr) == (0, "")
    assert '\n{"message":"Events captured","count":3}\n' in done.stdout


def test_the_settings_of_somebodys_curl_have_no_say(daemon: DaemonProcess, tmp_path: Path) -> None:
    """A ~/.curlrc that has curl fail where meterd refuses, show heads, or ask by a proxy."""
    (tmp_path / ".curlrc").write_text('fail\ninclude\nproxy = "http://127.0.0.1:9"\n')
    done = run(NAME, BASE_URL=daemon.url, API_KEY=daemon.key, HOME=str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert " → 404\n" in done.stdout


def test_a_failing_step_ends_it(daemon: DaemonProcess) -> None:
    """A wrong key is refused at the configuration: that is named, and nothing is sent after it."""
    done = run(NAME, BASE_URL=daemon.url, API_KEY="wrong")
    assert done.returncode == 1
    assert done.stderr == (
        '❌ GET /config: HTTP 401 where 200 was expected\n{"error":"Unauthorized"}\n'
    )
    assert daemon.request("GET", "/events").json() == []


def test_a_meterd_that_is_not_there_is_named() -> None:
    """Port 9, discard, where nothing listens."""
    done = run(NAME, BASE_URL="http://127.0.0.1:9", API_KEY="any")
    assert done.returncode == 1
    assert done.stderr.endswith("❌ GET /: no answer from http://127.0.0.1:9\n")


def test_an_api_key_is_required() -> None:
    """It says which variable is missing, before any request."""
    done = run(NAME)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("❌ API_KEY is not set.")
