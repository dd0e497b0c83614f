"""Receivers that do what receivers must not: ``python -m tests.benchmarks.servers.bad_receivers``.

Prints their URLs, separated by spaces, and serves until stdin ends.
"""

from __future__ import annotations

import sys
from contextlib import AsyncExitStack
from typing import Final

import trio

from tests.edge.receivers import listening
from tests.system.torture.hostile import hostiles

BAD: Final = ("never answers", "drips its body", "never ends its body", "hints for ever")


async def main() -> None:
    async with AsyncExitStack() as stack:
        receivers = [
            await stack.enter_async_context(listening(hostiles()[name].handler)) for name in BAD
        ]
        print(*(f"http://127.0.0.1:{one.port}" for one in receivers), flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)


if __name__ == "__main__":
    trio.run(main)
