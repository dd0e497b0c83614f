"""meterd as it is, in a process of its own, but for a clock that can be set forward over stdin.

``python -m tests.benchmarks.servers.meterd_stepped CONFIG`` prints its URL; a line with a
number on stdin sets the clock forward by so many seconds.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import trio

from meterd.daemon import running
from meterd.domain.config import decode
from meterd.log_lines import set_up_logging
from meterd.machine import tune_interpreter
from meterd.work.clock import WallClock


class SteppedClock(WallClock):
    """The machine's clock and an offset."""

    def __init__(self) -> None:
        super().__init__()
        self._offset_ms = 0
        self._stepped = trio.Event()

    def now_ms(self) -> int:
        return super().now_ms() + self._offset_ms

    async def wait_until(self, instant_ms: int) -> None:
        now_ms = before_ms = self.now_ms()
        while before_ms <= now_ms < instant_ms:
            before_ms, stepped = now_ms, self._stepped
            with trio.move_on_after((instant_ms - now_ms) / 1000):
                await stepped.wait()
            now_ms = self.now_ms()

    def step(self, seconds: float) -> None:
        self._offset_ms += int(seconds * 1000)
        self._stepped.set()
        self._stepped = trio.Event()


async def main(path: str) -> None:
    clock = SteppedClock()
    text = await trio.Path(path).read_bytes()
    config = decode(text, form="toml", environ=os.environ)
    set_up_logging(config)
    tune_interpreter()
    async with running(config, clock) as daemon:
        print(daemon.urls[0], flush=True)
        stdin = trio.wrap_file(sys.stdin)
        while line := await stdin.readline():
            clock.step(float(line))


if __name__ == "__main__":
    trio.run(main, str(Path(sys.argv[1])))
