"""The ceiling of the slow lane: hypercorn and Quart that answer with a constant.

``python -m tests.benchmarks.servers.hypercorn_alone`` prints its URL and serves until
stdin ends. Nothing is decoded or stored, and none of meterd's guards stand before it.
"""

from __future__ import annotations

import sys

import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from quart import Response, request
from quart_trio import QuartTrio

BODY = b'{"message":"Event captured","eventType":"api.calls","customerId":"customer_1"}'
PONG = b'{"status":"ok","timestamp":"2026-01-01T00:00:00.000Z"}'


async def main() -> None:
    app = QuartTrio("ceiling")
    app.config["MAX_CONTENT_LENGTH"] = 4 << 20

    @app.post("/usage/<event_type>")
    async def usage(event_type: str) -> Response:
        await request.get_data()
        return Response(BODY, 201, content_type="application/json")

    @app.post("/usagebatch")
    async def usagebatch() -> Response:
        await request.get_data()
        return Response(BODY, 201, content_type="application/json")

    @app.get("/ping")
    async def ping() -> Response:
        return Response(PONG, 200, content_type="application/json")

    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    address = f"127.0.0.1:{listener.socket.getsockname()[1]}"
    await listener.aclose()
    config = Config()
    config.bind = [address]
    config.errorlog = None
    config.keep_alive_max_requests = sys.maxsize  # as in meterd: else it closes after a thousand
    stopped = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: serve(app, config, shutdown_trigger=stopped.wait))
        print(f"http://{address}", flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)
        stopped.set()
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
