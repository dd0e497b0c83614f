"""Where deliveries may go: names that lie, names that hang, and dead addresses."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest
import trio

from meterd.edge.dialling import DIAL_S, system_look_up
from meterd.edge.egress import open_sender
from tests.edge.receivers import (
    BODY,
    HEADERS,
    LOOPBACK,
    OK,
    TRUSTING_NOBODY,
    answering,
    endpoint,
    listening,
    post,
    resolving,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trio.testing import MockClock

NOWHERE = endpoint()

# Every way to write this machine that the system's look-up understands without a name server.
FORGED = [
    "127.0.0.1",
    "localhost",
    "127.1",
    "2130706433",
    "0x7f000001",
    "0177.0.0.1",
    "0",
    "0.0.0.0",
    "127.0.0.1.",
    "[::1]",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[::127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[2002:7f00:1::]",
    "good.test@127.0.0.1",
]


@pytest.mark.parametrize("host", FORGED)
async def test_no_spelling_of_this_machine_passes(host: str) -> None:
    """Judged is what would be dialled, not what is written; the receiver sees no connection."""
    async with listening(answering(OK)) as receiver:
        error = (await post(f"http://{host}:{receiver.port}/", NOWHERE)).error
        assert error is not None
        unreadable = ("getaddrinfo ENOTFOUND ", "Invalid URL: ")
        assert "is private (" in error or error.startswith(unreadable)
        assert receiver.connections == 0


async def test_the_refusal_says_what_to_write() -> None:
    """An operator with a receiver on the same machine reads in the error how to allow it."""
    async with listening(answering(OK)) as receiver:
        refused = await post(receiver.port, NOWHERE)
        assert refused.error == (
            "address 127.0.0.1 is private (loopback); to allow it "
            'add allow_private = ["127.0.0.1/32"] to the webhook "billing"'
        )
        assert (await post(receiver.port, endpoint("127.0.0.1/32"))).error is None


async def test_one_bad_address_refuses_all() -> None:
    """A name that leads here and elsewhere is not dialled at its good address either."""
    async with listening(answering(OK)) as receiver:
        for answer in (["127.0.0.1", "10.0.0.1"], ["10.0.0.1", "127.0.0.1"]):
            outcome = await post(
                f"http://mixed.test:{receiver.port}/", LOOPBACK, resolve=resolving(answer)
            )
            assert outcome.error is not None
            assert outcome.error.startswith("address 10.0.0.1 is private (private use)")
        assert receiver.connections == 0


async def test_a_name_cannot_be_rebound_between_check_and_connection() -> None:
    """What was judged is dialled; another answer counts for the next connection and is judged."""
    look_ups = resolving(["127.0.0.1"], ["10.0.0.1"])
    async with (
        listening(answering(OK, OK)) as receiver,
        open_sender(LOOPBACK, TRUSTING_NOBODY, resolve=look_ups) as sender,
    ):
        url = f"http://rebound.test:{receiver.port}/"
        assert (await sender.post(url, HEADERS, BODY)).error is None
        assert (await sender.post(url, HEADERS, BODY)).error is None
        await receiver.ended.wait()
        refused = await sender.post(url, HEADERS, BODY)
        assert refused.error is not None
        assert refused.error.startswith("address 10.0.0.1 is private (private use)")
        assert receiver.connections == 1


async def test_a_changed_exemption_holds_from_the_next_request_on() -> None:
    """A range taken out of the configuration is not reached over a kept connection either."""
    requests: list[bytes] = []
    async with (
        listening(answering(OK, OK, requests=requests)) as receiver,
        open_sender(NOWHERE, TRUSTING_NOBODY) as sender,
    ):
        url = f"http://127.0.0.1:{receiver.port}/"
        assert (await sender.post(url, HEADERS, BODY)).error
        sender.update(LOOPBACK)
        assert (await sender.post(url, HEADERS, BODY)).error is None
        sender.update(NOWHERE)
        refused = await sender.post(url, HEADERS, BODY)
        assert refused.error is not None
        assert "is private (loopback)" in refused.error
        assert len(requests) == 1


# -- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failure", "error"),
    [
        (socket.gaierror(socket.EAI_NONAME, "x"), "getaddrinfo ENOTFOUND billing.test"),
        (socket.gaierror(socket.EAI_NODATA, "x"), "getaddrinfo ENOTFOUND billing.test"),
        (socket.gaierror(socket.EAI_AGAIN, "x"), "getaddrinfo EAI_AGAIN billing.test"),
        (socket.gaierror(-999, "x"), "getaddrinfo -999 billing.test"),
        (OSError(24, "Too many\nopen files"), "[Errno 24] Too many open files"),
    ],
)
async def test_a_failed_look_up_is_named(failure: OSError, error: str) -> None:
    """As Node names it; whatever else the system reports stays one line."""

    async def resolve(host: str) -> Sequence[str]:
        raise failure

    assert (await post("http://billing.test/", resolve=resolve)).error == error


async def test_a_name_without_addresses_is_not_found() -> None:
    """An empty answer is no reason to dial the name itself."""
    outcome = await post("http://billing.test/", resolve=resolving([]))
    assert outcome.error == "getaddrinfo ENOTFOUND billing.test"


@pytest.mark.parametrize("host", ["a..b", "a" * 64 + ".test"])
async def test_what_cannot_be_a_name_is_not_found(host: str) -> None:
    """Python refuses these before it asks anybody, with an error of another kind."""
    assert (await post(f"http://{host}/")).error == f"getaddrinfo ENOTFOUND {host}"


async def test_what_is_no_url_is_an_outcome() -> None:
    """The parser is stricter than the configuration in some corners."""
    outcome = await post("http://[::1%25]x/")
    assert outcome.error is not None
    assert outcome.error.startswith("Invalid URL: ")


async def test_our_own_mistakes_are_no_outcome() -> None:
    """A bug is not blamed on the receiver and tried again for three days."""

    async def resolve(host: str) -> Sequence[str]:
        raise ZeroDivisionError

    with pytest.RaisesGroup(ZeroDivisionError):
        await post("http://billing.test/", resolve=resolve)


async def test_hung_look_ups_take_no_thread_from_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """They end with the deadline, hold two threads at most, and none of those that commits use."""
    release = threading.Event()
    hanging = threading.Semaphore(0)

    def getaddrinfo(*args: Any, **kwargs: Any) -> Any:
        hanging.release()
        release.wait(20)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    errors: list[str | None] = []

    async def attempt(resolve: Callable[..., Any]) -> None:
        outcome = await post("http://billing.test/", resolve=resolve, deadline_s=0.1)
        errors.append(outcome.error)

    try:
        async with trio.open_nursery() as nursery:
            resolve = system_look_up()
            for _ in range(4):
                nursery.start_soon(attempt, resolve)
        assert errors == ["Request timeout"] * 4
        assert trio.to_thread.current_default_thread_limiter().borrowed_tokens == 0
        assert [hanging.acquire(blocking=False) for _ in range(3)] == [True, True, False]
    finally:
        release.set()


# -- dialling -------------------------------------------------------------------------------------


async def test_a_refused_connection_names_the_address() -> None:
    """The address that was dialled, which the name does not tell."""
    async with listening(answering(OK)) as receiver:
        port = receiver.port
    outcome = await post(f"http://billing.test:{port}/", resolve=resolving(["127.0.0.1"]))
    assert outcome.error == f"connect ECONNREFUSED 127.0.0.1:{port}"


async def test_a_dead_address_is_passed_over() -> None:
    """A receiver that listens on one of its addresses only is reached."""
    async with listening(answering(OK)) as receiver:
        url = f"http://billing.test:{receiver.port}/"
        assert (await post(url, resolve=resolving(["127.0.0.2", "127.0.0.1"]))).error is None


async def test_a_name_with_very_many_addresses_is_not_scanned() -> None:
    """Sixteen are tried: a name server cannot make meterd knock everywhere."""
    async with listening(answering(OK, OK)) as receiver:
        url = f"http://billing.test:{receiver.port}/"
        answer = [f"127.0.0.{last}" for last in range(2, 17)]
        outcome = await post(url, resolve=resolving([*answer, "127.0.0.1"]))
        assert outcome.error is None
        outcome = await post(url, resolve=resolving([*answer, "127.0.0.17", "127.0.0.1"]))
        assert outcome.error == f"connect ECONNREFUSED 127.0.0.17:{receiver.port}"
        assert receiver.connections == 1


@pytest.fixture
def jumping(autojump_clock: MockClock) -> MockClock:
    """Does not jump while loopback still carries something."""
    autojump_clock.autojump_threshold = 0.02
    return autojump_clock


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses that were dialled; only 127.0.0.1 says anything."""
    dial = trio.open_tcp_stream
    dialled: list[str] = []

    async def silent_elsewhere(host: str, port: int, **options: Any) -> trio.SocketStream:
        dialled.append(host)
        if host != "127.0.0.1":
            await trio.sleep_forever()
        return await dial(host, port, **options)

    monkeypatch.setattr(trio, "open_tcp_stream", silent_elsewhere)
    return dialled


@pytest.mark.usefixtures("silent")
async def test_an_address_that_says_nothing_leaves_time_for_the_next(
    jumping: MockClock,
) -> None:
    """A third of the deadline at most; all silent is a timeout with the last one's name."""
    async with listening(answering(OK)) as receiver:
        url = f"http://billing.test:{receiver.port}/"
        before_s = trio.current_time()
        assert (await post(url, resolve=resolving(["127.0.0.2", "127.0.0.1"]))).error is None
        assert trio.current_time() - before_s == pytest.approx(DIAL_S)
        outcome = await post(url, resolve=resolving(["127.0.0.2", "127.0.0.3"]))
        assert outcome.error == f"connect ETIMEDOUT 127.0.0.3:{receiver.port}"


@pytest.mark.parametrize("deadline_s", [15.0, 1.0])
@pytest.mark.usefixtures("silent")
async def test_the_last_of_many_addresses_has_its_time(
    deadline_s: float, jumping: MockClock
) -> None:
    """However many say nothing before it, and however short the deadline is."""
    answer = [f"127.0.0.{last}" for last in range(2, 17)]
    async with listening(answering(OK)) as receiver:
        url = f"http://billing.test:{receiver.port}/"
        outcome = await post(url, resolve=resolving([*answer, "127.0.0.1"]), deadline_s=deadline_s)
        assert outcome.error is None


async def test_versions_take_turns(silent: list[str], jumping: MockClock) -> None:
    """A network whose version 6 leads nowhere costs one wait; the first stays first."""
    allowed = endpoint("127.0.0.0/8", "fd00::/8")
    async with listening(answering(OK)) as receiver:
        url = f"http://billing.test:{receiver.port}/"
        answer = ["fd00::1", "fd00::2", "fd00::3", "127.0.0.1", "127.0.0.2"]
        assert (await post(url, allowed, resolve=resolving(answer))).error is None
    assert silent == ["fd00::1", "127.0.0.1"]
