"""The load client of the benchmarks: a mistake in it would be a figure that nobody doubts."""

from __future__ import annotations

import os
import re
import resource
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Literal

import httpx
import pytest

from tests.benchmarks.answers import AnswerReader, MalformedAnswerError
from tests.benchmarks.attacks import siege
from tests.benchmarks.attacks.attacker import Blow
from tests.benchmarks.attacks.honest import Fare
from tests.benchmarks.attacks.siege import PinnedDaemon
from tests.benchmarks.contestants import meterd
from tests.benchmarks.flood import Flooded
from tests.benchmarks.load import Client
from tests.benchmarks.pacing import Schedule, percentile
from tests.benchmarks.plan import Errand, Plan
from tests.benchmarks.processes import Memory, cpu_seconds
from tests.benchmarks.report import ratios_to
from tests.benchmarks.results import Overload, Round
from tests.benchmarks.states.restart import serving
from tests.benchmarks.traffic import requests_of
from tests.daemon_process import KEY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path
    from typing import BinaryIO

WITH_LENGTH = b"HTTP/1.1 201 \r\nContent-Length: 5\r\n\r\nhello"
IN_CHUNKS = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"c\r\n\r\n0\r\n\r\n is\r\n\r\n3\r\nall\r\n0\r\n\r\n"
)


@contextmanager
def _stepped(folder: Path) -> Iterator[str]:
    with meterd(folder) as server:
        yield server.url


@contextmanager
def _served(folder: Path) -> Iterator[str]:
    with serving(folder) as (server, _):
        yield server.url


@contextmanager
def _besieged(folder: Path) -> Iterator[str]:
    daemon = PinnedDaemon(folder, (), '[events."api.calls"]\nop = "sum"')
    try:
        yield daemon.url
    finally:
        daemon.stop()


@pytest.mark.parametrize(
    ("share", "expected"), [(0.0, 1), (0.5, 50), (0.501, 51), (0.99, 99), (1.0, 100)]
)
def test_a_percentile_is_one_of_the_values(share: float, expected: float) -> None:
    """That share of the values does not exceed it, and no lesser value can say so."""
    assert percentile(list(range(1, 101)), share) == expected


def test_a_percentile_of_few() -> None:
    """One value is every percentile; none has none."""
    assert percentile([7.0], 0.99) == 7
    assert percentile([], 0.5) == 0


def test_without_a_rate_something_is_always_due() -> None:
    """The next request goes when a connection is free, until the end."""
    schedule = Schedule(began=10.0, until=12.0, rate=None)
    assert schedule.take(10.0) == 10.0
    assert schedule.take(11.5) == 11.5
    assert schedule.take(12.0) is None
    assert schedule.is_over(12.0)
    assert schedule.overdue(13.0) == 0


def test_a_request_waits_from_when_it_was_due() -> None:
    """A stall of the server is charged to every request that was due meanwhile."""
    schedule = Schedule(began=0.0, until=1.0, rate=4.0)
    assert schedule.take(0.0) == 0.0
    assert schedule.take(0.2) is None
    assert schedule.wait_s(0.2) == pytest.approx(0.05)
    assert [schedule.take(5.0) for _ in range(4)] == [0.25, 0.5, 0.75, None]
    assert schedule.is_over(5.0)


def test_what_was_never_sent_is_known() -> None:
    """Requests that came due and found no connection free are counted, those to come are not."""
    schedule = Schedule(began=0.0, until=1.0, rate=4.0)
    schedule.take(0.0)
    assert schedule.overdue(0.6) == 2
    assert schedule.overdue(9.0) == 3


@pytest.mark.parametrize(("answer", "status"), [(WITH_LENGTH, 201), (IN_CHUNKS, 200)])
def test_an_answer_is_whole_with_its_last_byte(answer: bytes, status: int) -> None:
    """However it is cut up, and even where its body looks like its end; then the next one."""
    for cut in range(1, len(answer)):
        reader = AnswerReader()
        for _ in range(2):
            assert reader.feed(answer[:cut]) is None
            assert reader.feed(answer[cut:]) == status


@pytest.mark.parametrize(
    "answer",
    [
        WITH_LENGTH + b"!",
        IN_CHUNKS + b"!",
        b"HTTP/1.1 201 \r\n\r\n",
        b"HTTP/1.0 201 \r\nContent-Length: 0\r\n\r\n",
        b"nonsense\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
    ],
)
def test_what_is_no_answer_is_refused(answer: bytes) -> None:
    """Bytes behind the end, a head without a length, another protocol, a chunk without a size."""
    with pytest.raises(MalformedAnswerError):
        AnswerReader().feed(answer)


def test_only_right_answers_count() -> None:
    """A wrong status and a closed connection are failures, and acknowledge nothing."""
    plan = Plan(kind="fill", connections=1, events=4000, warm_up_s=0, seconds=60)
    with answering([b"201 Created", b"500 Oops", None, b"201 Created"]) as address:
        outcome = Client(Errand(address, "key", plan)).run()
    assert outcome.events == 2000
    assert outcome.failures == {"status 500": 1, "closed by the server": 1}
    assert outcome.max_ms >= outcome.p99_ms >= outcome.p50_ms > 0


def test_each_customer_is_introduced_once() -> None:
    """The memory of so many customers is that of no more and no fewer."""
    plan = Plan(kind="introduce", connections=1, customers=1500, types=2)
    requests = list(requests_of(Errand("localhost:1", "key", plan)))
    assert [request.events for request in requests] == [1000, 1000, 1000]
    sent = b"".join(request.data for request in requests)
    assert all(sent.count(b'"customer_%d"' % number) == 2 for number in (0, 499, 500, 1499))


@pytest.mark.parametrize("kind", ["single", "batch"])
def test_each_event_has_a_key_of_its_own(kind: Literal["single", "batch"]) -> None:
    """A key that came before would cost what a repeat does; its length is told before."""
    errand = Errand("localhost:1", "key", Plan(kind=kind, connections=1, customers=9, keys=True))
    keys = []
    for request in islice(requests_of(errand), 2500 if kind == "single" else 25):
        head, body = request.data.split(b"\r\n\r\n", 1)
        assert head.endswith(b"Content-Length: %d" % len(body))
        keys += re.findall(rb'"idempotencyKey": "([0-9a-f]{16})"', body)
    assert len(set(keys)) == len(keys) == (2500 if kind == "single" else 25_000)


@pytest.mark.parametrize("start", [_stepped, _served, _besieged])
def test_what_is_measured_is_told_by_the_benchmark_alone(
    start: Callable[[Path], AbstractContextManager[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Somebody's own meterd has its address, folder and key in the environment; it is let be."""
    with socket.create_server(("127.0.0.1", 0)) as theirs:
        monkeypatch.setenv("METERD_BIND", f"127.0.0.1:{theirs.getsockname()[1]}")
        monkeypatch.setenv("METERD_DATA_DIR", str(tmp_path / "theirs"))
        monkeypatch.setenv("METERD_API_KEY", "their-key")
        monkeypatch.setenv("DRY_RUN", "true")
        with start(tmp_path) as url:
            answer = httpx.get(f"{url}/config", headers={"x-apikey": KEY})
    assert answer.status_code == 200
    assert not answer.json()["dry_run"]
    assert not (tmp_path / "theirs").exists()


def test_the_cpu_time_of_children_is_counted() -> None:
    """A database that works in many processes is charged with all of them."""
    before, used_before = cpu_seconds([os.getpid()]), children_cpu_s()
    subprocess.run([sys.executable, "-c", "sum(range(5_000_000))"], check=True)
    used = children_cpu_s() - used_before
    assert used > 0.05
    assert cpu_seconds([os.getpid()]) - before >= used - 0.03  # the kernel's ticks are 10 ms


def test_ratios_are_of_the_same_round() -> None:
    """Never of one round's figure to another's; a round without a figure to compare has none."""
    slow, fast = [Round(10, None), Round(40, None)], [Round(20, None), Round(40, None)]
    assert ratios_to(slow, fast) == [0.5, 1.0]
    assert ratios_to(slow, [Round(0, None), Round(80, None)]) == [0.5]


@pytest.mark.parametrize(
    ("ratios", "said"),
    [
        ((1.9, 2.6), []),
        ((1.8, 1.9, 2.6), []),
        ((1.8, 2.0, 2.6), ["idle: p99 is 2.0 times calm, and not under 2.0"]),
    ],
)
def test_who_makes_the_honest_wait_is_complained_of(
    ratios: tuple[float, ...], said: list[str]
) -> None:
    """By the median, of rounds enough to have one."""
    blow = Blow(opened=700, held=500)
    rounds = [siege.Round(Fare([1.0]), Fare([ratio]), blow, 0, 1, 0, 0) for ratio in ratios]
    assert siege.complaints({"idle": rounds}) == said


@pytest.mark.parametrize(
    ("normal_after_s", "peak_mb", "stored", "said"),
    [
        (5.0, 299.0, 7, []),
        (5.25, 299.0, 7, ["as before after 5.25 s, and not 5"]),
        (None, 299.0, 7, ["as before after None s, and not 5"]),
        (5.0, 300.0, 6, ["300 MB, and not under 300", "7 events acknowledged, 6 stored"]),
    ],
)
def test_what_an_overload_costs_too_much_is_complained_of(
    normal_after_s: float | None, peak_mb: float, stored: int, said: list[str]
) -> None:
    flooded = Flooded(
        began_s=0, ended_s=0, last_answer_s=0, due=0, dropped=0, sent=0, statuses={},
        without_retry_after=0, unanswered=0, closed_by_server=0, accepted_in=[],
        p50_ms=0, p99_ms=0, max_ms=0,
    )  # fmt: skip
    peak = Memory(peak_mb, 0)
    found = Overload("single", 1, 1, flooded, 1, flooded, normal_after_s, peak, 7, stored)
    assert list(found.complaints()) == said


def children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@contextmanager
def answering(statuses: Sequence[bytes | None]) -> Iterator[str]:
    """A server that gives one request after another these answers; None hangs up instead."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=_answer_all, args=(listening, statuses))
        thread.start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        thread.join()


def _answer_all(listening: socket.socket, statuses: Sequence[bytes | None]) -> None:
    remaining = iter(statuses)
    while (status := next(remaining, b"")) != b"":
        connection, _ = listening.accept()
        with connection, connection.makefile("rb") as requests:
            while status:
                _read_request(requests)
                connection.sendall(b"HTTP/1.1 %b\r\nContent-Length: 2\r\n\r\n{}" % status)
                status = next(remaining, b"")
            if status is None:
                _read_request(requests)


def _read_request(requests: BinaryIO) -> None:
    length = 0
    for line in iter(requests.readline, b"\r\n"):
        if line.lower().startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    requests.read(length)
