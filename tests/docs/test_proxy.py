"""nginx as docs/running.md has it, in front of a real meterd."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.docs.reading import DOCS, blocks_of
from tests.docs.shell import free_address
from tests.edge.encrypted import certificate_in, trusting

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.daemon_process import DaemonProcess

# What the page's part is included by on a machine.
AROUND = """\
{user}
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
{block}
}}
"""
START_SECONDS = 20.0


@pytest.fixture
def proxy(tmp_path: Path, daemon: DaemonProcess) -> Iterator[httpx.Client]:
    """Speaks to meterd through nginx, with a key."""
    [block] = blocks_of(DOCS / "running.md", "nginx")
    certificate, key = certificate_in(tmp_path)
    address = free_address()
    text = block.text
    for placeholder, own in {
        "127.0.0.1:8080": daemon.url.removeprefix("http://"),
        "listen 443": f"listen {address}",
        "/etc/ssl/certs/meterd.example.pem": certificate,
        "/etc/ssl/private/meterd.example.key": key,
    }.items():
        assert text.count(placeholder) == 1, placeholder
        text = text.replace(placeholder, own)
    user = "user root;" if os.geteuid() == 0 else ""
    path = tmp_path / "nginx.conf"
    path.write_text(AROUND.format(user=user, folder=tmp_path, block=text))
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    assert program is not None
    started = subprocess.Popen([program, "-c", path, "-p", tmp_path, "-g", "daemon off;"])
    try:
        with httpx.Client(
            base_url=f"https://{address}", verify=trusting(), headers={"x-apikey": daemon.key}
        ) as client:
            wait_for(client)
            yield client
    finally:
        started.terminate()
        started.wait(10)


def wait_for(client: httpx.Client) -> None:
    until = time.monotonic() + START_SECONDS
    while True:
        try:
            assert client.get("/healthz").status_code == 200
        except httpx.ConnectError:
            assert time.monotonic() < until
            time.sleep(0.05)  # nginx says nowhere that it listens
        else:
            return


def test_events_go_through(proxy: httpx.Client, daemon: DaemonProcess) -> None:
    """Single ones, a batch of nearly 4 MiB, what is refused; over connections that are kept."""
    event = {"customerId": "c", "value": 1}
    for _ in range(20):
        assert proxy.post("/usage/api.calls", json=event).status_code == 201
    filled = {**event, "eventType": "api.calls", "metadata": {"filling": "x" * 3900}}
    answer = proxy.post("/usagebatch", json=[filled] * 1000)
    assert int(answer.request.headers["Content-Length"]) > 3.7 * 1024 * 1024
    assert (answer.status_code, answer.json()["count"]) == (201, 1000)
    assert proxy.post("/usage/api.calls", json={}).status_code == 422
    assert proxy.get("/events", headers={"x-apikey": "of nobody"}).status_code == 401
    assert len(proxy.get("/events?limit=100000").json()) == 1020
    [accepted] = [
        float(line.split()[-1])
        for line in daemon.request("GET", "/metrics").text.splitlines()
        if line.startswith('meterd_connection_events_total{event="accepted"}')
    ]
    assert accepted < 12  # and not one for each


def test_the_page_shows_the_address_outside(proxy: httpx.Client) -> None:
    """As curl has to ask it."""
    assert "export BASE_URL=https://127.0.0.1" in proxy.get("/docs").text
