"""A daemon that has to recover: it listens meanwhile, says so, and can be stopped."""

from __future__ import annotations

import errno
import socket
import threading
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
from msgspec.structs import replace

from meterd import machine
from meterd.daemon import listening, running
from meterd.domain.errors import MeterdError
from meterd.embedded import committer, posting, recovery
from meterd.embedded.store import Store
from tests.daemon_bench import WEBHOOK, client_of, clock, configured, post
from tests.edge.loopback import wait_until
from tests.edge.receivers import OK
from tests.edge.receivers import listening as listening_receiver
from tests.embedded.engine_bench import post_rest

if TYPE_CHECKING:
    from meterd.domain.addresses import Server
    from meterd.domain.config import Config
    from meterd.embedded.recovery import Posted
    from meterd.embedded.transaction import Transaction
    from tests.edge.receivers import Stream

EVENTS = 5


class HeldRecovery:
    """Each of its transactions waits for a permit, in its thread; one block in each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun = 0
        self.may_post = threading.Semaphore(0)
        post_some = recovery.post_some

        def held(txn: Transaction, parts: int) -> Posted:
            self.begun += 1
            assert self.may_post.acquire(timeout=20)
            return post_some(txn, parts)

        monkeypatch.setattr(recovery, "_BLOCKS_AT_ONCE", 1)
        monkeypatch.setattr(recovery, "post_some", held)

    def let_all_pass(self) -> None:
        self.may_post.release(1000)


async def crashed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """Over a folder as a kill leaves it: events in the log, none of them posted."""
    config = configured(folder)
    with monkeypatch.context() as patch:
        patch.setattr(posting, "LAST_POSTING_S", 0)
        async with running(config, clock()) as daemon, client_of(daemon) as http:
            for _ in range(EVENTS):
                assert await post(http) == 201
    return config


def unposted(config: Config) -> int:
    """How many blocks of events a start has still to count."""
    with closing(Store(Path(config.storage.path))) as store:
        return post_rest(store)


async def test_it_listens_before_it_has_recovered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alive but not ready: events are refused in both lanes until they can be taken, and then
    the total is that of all.
    """
    config = await crashed(tmp_path, monkeypatch)
    held = HeldRecovery(monkeypatch)
    with trio.fail_after(20):
        async with listening(config, clock()) as daemon, client_of(daemon) as http:
            await wait_until(lambda: held.begun == 1)
            assert (await http.get("/healthz")).status_code == 200
            assert (await http.get("/readyz")).status_code == 503
            odd = {"odd": "not for the fast lane"}
            for headers in ({}, odd):
                event = {"customerId": "c", "value": 1}
                refused = await http.post("/usage/api.calls", json=event, headers=headers)
                assert refused.status_code == 503
                assert refused.headers["Retry-After"] == "1"
                assert refused.json()["error"].startswith("Starting: ")
            assert not daemon.started.is_set()
            held.let_all_pass()
            await daemon.started.wait()
            assert await post(http) == 201
            await http.post("/aggregations/trigger")
            [found] = (await http.get("/aggregations")).json()
            assert found["exact"] == {"api.calls": str(EVENTS + 1)}


async def test_it_can_be_left_while_it_recovers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two transactions, however many are left; the next start goes on there."""
    config = await crashed(tmp_path, monkeypatch)
    with monkeypatch.context() as patch, trio.fail_after(20):
        held = HeldRecovery(patch)
        async with listening(config, clock()):
            await wait_until(lambda: held.begun == 1)
            threading.Timer(0.1, held.let_all_pass).start()
        assert held.begun == 1
    assert unposted(config) == EVENTS - 1


async def test_a_reload_while_it_recovers_is_in_force_when_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Event types at once; webhooks when deliveries begin."""
    config = await crashed(tmp_path, monkeypatch)
    held, delivered = HeldRecovery(monkeypatch), trio.Event()

    async def receive(stream: Stream) -> None:
        await stream.receive_some()
        await stream.send_all(OK)
        delivered.set()

    with trio.fail_after(20):
        async with (
            listening_receiver(receive) as receiver,
            listening(config, now := clock()) as daemon,
        ):
            daemon.reconfigure(configured(tmp_path, more=WEBHOOK.format(port=receiver.port)))
            now.set("2026-03-10T10:00:00Z")
            held.let_all_pass()
            await delivered.wait()


async def test_an_address_in_use_is_found_before_it_has_recovered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which may take long."""
    config = await crashed(tmp_path, monkeypatch)
    with socket.create_server(("127.0.0.1", 0)) as taken, monkeypatch.context() as patch:
        server = replace(config.server, port=taken.getsockname()[1])
        held = HeldRecovery(patch)
        listeners_at, begun = machine._listeners_at, []

        async def listeners_tried_at(server: Server) -> list[trio.SocketListener]:
            try:
                return await listeners_at(server)
            finally:
                begun.append(held.begun)
                held.let_all_pass()

        patch.setattr(machine, "_listeners_at", listeners_tried_at)
        with pytest.RaisesGroup(MeterdError, flatten_subgroups=True):
            async with listening(replace(config, server=server), clock()):
                raise AssertionError("it listens at an address in use")
    assert begun in ([0], [1])  # of five


async def test_a_full_disk_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when it serves: nothing is lost, and somebody may make room."""
    config = await crashed(tmp_path, monkeypatch)
    monkeypatch.setattr(committer, "FULL_SECONDS", 0.01)
    post_some, tried = recovery.post_some, 0

    def full(txn: Transaction, parts: int) -> Posted:
        nonlocal tried
        tried += 1
        if tried < 5:
            raise OSError(errno.ENOSPC, "no space left on device")
        return post_some(txn, parts)

    monkeypatch.setattr(recovery, "post_some", full)
    with trio.fail_after(20):
        async with running(config, clock()):
            assert tried > 5
