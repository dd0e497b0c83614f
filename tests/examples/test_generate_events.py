"""generate_events.py against a real meterd."""

from __future__ import annotations

import os
import pty
import re
import subprocess
from collections import Counter
from typing import TYPE_CHECKING

from tests.examples.example import SECONDS_MAX, command, environment, run

if TYPE_CHECKING:
    from tests.daemon_process import DaemonProcess

NAME = "generate_events.py"
CAPTURED = re.compile(
    r"✅ \[(\d+)/(\d+)\] (?:"
    r"api\.calls for customer_[123] \(value: 1\)"
    r"|storage\.bytes for customer_[123] \(value: \d+\.\d\d MB\)"
    r"|response\.time\.ms for customer_[123] \(value: \d+\))"
)
HEADER = """🚀 Event Generator
═══════════════════════════════════════════════════
Base URL:      {url}
API Key:       ***{key}
Event Count:   {count}
Delay:         {delay}ms
Customers:     customer_1, customer_2, customer_3
Event Types:   api.calls, storage.bytes, response.time.ms
═══════════════════════════════════════════════════

Generating {count} events...

"""


def header(daemon: DaemonProcess, count: int, delay: int = 0) -> str:
    return HEADER.format(url=daemon.url, key=daemon.key[-4:], count=count, delay=delay)


def shares(output: str, title: str) -> dict[str, tuple[int, str]]:
    _, _, following = output.partition(f"\n{title}:\n")
    section, _, _ = following.partition("\n\n")
    found = re.findall(r"^  (\S+): (\d+) \((\d+\.\d)%\)$", section, re.MULTILINE)
    return {name: (int(count), percent) for name, count, percent in found}


def test_every_event_is_stored_and_has_its_line(daemon: DaemonProcess) -> None:
    """What the lines and the summary say is what meterd holds; a pipe gets no terminal codes,
    even where FORCE_COLOR, as in many CI systems, makes rich take it for a terminal.
    """
    done = run(NAME, BASE_URL=daemon.url, API_KEY=daemon.key, EVENT_COUNT="40", FORCE_COLOR="1")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(header(daemon, 40))
    assert "\x1b" not in done.stdout

    lines = [line for line in done.stdout.splitlines() if line.startswith("✅")]
    numbers = [found.groups() for line in lines if (found := CAPTURED.fullmatch(line))]
    assert numbers == [(str(number), "40") for number in range(1, 41)]

    stored = daemon.request("GET", "/events?limit=100").json()
    for title, field in (("By Customer", "customerId"), ("By Event Type", "eventType")):
        counts = Counter(event[field] for event in stored)
        said = shares(done.stdout, title)
        assert len(said) == 3
        assert said == {name: (counts[name], f"{counts[name] / 40:.1%}"[:-1]) for name in said}
    assert "\nTotal Events:  40\nSuccess:       40 ✅\nFailed:        0 ❌\n" in done.stdout
    assert re.search(
        r"\nDuration:      \d+\.\d\ds\nRate:          \d+\.\d\d events/sec\n", done.stdout
    )


def test_without_a_number_it_sends_a_hundred(daemon: DaemonProcess) -> None:
    """EVENT_COUNT is 100 unless it is set, and a slash at the end of BASE_URL does no harm."""
    done = run(NAME, BASE_URL=f"{daemon.url}/", API_KEY=daemon.key)
    assert done.returncode == 0
    assert len(daemon.request("GET", "/events?limit=1000").json()) == 100


def test_the_delay_is_between_the_events(daemon: DaemonProcess) -> None:
    """Two pauses for three events, in milliseconds."""
    done = run(NAME, BASE_URL=daemon.url, API_KEY=daemon.key, EVENT_COUNT="3", DELAY_MS="150")
    assert done.stdout.startswith(header(daemon, 3, 150))
    duration = re.search(r"^Duration: +(\S+)s$", done.stdout, re.MULTILINE)
    assert duration
    assert float(duration[1]) >= 0.3


def test_failures_are_told_and_the_exit_code_is_1(daemon: DaemonProcess) -> None:
    """Each refused event has its line on stderr with status and answer, and counts as failed."""
    done = run(NAME, BASE_URL=daemon.url, API_KEY="wrong", EVENT_COUNT="2")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f'❌ [{number}/2] Failed: HTTP 401: {{"error":"Unauthorized"}}' for number in (1, 2)
    ]
    assert "\nTotal Events:  2\nSuccess:       0 ✅\nFailed:        2 ❌\n" in done.stdout
    assert "  customer_1: 0 (0.0%)\n" in done.stdout


def test_a_meterd_that_is_not_there_is_a_failure() -> None:
    """Port 9, discard, where nothing listens."""
    done = run(NAME, BASE_URL="http://127.0.0.1:9", API_KEY="any", EVENT_COUNT="1")
    assert done.returncode == 1
    assert "\nGenerating 1 event...\n" in done.stdout
    assert done.stderr.startswith("❌ [1/1] Failed: ConnectError: ")


def test_an_api_key_is_required() -> None:
    """It says which variable is missing, and nothing is sent."""
    done = run(NAME)
    assert done.returncode == 1
    assert "Base URL:      http://127.0.0.1:8080\nAPI Key:       (not set)\n" in done.stdout
    assert done.stderr == "❌ Error: the environment variable API_KEY is required\n"


def test_a_count_that_is_no_number_is_named() -> None:
    """An unusable variable ends it before anything is sent."""
    done = run(NAME, API_KEY="any", EVENT_COUNT="many")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "❌ Error: EVENT_COUNT must be a whole number, not 'many'\n"


def test_a_terminal_sees_a_progress_bar(daemon: DaemonProcess) -> None:
    """The bar comes on top of the lines, it does not replace them."""
    terminal, inside = pty.openpty()
    variables = environment(
        BASE_URL=daemon.url, API_KEY=daemon.key, EVENT_COUNT="3", TERM="xterm", COLUMNS="100"
    )
    with subprocess.Popen(command(NAME), env=variables, stdout=inside) as process:
        os.close(inside)
        output = read_until_closed(terminal)
        assert process.wait(timeout=SECONDS_MAX) == 0
    assert re.search(r"Sending .*━.* 0%", output)
    for number in (1, 2, 3):
        assert f"✅ [{number}/3] " in output


def read_until_closed(terminal: int) -> str:
    """Linux answers EIO, others nothing, when the last process has left the terminal."""
    pieces = []
    with os.fdopen(terminal, "rb", buffering=0) as stream:
        while True:
            try:
                piece = stream.read(65536)
            except OSError:
                break
            if not piece:
                break
            pieces.append(piece)
    return b"".join(pieces).decode()
