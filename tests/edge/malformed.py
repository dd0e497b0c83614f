"""Malformed requests at a real front door, by both lanes, over TCP and TLS.

``python -m tests.edge.malformed --mutations 1000000 --seed 7`` sends the named ones and then as
many mutations, and prints what came of them; it ends with 1 at the first one that broke a promise,
with its seed. The promises: both lanes answer alike, to the byte; no answer is a 5xx; what must be
refused is refused; and what was acknowledged is stored, no more and no less.
"""

from __future__ import annotations

import argparse
import random
import re
import tempfile
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from meterd.edge.limits import KIB, Limits
from meterd.ledger import EventQuery
from tests.edge.encrypted import connect, served_with
from tests.edge.loopback import open_door
from tests.edge.refused_requests import CHUNKED, REFUSED_BODIES, REFUSED_HEADS, head
from tests.edge.test_plain_lane import LEFT, SERVED, Lane

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator

LIMITS: Final = Limits(
    body_bytes_max=256 * KIB,
    body_stall_s=0.3,
    head_s=0.3,
    keep_alive_s=0.3,
    linger_s=0.1,
    wrong_keys_max=10**9,  # every mutation comes from one address
)
AT_ONCE: Final = 16
# Encrypted connections cannot be half closed: each waits until the other side gives up, which must
# not be before a handshake among others is through.
PATIENT: Final = msgspec.structs.replace(
    LIMITS, body_stall_s=2.0, head_s=2.0, keep_alive_s=2.0, handshake_s=5.0
)
ENCRYPTED_SHARE: Final = 100
ENCRYPTED_AT_ONCE: Final = 6
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
# Sound ones more often: of what is wrong from the beginning, less is reached.
BASES: Final = tuple(
    raw
    for raw in (*[*SERVED.values(), *LEFT.values()] * 10, *REFUSED.values())
    if len(raw) < BASE_BYTES_MAX
)
_DATE: Final = re.compile(rb"\r\ndate: [^\r]*")
_STATUS: Final = re.compile(rb"HTTP/1\.1 (\d{3}) ")
_BATCH: Final = re.compile(rb'"(?:count|successCount)":(\d+)')
_REPEATED: Final = re.compile(rb'"duplicates":(\d+)')


def mutated(chance: random.Random) -> bytes:
    """One to five changes to a request: bytes replaced, put in, taken out, repeated, cut, added."""
    raw = bytearray(chance.choice(BASES))
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
                raw += chance.choice(BASES)[:400]
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
        stream = await connect(lane.door)
        answered = b""
        try:
            await stream.send_all(raw)
            while data := await stream.receive_some(65536):
                answered += data
        except trio.BrokenResourceError:
            pass
        await trio.aclose_forcefully(stream)
        return _DATE.sub(b"", answered)

    async def stored(self) -> list[int]:
        return [len(await lane.ledger.events(EventQuery(), limit=10**7)) for lane in self.lanes]

    def failed(self) -> int:
        return sum(lane.door.door.statistics().failed for lane in self.lanes)


@asynccontextmanager
async def open_doors(context: ssl.SSLContext | None) -> AsyncIterator[Doors]:
    limits = PATIENT if context else LIMITS
    lanes = Lane(fast=True, limits=limits), Lane(fast=False, limits=limits)
    async with AsyncExitStack() as stack:
        for lane in lanes:
            opened = open_door(lane.app, limits, lane.plain, lambda: context, patience_s=10**6)
            lane.door = await stack.enter_async_context(opened)
        yield Doors(lanes, encrypted=context is not None)


def acknowledged(answered: bytes) -> int:
    """How many events the answers say were stored by these requests."""
    batches = sum(map(int, _BATCH.findall(answered))) - sum(map(int, _REPEATED.findall(answered)))
    return answered.count(b'"message":"Event captured"') + batches


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
                if not alike or any(status.startswith(b"5") for status in statuses):
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


async def run(count: int, seed: int, folder: Path) -> list[tuple[str, int, Counter[str]]]:
    """By transport: how many named requests were refused, and what came of the mutations."""
    context = served_with(folder)
    encrypted = count // ENCRYPTED_SHARE
    return [
        ("TCP", await refuse_all(None), await attack(count - encrypted, seed, None)),
        ("TLS", await refuse_all(context), await attack(encrypted, seed + 1, context)),
    ]


def printed(seed: int, rows: list[tuple[str, int, Counter[str]]]) -> str:
    lines = [f"malformed requests, both lanes each, seed {seed}"]
    for name, refused, seen in rows:
        events = seen.pop("events")
        what = ", ".join(f"{status} {count}" for status, count in sorted(seen.items()))
        lines.append(
            f"  {name}: {refused} named refused; {seen.total()} mutations: {what};"
            f" {events} events acknowledged and stored"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutations", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        print(printed(given.seed, trio.run(run, given.mutations, given.seed, Path(folder))))
