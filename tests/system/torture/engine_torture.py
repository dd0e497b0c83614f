"""What the harnesses over the engine share: a life in a child, and what is looked at then."""

from __future__ import annotations

import gc
import logging
import shutil
from contextlib import AsyncExitStack
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import structlog
import trio

from meterd.domain.errors import CommitFailedError, DiskFullError, StoreError
from meterd.embedded.posting import POST_SECONDS
from meterd.embedded.verification import verify
from tests.ledger_bench import SettableClock
from tests.system.torture.children import Voice, fork
from tests.system.torture.engine_check import Check
from tests.system.torture.engine_heard import Heard
from tests.system.torture.engine_life import EndedError, Living, is_of, run
from tests.system.torture.engine_scenario import ENDPOINTS, LATER_MS, scenario
from tests.system.torture.harness import Run, Tally
from tests.system.torture.shimmed import made_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from tests.system.torture.engine_scenario import Scenario

BROKEN_DISK = 70  # as the daemon ends
NO_START = 1
# Of stores that were followed to the end so many are verified: 15 ms each.
_VERIFIED = 4


class Base(msgspec.Struct, frozen=True):
    """A folder as the lives before left it, what was heard of them, and when the next begins."""

    folder: Path
    lived: int
    now_ms: int
    heard: Heard


def bases_of_scenarios(seed: int, folder: Path, tally: Tally) -> Iterator[tuple[Scenario, Base]]:
    """One scenario after another without end, and for each of its lives what it begins with.

    A life that cannot be lived though nothing is done to it ends them.
    """
    for number in count(seed):
        told = scenario(number)
        base = Base(folder / "base", 0, told.start_ms, Heard())
        shutil.rmtree(base.folder, ignore_errors=True)
        for life in told.lives:
            yield told, base
            ended = fork(partial(live, told, base, base.folder))
            if ended.exit_code:
                tally.find(f"scenario {number}, life {base.lived}, undisturbed: {ended}", wrong=1)
                return
            heard = base.heard.copy()
            heard.hear(ended.said)
            base = Base(base.folder, base.lived + 1, base.now_ms + life.lasts_ms, heard)


def live(
    told: Scenario,
    base: Base,
    folder: Path,
    voice: Voice,
    watch: Callable[[Living], Awaitable[None]] | None = None,
) -> int:
    """In a child, lives what follows that base; the exit code that the daemon would end with."""
    gc.disable()  # a life is short, and a collection would copy pages of the parent
    living = Living(told, SettableClock(base.now_ms), voice)
    try:
        run(partial(living.live, folder, told.lives[base.lived], watch), seed=told.seed)
    except BaseException as fault:
        if is_of(fault, CommitFailedError):  # also where the life ended in the same turn
            return BROKEN_DISK
        if is_of(fault, EndedError):
            return 0
        if is_of(fault, (StoreError, DiskFullError, OSError)):
            return NO_START
        raise
    return 0


def copy_store(source: Path, target: Path) -> None:
    """What a start finds: the data, not LMDB's table of readers. Alone in a folder."""
    shutil.rmtree(target.parent, ignore_errors=True)
    target.parent.mkdir()
    if (source / "store").exists():
        (target / "store").mkdir(parents=True)
        shutil.copyfile(source / "store" / "data.mdb", target / "store" / "data.mdb")


class Afterwards:
    """What is looked at when something has happened to a life."""

    def __init__(self, told: Scenario, tally: Tally) -> None:
        self._told = told
        self._tally = tally
        self.check = Check(told, tally)
        self._followed = count()

    def look(self, folder: Path, base: Base, said: bytes, where: str, *, to_the_end: bool) -> None:
        """Starts the engine again and checks what it has; then, to the end, the client repeats
        what it has no answer for, every period ends, all is delivered, and it is checked again.
        """
        heard = base.heard.copy()
        heard.hear(said)
        sent = self._told.sent_in(base.lived + 1)
        life = self._told.lives[base.lived]
        clock = SettableClock(base.now_ms + life.lasts_ms)

        async def again() -> None:
            listening = _Listening(heard)
            living = Living(self._told, clock, listening)
            async with AsyncExitStack() as stack:
                store = await living.start(stack, folder, life.map_size)
                self.check.check(store, heard, sent, where)
                if to_the_end:
                    await self._to_the_end(living, clock, heard, sent)
                    self.check.check_end(store, heard, sent, f"{where}, at the end")

        try:
            run(again, seed=self._told.seed)
            if to_the_end and next(self._followed) % _VERIFIED == 0:
                self._verify(folder, f"{where}, at the end")
        except Exception as fault:  # noqa: BLE001 - whatever it is, it is what was looked for
            self._tally.find(f"{where}: {_leaf(fault)!r}", wrong=1)
        self._tally.acknowledged += len(heard.acknowledged)

    def _verify(self, folder: Path, where: str) -> None:
        for difference in verify(folder):
            self._tally.find(f"{where}: {difference}", wrong=1)

    async def _to_the_end(
        self, living: Living, clock: SettableClock, heard: Heard, sent: set[int]
    ) -> None:
        heard.refused.clear()
        again = [
            number
            for number in sorted(sent - heard.acknowledged)
            if number >= heard.forgotten_below and self._told.events[number].idempotency_key
        ]
        if again:
            await living.append(again)
        clock.now_ms += LATER_MS
        await living.close_ended()
        await living.tell()
        await living.revise()
        for endpoint_id in ENDPOINTS:
            while await living.deliver(endpoint_id):
                pass
        await trio.sleep(3 * POST_SECONDS)  # in which all is posted, idempotency keys too


class _Listening(Voice):
    """Speaks to who is in the same process."""

    def __init__(self, heard: Heard) -> None:
        self._heard = heard

    def say(self, text: str) -> None:
        self._heard.hear(f"{text}\n".encode())


def _leaf(fault: BaseException) -> BaseException:
    while isinstance(fault, BaseExceptionGroup):
        fault = fault.exceptions[0]
    return fault


def in_worker(
    run: Run, work: Callable[[Run, Tally], None], tally: Tally, where: Callable[[], str]
) -> None:
    """Has a child do what is left of the run, or a part: a store that is broken may kill it."""
    left = msgspec.structs.replace(run, count=run.left(tally))

    def work_and_tell(voice: Voice) -> int:
        found = Tally()
        work(left, found)
        voice.say(msgspec.json.encode(found).decode())
        return 0

    ended = fork(work_and_tell, seconds=3600)
    if ended.exit_code == 0:
        tally.add(msgspec.json.decode(ended.said, type=Tally, dec_hook=made_of))
    else:
        tally.done += 1
        tally.find(f"{where()}: whoever looked ended with {ended}", wrong=1)


def freeze() -> None:
    """What is loaded stays, and no child looks through it or says what it would tell people."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    gc.collect()
    gc.freeze()
