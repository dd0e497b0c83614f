"""A whole daemon in this process: taken over, taken down, and broken under a request."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from meterd import daemon as daemon_module
from meterd.daemon import running
from meterd.domain.config import Config
from meterd.domain.deliveries import UNKNOWN
from meterd.domain.errors import CommitFailedError, StoreError
from meterd.embedded import journal
from meterd.work.delivery import DeliveryActor
from tests.daemon_bench import KEY, WEBHOOK, client_of, clock, configured, no_disk, post
from tests.edge.loopback import wait_until
from tests.edge.receivers import OK, listening

if TYPE_CHECKING:
    from collections.abc import Callable

    from meterd.daemon import Daemon
    from meterd.work.clock import Clock
    from tests.edge.receivers import Stream


async def stored(config: Config, path: str) -> list[Any]:
    """What a daemon that is started again reads."""
    async with running(config, clock()) as daemon, client_of(daemon) as http:
        found: list[Any] = (await http.get(path)).json()
        return found


# -- taking over ----------------------------------------------------------------------------------


async def test_a_reload_takes_effect_at_once(tmp_path: Path) -> None:
    """Event types, grace, webhooks, keys: for the next request, and for what is overdue now."""
    now = clock()
    delivered = trio.Event()

    async def receive(stream: Stream) -> None:
        await request_from_meterd(stream)
        await stream.send_all(OK)
        delivered.set()

    with trio.fail_after(20):
        async with (
            listening(receive) as receiver,
            running(configured(tmp_path, grace="30m"), now) as daemon,
            client_of(daemon) as http,
        ):
            assert await post(http) == 201
            assert await post(http, "new.type") == 400
            now.set("2026-03-10T10:00:00Z")
            hook = WEBHOOK.format(port=receiver.port)
            more = f'[events."new.type"]\nop = "max"\n{hook}'
            daemon.reconfigure(configured(tmp_path, more=more))
            await delivered.wait()
            assert await post(http, "new.type") == 201
            daemon.reconfigure(Config(events=daemon.settings.config().events))
            assert await post(http) == 401


async def request_from_meterd(stream: Stream) -> None:
    data = b""
    while b"}" not in data:
        data += await stream.receive_some()


async def test_what_is_wrong_with_the_clock_is_asked_of_both_who_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger, whether it is behind; the clock, whether it can be right."""
    now, faults = clock(), [None, "it stepped"]
    monkeypatch.setattr(now, "fault", lambda: faults[0])
    async with running(configured(tmp_path), now) as daemon, client_of(daemon) as http:
        assert await post(http) == 201
        now.advance(hours=-1)
        ready = (await http.get("/readyz")).json()
        assert ready["clock"].startswith("behind what is stored by 1h:")
        del faults[0]
        assert (await http.get("/readyz")).json()["clock"] == "it stepped"
        assert await post(http) == 503


async def test_its_deliveries_keep_step_with_what_closes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the workers who let the closer go on."""
    now, caught_up = clock(), trio.Event()

    async def catch_up(actor: DeliveryActor, made: int, made_s: float) -> None:
        assert actor is daemon.delivery
        caught_up.set()
        await trio.lowlevel.checkpoint()

    monkeypatch.setattr(DeliveryActor, "catch_up", catch_up)
    with trio.fail_after(20):
        async with running(configured(tmp_path), now) as daemon, client_of(daemon) as http:
            assert await post(http) == 201
            now.advance(hours=2)
            await caught_up.wait()


# -- taking down ----------------------------------------------------------------------------------


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_nothing_is_left_when_it_has_ended(tmp_path: Path) -> None:
    """No task, no open file, no listener; the folder can be opened again at once."""
    config = configured(tmp_path, more=WEBHOOK.format(port=9))
    tasks: list[int] = []
    files: list[int] = []
    for _ in range(3):
        async with running(config, clock()) as daemon:
            async with client_of(daemon) as http:
                assert await post(http) == 201
            port = httpx.URL(daemon.urls[0]).port
        tasks.append(trio.lowlevel.current_statistics().tasks_living)
        files.append(open_files())
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port)).close()
    assert len(set(tasks)) == 1
    assert files[1] == files[2]


class Stopped:
    """A daemon in a task of its own that is told to stop by ``stop``."""

    def __init__(self) -> None:
        self.stop = trio.Event()
        self.ended = trio.Event()

    async def run(
        self, config: Config, now: Clock, *, task_status: trio.TaskStatus[Daemon]
    ) -> None:
        async with running(config, now) as daemon:
            task_status.started(daemon)
            await self.stop.wait()
        self.ended.set()


def is_asking(daemon: Daemon) -> bool:
    now = daemon.front_door.statistics()
    return now.open == 1 and not now.idle


async def refuses(port: int) -> None:
    """Returns when nobody listens there any more."""
    while True:
        try:
            await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
        except OSError:
            return


async def test_a_request_that_was_accepted_is_answered_and_stored(tmp_path: Path) -> None:
    """Half of its body had come when the stop began: nobody else is let in, it is served."""
    config = configured(tmp_path)
    told = Stopped()
    body = json.dumps({"customerId": "late", "value": 1}).encode()
    head = [
        "POST /usage/api.calls HTTP/1.1",
        "Host: a",
        f"x-apikey: {KEY}",
        f"Content-Length: {len(body)}",
    ]
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            daemon: Daemon = await nursery.start(told.run, config, clock())
            port = httpx.URL(daemon.urls[0]).port
            assert port is not None
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                await stream.send_all("\r\n".join([*head, "", ""]).encode() + body[:5])
                await wait_until(lambda: is_asking(daemon))
                told.stop.set()
                await refuses(port)
                assert not told.ended.is_set()
                await stream.send_all(body[5:])
                assert (await stream.receive_some()).startswith(b"HTTP/1.1 201 ")
            await told.ended.wait()
    assert [event["customerId"] for event in await stored(config, "/events")] == ["late"]


class HeldReceiver:
    """Answers when it is told to."""

    def __init__(self) -> None:
        self.arrived = trio.Event()
        self.may_answer = trio.Event()

    async def receive(self, stream: Stream) -> None:
        await request_from_meterd(stream)
        self.arrived.set()
        await self.may_answer.wait()
        await stream.send_all(OK)


async def stop_with_a_delivery_in_the_air(
    tmp_path: Path, during_stop: Callable[[HeldReceiver], None]
) -> dict[str, Any]:
    """The state of the delivery afterwards, as a later start shows it."""
    held, told, now = HeldReceiver(), Stopped(), clock()
    with trio.fail_after(20):
        async with listening(held.receive) as receiver, trio.open_nursery() as nursery:
            config = configured(tmp_path, more=WEBHOOK.format(port=receiver.port))
            daemon: Daemon = await nursery.start(told.run, config, now)
            async with client_of(daemon) as http:
                assert await post(http) == 201
            now.set("2026-03-10T10:00:00Z")
            await held.arrived.wait()
            told.stop.set()
            await refuses(httpx.URL(daemon.urls[0]).port or 0)
            await wait_all_tasks_blocked(0.1)  # all that can end has ended
            assert not told.ended.is_set()
            during_stop(held)
            await told.ended.wait()
    [found] = await stored(configured(tmp_path), "/aggregations")
    status: dict[str, Any] = found["webhookStatus"]
    return status


async def test_a_delivery_in_the_air_may_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its answer is written down and ends the stop: the receiver is not sent the same again."""
    monkeypatch.setattr(daemon_module, "DELIVERY_STOP_S", 600)
    status = await stop_with_a_delivery_in_the_air(tmp_path, lambda held: held.may_answer.set())
    assert status == {
        "delivered": True,
        "attempts": 1,
        "deliveredAt": "2026-03-10T10:00:00.000Z",
    }


async def test_a_receiver_that_does_not_answer_does_not_hold_up_the_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attempt is cut, and counts as made: whether it came through is unknown."""
    monkeypatch.setattr(daemon_module, "DELIVERY_STOP_S", 0.5)
    status = await stop_with_a_delivery_in_the_air(tmp_path, lambda _: None)
    assert status.pop("lastAttemptAt")
    assert status == {"delivered": False, "attempts": 1, "lastError": UNKNOWN}


async def test_a_start_knows_which_event_types_were_taken_out(tmp_path: Path) -> None:
    """While periods are open that have events of them, which will be on no bill."""
    now, gone = clock(), '[events."gone"]\nop = "max"\n'
    async with running(configured(tmp_path, more=gone), now) as daemon, client_of(daemon) as http:
        assert daemon.left_out == []
        assert (await post(http), await post(http, "gone")) == (201, 201)
    now.set("2026-03-10T10:00:00Z")
    async with running(configured(tmp_path), now) as daemon:
        assert daemon.left_out == ["gone"]
        with trio.fail_after(20):
            await daemon.closer.caught_up.wait()
    async with running(configured(tmp_path), now) as daemon:
        assert daemon.left_out == []


async def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    """Two daemons over one folder would both be the only writer."""
    async with running(configured(tmp_path), clock()):
        with pytest.raises(StoreError, match="another meterd has"):
            async with running(configured(tmp_path), clock()):
                raise AssertionError("two daemons over one folder")


# -- broken ---------------------------------------------------------------------------------------


async def test_a_failed_commit_ends_the_daemon_and_answers_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the event is on disk is unknown, so neither yes nor no is said."""
    with trio.fail_after(20):
        with pytest.RaisesGroup(CommitFailedError, flatten_subgroups=True):
            async with running(configured(tmp_path), clock()) as daemon:
                monkeypatch.setattr(journal, "write_changes", no_disk)
                async with client_of(daemon) as http:
                    with pytest.raises(httpx.RemoteProtocolError):
                        await post(http)
                await trio.sleep_forever()
        monkeypatch.undo()
        assert await stored(configured(tmp_path), "/events") == []
