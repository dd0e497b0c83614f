"""Who vouches for others' certificates: the system, and certifi where the system has nobody."""

from __future__ import annotations

import ssl
import subprocess
import sys
from typing import TYPE_CHECKING, Any, cast

import pytest
import trustme

from meterd.trust import client_context
from tests.daemon_process import ROOT

if TYPE_CHECKING:
    from pathlib import Path

COUNT = "from meterd.trust import client_context; print(client_context().cert_store_stats())"
PLACES = ssl.get_default_verify_paths()


@pytest.mark.parametrize("content", [None, [], ["snakeoil.pem"], ["ab12cd34.0"]])
def test_a_system_without_authorities(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: list[str] | None
) -> None:
    """Mozilla's are taken where the system's folder is empty or not there, and only then."""
    folder = tmp_path / "certs"
    for name in content or []:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    if content == []:
        folder.mkdir()
    there = str(folder) if folder.exists() else None
    found: Any = PLACES._replace(cafile=cast("str", None), capath=cast("str", there))
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    monkeypatch.setattr(ssl, "create_default_context", lambda: bare)
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: found)
    count = client_context({}).cert_store_stats()["x509_ca"]
    assert count == 0 if content == ["ab12cd34.0"] else count > 50


def test_the_operator_decides(tmp_path: Path) -> None:
    """Who names authorities trusts these and nobody else, also where they are not there."""
    own = tmp_path / "own.pem"
    trustme.CA().cert_pem.write_to_path(str(own))
    for file, authorities in ((own, 1), (tmp_path / "missing.pem", 0)):
        environ = {"SSL_CERT_FILE": str(file), "SSL_CERT_DIR": str(tmp_path / "none")}
        run = [sys.executable, "-c", COUNT]
        told = subprocess.run(
            run, env=environ, cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert f"'x509_ca': {authorities}" in told.stdout
