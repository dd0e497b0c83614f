"""The ceiling of the fast lane: trio that reads a request and answers with a constant.

``python -m tests.benchmarks.servers.trio_alone`` prints its URL and serves until stdin
ends. Nothing is decoded, checked or stored; the descriptor is read and written as the fast lane
does.
"""

from __future__ import annotations

import os
import re
import sys

import trio

BODY = b'{"message":"Event captured","eventType":"api.calls","customerId":"customer_1"}'
ANSWER = b"HTTP/1.1 201 \r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
    len(BODY),
    BODY,
)
LENGTH = re.compile(rb"(?i)content-length: (\d+)")


async def serve(stream: trio.SocketStream) -> None:
    descriptor = stream.socket.fileno()
    async with stream:
        try:
            while await read_request(descriptor):
                os.write(descriptor, ANSWER)
        except ConnectionError:
            pass  # the client hung up with an answer under way


async def read_request(descriptor: int) -> bool:
    """Reads one request to its end; False when the client has gone."""
    received = b""
    missing = 1
    while missing > 0:
        await trio.lowlevel.wait_readable(descriptor)
        data = os.read(descriptor, 65536)
        if not data:
            return False
        received += data
        head, end_of_head, body = received.partition(b"\r\n\r\n")
        if end_of_head:
            length = LENGTH.search(head)
            missing = (int(length[1]) if length else 0) - len(body)
    return True


async def main() -> None:
    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        print(f"http://127.0.0.1:{listener.socket.getsockname()[1]}", flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
