"""Malformed requests at a real front door, by both lanes, over TCP and TLS.

``python -m tests.edge.malformed MUTATIONS SEED [MUTANT]`` sends them, as the harness of that name
does, and says what came of them. The promises: both lanes answer alike, to the byte; no answer is
a 5xx; each carries what every answer carries; what must be refused is refused; and what was
acknowledged is stored, no more and no less.
"""

from __future__ import annotations

import logging
import random
import re
import sys
import tempfile
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import structlog
import trio

from meterd.edge.limits import KIB, Limits
from meterd.edge.problems import ON_EVERY_ANSWER
from meterd.ledger import EventQuery
from tests.edge.encrypted import connect, served_with
from tests.edge.lane_bench import LEFT, SERVED, Lane
from tests.edge.loopback import open_door
from tests.edge.refused_requests import CHUNKED, REFUSED_BODIES, REFUSED_HEADS, head
from tests.system.torture import mutants
from tests.system.torture.harness import Tally

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Iterator

# Connections over TCP are half closed, and nothing is waited for. Encrypted ones cannot be: each
# waits until the other side gives up. That must not be before a machine that stalls for a moment
# has delivered the end of a request, or a handshake among others is through: one lane would say
# that it came too slowly, and the other what is wrong with it. Nor before the client has read what
# it is told: what is unread when a connection is reset is lost.
LIMITS: Final = Limits(
    body_bytes_max=256 * KIB,
    body_stall_s=2.0,
    head_s=2.0,
    keep_alive_s=2.0,
    handshake_s=5.0,
    linger_s=3.0,
    wrong_keys_max=10**9,  # every mutation comes from one address
)
AT_ONCE: Final = 16
# Mutations over the same doors, whose ledgers remember every event.
PART: Final = 2000
ENCRYPTED_SHARE: Final = 100
ENCRYPTED_AT_ONCE: Final = 16
BASE_BYTES_MAX: Final = 3000
_LINE: Final = b"POST /usage/api.calls HTTP/1.1"
_CHUNKED_HEAD: Final = head(b"x-apikey: k", CHUNKED, line=_LINE)
REFUSED: Final = {
    **{
        name: raw.replace(b"/echo", b"/usage/api.calls") for name, (_, raw) in REFUSED_HEADS.items()
    },
    **{f"body: {name}": _CHUNKED_HEAD + raw for name, (_, raw) in REFUSED_BODIES.items()},
}
INSERTED: Final = (
    b"\r\n", b"\n", b"\0", b" ", b":", b"\r", b"\xff", b"0\r\n\r\n", b"\r\n\r\n", b"\x1b[2J",
    b"Transfer-Encoding: chunked\r\n", b"Content-Length: 3\r\n", b"Content-Length: 28\r\n",
    b"Expect: 100-continue\r\n", b"Connection: close\r\n", b"Host: b\r\n",
)  # fmt: skip
# The customer in a base, whose place another takes in each mutation: idempotency keys are the
# customer's, and mutations are under way in another order at one lane than at the other.
CUSTOMER: Final = b"c" * 16
_LENGTH: Final = re.compile(rb"Content-Length: (\d+)")


def with_customer(raw: bytes) -> bytes:
    """The same requests of that customer, as far as each says how long it is."""
    renamed = b""
    while (end := raw.find(b"\r\n\r\n") + 4) > 3 and (length := _LENGTH.search(raw[:end])):
        body = raw[end : end + int(length[1])]
        longer = body.replace(b'"customerId":"c"', b'"customerId":"%b"' % CUSTOMER)
        size = int(length[1]) + len(longer) - len(body)
        renamed += _LENGTH.sub(b"Content-Length: %d" % size, raw[:end]) + longer
        raw = raw[end + len(body) :]
    return renamed + raw


# Sound ones more often: of what is wrong from the beginning, less is reached.
BASES: Final = tuple(
    with_customer(raw)
    for raw in (*[*SERVED.values(), *LEFT.values()] * 10, *REFUSED.values())
    if len(raw) < BASE_BYTES_MAX
)
_HANDSHAKES: Final = 4
_DATE: Final = re.compile(rb"\r\ndate: [^\r]*")
_STATUS: Final = re.compile(rb"HTTP/1\.1 (\d{3}) ")
ALWAYS: Final = tuple(b"\r\n%b: %b\r\n" % field for field in ON_EVERY_ANSWER)
_BATCH: Final = re.compile(rb'"(?:count|successCount)":(\d+)')
_REPEATED: Final = re.compile(rb'"duplicates":(\d+)')


def mutated(chance: random.Random) -> bytes:
    """One to five changes to a request: bytes replaced, put in, taken out, repeated, cut, added."""
    customer = b"%016x" % chance.getrandbits(64)
    raw = bytearray(chance.choice(BASES).replace(CUSTOMER, customer))
    for _ in range(chance.randrange(1, 6)):
        at = chance.randrange(len(raw) + 1)
        match chance.randrange(6):
            case 0 if raw:
                raw[at % len(raw)] = chance.randrange(256)
            case 1:
                raw[at:at] = chance.choice(INSERTED)
            case 2:
                del raw[at : at + chance.randrange(1, 20)]
            case 3:
                other = chance.randrange(len(raw) + 1)
                raw[at:at] = raw[min(at, other) : max(at, other)][:200]
            case 4:
                del raw[max(1, at) :]
            case _:
                raw += chance.choice(BASES).replace(CUSTOMER, customer)[:400]
    return bytes(raw)


class Doors:
    """The same front door with the plain lane and without, each over a ledger of its own."""

    def __init__(self, lanes: tuple[Lane, Lane], *, encrypted: bool) -> None:
        self.lanes = lanes
        self._encrypted = encrypted

    async def answers(self, raw: bytes) -> tuple[bytes, bytes]:
        first, second = [await self._exchange(lane, raw) for lane in self.lanes]
        return first, second

    async def _exchange(self, lane: Lane, raw: bytes) -> bytes:
        if not self._encrypted:
            return await lane.exchange(raw)
        stream = await self._connected(lane)
        answered = b""
        try:
            await stream.send_all(raw)
            while data := await stream.receive_some(65536):
                answered += data
        except trio.BrokenResourceError:
            pass
        await trio.aclose_forcefully(stream)
        return _DATE.sub(b"", answered)

    async def _connected(self, lane: Lane) -> trio.SSLStream[trio.SocketStream]:
        """The door gives a handshake as long as a head: on a machine that stands still now and then
        one may be too late, and nothing was said yet.
        """
        for _ in range(_HANDSHAKES):
            with suppress(trio.BrokenResourceError):
                return await connect(lane.door)
        return await connect(lane.door)

    async def stored(self) -> list[int]:
        return [len(await lane.ledger.events(EventQuery(), limit=10**7)) for lane in self.lanes]

    def failed(self) -> int:
        return sum(lane.door.door.statistics().failed for lane in self.lanes)


@asynccontextmanager
async def open_doors(context: ssl.SSLContext | None) -> AsyncIterator[Doors]:
    lanes = Lane(fast=True, limits=LIMITS), Lane(fast=False, limits=LIMITS)
    async with AsyncExitStack() as stack:
        for lane in lanes:
            opened = open_door(lane.app, LIMITS, lane.plain, lambda: context, patience_s=10**6)
            lane.door = await stack.enter_async_context(opened)
        yield Doors(lanes, encrypted=context is not None)


def acknowledged(answered: bytes) -> int:
    """How many events the answers say were stored by these requests."""
    batches = sum(map(int, _BATCH.findall(answered))) - sum(map(int, _REPEATED.findall(answered)))
    return answered.count(b'"message":"Event captured"') + batches


def is_carried(answered: bytes, answers: int) -> bool:
    """Whether so many answers, 100 Continue among them, have the headers of every answer."""
    return all(answered.count(line) == answers for line in ALWAYS)


class BrokenPromiseError(AssertionError):
    """What a server did with a request that it may not do."""


async def attack(count: int, seed: int, context: ssl.SSLContext | None) -> Counter[str]:
    """The last statuses of as many mutations. Raises BrokenPromiseError, naming the request."""
    seen: Counter[str] = Counter()
    expected = 0
    numbers = iter(range(count))
    async with open_doors(context) as doors:

        async def one_after_another() -> None:
            nonlocal expected
            for number in numbers:
                raw = mutated(random.Random(f"{seed}/{number}"))
                answers = await doors.answers(raw)
                statuses = _STATUS.findall(answers[0])
                alike = answers[0] == answers[1]
                failed = any(status.startswith(b"5") for status in statuses)
                if not alike or failed or not is_carried(answers[0], len(statuses)):
                    raise BrokenPromiseError(f"seed {seed}, number {number}: {raw!r} {answers!r}")
                expected += acknowledged(answers[0])
                seen[statuses[-1].decode() if statuses else "closed"] += 1

        async with trio.open_nursery() as nursery:
            for _ in range(AT_ONCE if context is None else ENCRYPTED_AT_ONCE):
                nursery.start_soon(one_after_another)
        if await doors.stored() != [expected] * 2 or doors.failed():
            stored = await doors.stored()
            raise BrokenPromiseError(
                f"seed {seed}: {expected} acknowledged, {stored} stored, {doors.failed()} failed"
            )
    seen["events"] = expected
    return seen


async def refuse_all(context: ssl.SSLContext | None) -> int:
    """How many named requests were refused. Raises BrokenPromiseError for one that was not."""
    async with open_doors(context) as doors:
        for name, raw in REFUSED.items():
            for answered in await doors.answers(raw):
                statuses = _STATUS.findall(answered)
                if len(statuses) != 1 or not statuses[0].startswith(b"4"):
                    raise BrokenPromiseError(f"{name}: {answered!r}")
        if await doors.stored() != [0, 0]:
            raise BrokenPromiseError("something was stored")
    return len(REFUSED)


async def run(count: int, seed: int, folder: Path) -> Counter[str]:
    """What came of so many mutations, most of them over TCP, and how many named ones were refused.

    Raises BrokenPromiseError.
    """
    context = served_with(folder)
    encrypted = count // ENCRYPTED_SHARE
    seen = await attack(count - encrypted, seed, None) + await attack(encrypted, seed + 1, context)
    seen["named"] = await refuse_all(None) + await refuse_all(context)
    return seen


def main() -> None:
    """A line of JSON for each part of what was asked for; ends at the first broken promise."""
    # What is refused is logged at debug, and would stand among the tallies.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    count, seed, *mutant = sys.argv[1:]
    mutants.apply(mutant[0] if mutant else None)
    left = int(count)
    with tempfile.TemporaryDirectory() as folder:
        for part in range(int(seed), sys.maxsize, 2):
            mutations = min(left, PART)
            left -= mutations
            tally = Tally(done=2 * mutations)
            try:
                tally.seen = trio.run(run, mutations, part, Path(folder))
            except* BrokenPromiseError as broken:
                tally.find(str(next(_leaves(broken))), wrong=1)
            print(msgspec.json.encode(tally).decode(), flush=True)
            if tally.broken or not left:
                break


def _leaves(group: BaseExceptionGroup[BrokenPromiseError]) -> Iterator[BrokenPromiseError]:
    for fault in group.exceptions:
        if isinstance(fault, BaseExceptionGroup):
            yield from _leaves(fault)
        else:
            yield fault


if __name__ == "__main__":
    main()
