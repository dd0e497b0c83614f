"""Several processes find what one finds, beside a daemon too, and end with it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections import Counter
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from meterd.domain.errors import StoreError
from meterd.embedded import keys, verification
from meterd.embedded.differences import Checking
from meterd.embedded.span_workers import SpanWorkers, started
from meterd.embedded.store import PARTS, Store
from meterd.embedded.verification import verify
from tests.embedded.sample_store import checked, copied_sample, first_of, spoil

if TYPE_CHECKING:
    from pathlib import Path

    from meterd.embedded.transaction import Transaction

PROCESSES = 2


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(verification, "LARGE_BYTES", 0)
    return copied_sample(tmp_path)


def test_they_count_what_one_counts(data: Path) -> None:
    """And say how far they are, up to the end."""
    heard: list[tuple[int, int]] = []

    def hear(what: str, done: int, total: int) -> None:
        if what == "events":
            heard.append((done, total))

    checking = Checking(hear)
    assert list(verify(data, checking, PROCESSES)) == []
    assert checking.counts == checked(data)
    events = checking.counts["events"]
    assert heard[-1] == (events, events)
    assert len(heard) > PROCESSES
    assert multiprocessing.active_children() == []


def test_they_find_what_one_finds(data: Path) -> None:
    """In several hours, and once each."""

    def take_away(txn: Transaction) -> None:
        for table, behind in (("events", 3), ("events", 30), ("totals", 0), ("blocks_by_hour", 5)):
            txn.delete(table, first_of(txn, table, behind))

    spoil(data, take_away)
    found = list(verify(data, Checking(), PROCESSES))
    assert Counter(found) == Counter(verify(data))
    assert len({one.period for one in found}) > 2


def test_what_one_cannot_read_is_said(data: Path) -> None:
    """As by one process: the rest is checked all the same."""

    def scramble(txn: Transaction) -> None:
        txn.put("events", first_of(txn, "events", 30), b"\xc1")

    spoil(data, scramble)
    one, several = Checking(), Checking()
    found = [difference.line() for difference in verify(data, several, PROCESSES)]
    assert found == [difference.line() for difference in verify(data, one)]
    assert "cannot be read" in found[0]
    assert several.left_out == one.left_out == ["events"]


def test_there_is_no_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "LARGE_BYTES", 0)
    with pytest.raises(StoreError, match="there is no folder"):
        list(verify(tmp_path / "nowhere", Checking(), PROCESSES))


def commit_all_the_time(data: Path, connection: multiprocessing.connection.Connection) -> None:
    """As a daemon does, some hundred times a second, until told to stop."""
    with closing(Store(data)) as store:
        number = 0
        while not connection.poll(0.002):
            number += 1
            store.write(lambda txn: txn.put("meta", keys.FORGOTTEN, b""))
            if number == 1:
                connection.send(None)
        connection.send(number)


def test_beside_a_daemon_all_see_one_moment(data: Path) -> None:
    """However often it commits while they begin."""
    spawning = multiprocessing.get_context("spawn")
    ours, theirs = spawning.Pipe()
    daemon = spawning.Process(target=commit_all_the_time, args=(data, theirs), daemon=True)
    daemon.start()
    ours.recv()
    try:
        with started(data, PROCESSES) as workers:
            for _ in range(5):
                with workers.snapshot() as snapshot:
                    assert snapshot.transaction().count("events") > 0
    finally:
        ours.send(None)
        assert ours.recv() > 1
        daemon.join()


def test_one_that_is_killed_is_told_of(data: Path) -> None:
    """What it had to check is not checked, so this is no result."""
    workers = SpanWorkers(data, 1)
    try:
        (process,) = multiprocessing.active_children()
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(StoreError, match="ended, with exit code -9"), workers.snapshot():
            pass
    finally:
        workers.end()


def test_they_do_not_outlive_who_is_interrupted(data: Path) -> None:
    """Ctrl-C goes to all of a terminal's processes: they leave it to whoever started them."""
    with pytest.raises(KeyboardInterrupt), started(data, PROCESSES) as workers:
        children = multiprocessing.active_children()
        with workers.snapshot():
            for child in children:
                assert child.pid is not None
                os.kill(child.pid, signal.SIGINT)
            time.sleep(0.1)
            assert all(child.is_alive() for child in children)
            raise KeyboardInterrupt
    assert multiprocessing.active_children() == []
    assert not any(child.is_alive() for child in children)


def test_parts_are_those_of_the_store(data: Path) -> None:
    """The workers read them from it."""
    with started(data, 1) as workers, workers.snapshot() as snapshot:
        assert snapshot.meta().parts == PARTS
