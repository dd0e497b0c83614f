"""A real meterd with TLS, as users meet it: curl, httpx, meterd's own commands, a renewal."""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Final

import httpx
import pytest

from tests.daemon_process import KEY, ROOT, DaemonProcess
from tests.edge.encrypted import AUTHORITY, certificate_in

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

EVENT: Final = '{"customerId":"c","value":1}'
PROTOCOLS: Final = [("--http1.1", "1.1"), ("--http2", "2")]


@pytest.fixture
def authority(tmp_path: Path) -> str:
    """The path of the file that clients trust."""
    path = tmp_path / "authority.pem"
    AUTHORITY.cert_pem.write_to_path(str(path))
    return str(path)


@pytest.fixture
def encrypted(tmp_path: Path) -> Iterator[DaemonProcess]:
    daemon = DaemonProcess(tmp_path)
    daemon.stop()
    serve_with(daemon, *certificate_in(tmp_path))
    daemon.start()
    yield daemon
    daemon.stop()


def serve_with(daemon: DaemonProcess, certificate: str, key: str) -> None:
    daemon.configure()
    options = f'[server]\ntls_certificate = "{certificate}"\ntls_key = "{key}"\n'
    daemon.config.write_text(daemon.config.read_text().replace("[server]\n", options))


def reload(daemon: DaemonProcess) -> None:
    daemon.send(signal.SIGHUP)
    daemon.wait_for("configuration reloaded")


def client_of(
    daemon: DaemonProcess, authority: str, *, http2: bool = False, **options: Any
) -> httpx.Client:
    context = ssl.create_default_context(cafile=authority)
    headers = {"x-apikey": KEY}
    return httpx.Client(
        base_url=daemon.url, headers=headers, verify=context, http2=http2, **options
    )


def shown_by(client: httpx.Client) -> bytes:
    """The certificate of the connection that a request comes by."""
    with client.stream("GET", "/ping") as answer:
        tls = answer.extensions["network_stream"].get_extra_info("ssl_object")
        answer.read()
        shown: bytes = tls.getpeercert(True)
    return shown


def curl(daemon: DaemonProcess, authority: str, *arguments: str) -> tuple[str, str, str]:
    """The body, the status, and which HTTP it was."""
    written = "\n%{http_code} %{http_version}"
    command = ["curl", "-sS", "--cacert", authority, "-H", f"x-apikey: {KEY}", "-w", written]
    url, *others = arguments
    done = subprocess.run(
        [*command, daemon.url + url, *others], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
    body, _, status = done.stdout.rpartition("\n")
    return body, *status.split()  # type: ignore[return-value]


def served(daemon: DaemonProcess, authority: str) -> dict[str, int]:
    """How many events each lane has taken."""
    with client_of(daemon, authority) as client:
        lines = client.get("/metrics").text.splitlines()
    counted = [line for line in lines if line.startswith("meterd_requests_total{")]
    return {
        lane: sum(
            int(float(line.split()[-1]))
            for line in counted
            if f'lane="{lane}"' in line and "/usage/{eventType}" in line
        )
        for lane in ("plain", "full")
    }


@pytest.mark.parametrize(("option", "version"), PROTOCOLS)
def test_curl_trusts_the_authority(
    encrypted: DaemonProcess, authority: str, option: str, version: str
) -> None:
    """Reads and events, by the protocol that it asks for."""
    read = curl(encrypted, authority, "/ping", option)
    assert json.loads(read[0])["status"] == "ok"
    assert read[1:] == ("200", version)
    taken = curl(encrypted, authority, "/usage/api.calls", option, "-d", EVENT)
    assert json.loads(taken[0])["message"] == "Event captured"
    assert taken[1:] == ("201", version)


def test_curl_refuses_what_it_does_not_trust(encrypted: DaemonProcess, authority: str) -> None:
    """And TLS 1.1 is spoken with nobody."""
    done = subprocess.run(["curl", "-sS", f"{encrypted.url}/ping"], capture_output=True)
    assert done.returncode == 60, "CURLE_PEER_FAILED_VERIFICATION"
    old = ["--cacert", authority, "--tls-max", "1.1", "--ciphers", "DEFAULT@SECLEVEL=0"]
    done = subprocess.run(["curl", "-sS", *old, f"{encrypted.url}/ping"], capture_output=True)
    assert done.returncode == 35, "CURLE_SSL_CONNECT_ERROR"
    assert b"protocol version" in done.stderr


@pytest.mark.parametrize("http2", [False, True])
def test_httpx_is_served_by_both_lanes(
    encrypted: DaemonProcess, authority: str, http2: bool
) -> None:
    """HTTP/1.1 by the fast one, HTTP/2 by the other, chosen by ALPN; all on one connection."""
    with client_of(encrypted, authority, http2=http2) as client:
        for number in range(5):
            event = {"customerId": "c", "value": 1, "idempotencyKey": str(number)}
            answer = client.post("/usage/api.calls", json=event)
            assert (answer.status_code, answer.http_version) == (
                201,
                "HTTP/2" if http2 else "HTTP/1.1",
            )
            assert client.get("/events").json()[0]["customerId"] == "c"
        named = client.post("/usage/api.calls", content=EVENT, headers={"X-Request-Id": "web-1"})
        assert named.headers["x-request-id"] == "web-1"
    found = served(encrypted, authority)
    assert found == ({"plain": 0, "full": 6} if http2 else {"plain": 6, "full": 0})


def test_a_renewed_certificate_is_taken_up(
    encrypted: DaemonProcess, authority: str, tmp_path: Path
) -> None:
    """By new connections, on a reload; those that are open go on with theirs."""
    with (
        client_of(encrypted, authority) as open_one,
        client_of(encrypted, authority, http2=True) as open_two,
    ):
        first = shown_by(open_one)
        assert shown_by(open_two) == first
        certificate_in(tmp_path)
        with client_of(encrypted, authority) as client:
            assert shown_by(client) == first, "it was not told to read it"
        reload(encrypted)
        assert [shown_by(open_one), shown_by(open_two)] == [first, first]
        with client_of(encrypted, authority) as client:
            assert shown_by(client) != first


def test_what_cannot_be_used_changes_nothing(
    encrypted: DaemonProcess, authority: str, tmp_path: Path
) -> None:
    """The log says which file and why; a later reload with sound ones is taken up."""
    certificate, _ = certificate_in(tmp_path)
    reload(encrypted)
    with client_of(encrypted, authority) as client:
        before = shown_by(client)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    _, other_key = certificate_in(elsewhere)
    for files, why in (
        ((certificate, other_key), "the key is not the certificate's"),
        ((certificate, str(tmp_path / "missing")), "No such file or directory"),
        ((certificate, certificate), "there is no private key in"),
    ):
        serve_with(encrypted, *files)
        encrypted.send(signal.SIGHUP)
        faults = encrypted.wait_for("configuration not reloaded: the old one stays")["faults"]
        assert len(faults) == 1
        assert why in faults[0]
        assert files[1] in faults[0]
        with client_of(encrypted, authority) as client:
            assert shown_by(client) == before
    serve_with(encrypted, *certificate_in(elsewhere))
    reload(encrypted)
    with client_of(encrypted, authority) as client:
        assert shown_by(client) != before


def test_a_key_that_everybody_may_read_is_a_warning(
    encrypted: DaemonProcess, tmp_path: Path
) -> None:
    """It is served with all the same: where a container mounts it so, nobody else is there."""
    key = tmp_path / "meterd.key"
    key.chmod(0o644)
    encrypted.send(signal.SIGHUP)
    said = encrypted.wait_for("everybody on this machine may read the TLS key")
    assert (said["level"], said["file"]) == ("warning", str(key))
    encrypted.wait_for("configuration reloaded")


@pytest.mark.parametrize("command", ["status", "events"])
def test_commands_trust_what_they_are_told_to(
    encrypted: DaemonProcess, authority: str, command: str
) -> None:
    """With the authority's file in SSL_CERT_FILE; else they say that it is a matter of trust."""
    asked = [sys.executable, "-m", "meterd", command, "--url", encrypted.url]
    environ = {**os.environ, "METERD_API_KEY": KEY}

    def run(url: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*asked[:-1], url], cwd=ROOT, env=environ | more, capture_output=True, text=True
        )

    trusted = run(encrypted.url, SSL_CERT_FILE=authority)
    assert (trusted.returncode, trusted.stderr) == (0, "")
    unknown = run(encrypted.url)
    assert unknown.returncode == 1
    assert unknown.stderr == (
        f"the certificate of {encrypted.url} is not trusted (unable to get local issuer"
        " certificate): name the authority's file in SSL_CERT_FILE, or with --url the host that"
        " it is for\n"
    )
    url = encrypted.url.replace("127.0.0.1", "localhost")
    elsewhere = run(url, SSL_CERT_FILE=authority)
    assert elsewhere.returncode == 1
    assert "is not trusted (Hostname mismatch, certificate is not valid for 'localhost'" in (
        elsewhere.stderr
    )
