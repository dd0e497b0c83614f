"""Work in a forked process: what it mounts, patches or breaks is gone with it."""

from __future__ import annotations

import logging
import os
import signal
import sys
import traceback
import warnings
from functools import partial
from typing import TYPE_CHECKING, Final, NoReturn

import msgspec
import structlog

from tests.system.torture.disks.mounts import die_with_parent
from tests.system.torture.harness import Tally

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from tests.system.torture.harness import Run

    Tell: TypeAlias = Callable[[int], None]

_SILENT: Final = logging.CRITICAL


def in_child(
    work: Callable[[Tell], Tally], heard: Tell = lambda _: None, *, seconds: int = 0
) -> Tally:
    """What the work found; a death by a signal is one more thing that is wrong.

    The work may ``tell`` how much is done meanwhile. It ends with this process, and before this
    function does. One that takes longer than ``seconds``, if they are given, is ended by SIGALRM.
    """
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        # Threads that wait for work, such as trio's, are not in the child and not missed there.
        warnings.simplefilter("ignore", DeprecationWarning)
        sys.stdout.flush()
        sys.stderr.flush()
        child = os.fork()
    if not child:
        os.close(reading)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # a test runner may have its own
        signal.alarm(seconds)
        _work(work, writing)
    os.close(writing)
    try:
        with os.fdopen(reading, "rb") as lines:
            said = b""
            for line in lines:
                said = line
                if (done := msgspec.json.decode(line)) and isinstance(done, int):
                    heard(done)
    except BaseException:
        os.kill(child, signal.SIGTERM)
        raise
    finally:
        _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        tally = Tally()
        tally.find(f"ended by {signal.Signals(-code).name}", wrong=1)
        return tally
    assert code == 0, "the harness itself failed: see above"
    # JSON knows no Counter.
    return msgspec.json.decode(said, type=Tally, dec_hook=lambda kind, value: kind(value))


def in_parts(run: Run, each: int, work: Callable[[int, int, Tell], Tally]) -> Tally:
    """All that the run counts, so many at a time, each part in a child of its own; no part follows
    one that found something.

    ``work`` is given the number of the part and how many it is to do.
    """
    tally = Tally()
    for number, done in enumerate(range(0, run.count, each)):
        part = partial(work, number, min(each, run.count - done))
        tally.add(in_child(part, partial(_tell, run, done)))
        if tally.broken:
            break
    return tally


def _tell(run: Run, before: int, more: int) -> None:
    run.done(before + more)


def _work(work: Callable[[Tell], Tally], writing: int) -> NoReturn:
    code = 1
    try:
        die_with_parent()
        signal.signal(signal.SIGTERM, _leave)
        # What meterd says in here is not for whoever watches the harness.
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(_SILENT))
        tally = work(lambda done: _say(writing, done))
        _say(writing, tally)
        code = 0
    except Exception:  # noqa: BLE001 - shown, and the parent fails on it
        traceback.print_exc()
    finally:
        os._exit(code)


def _say(writing: int, what: object) -> None:
    os.write(writing, msgspec.json.encode(what) + b"\n")


def _leave(number: int, frame: object) -> NoReturn:
    raise SystemExit(1)
