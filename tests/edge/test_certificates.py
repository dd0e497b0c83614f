"""Which files meterd serves TLS with, and what it says of those that it cannot use."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives import serialization as form
from cryptography.hazmat.primitives.asymmetric import ec

from meterd.domain.errors import ConfigError
from meterd.edge.certificates import is_shown_to_all, server_context, validity
from tests.edge.encrypted import AUTHORITY, certificate_in, served_with


def test_what_is_too_old_is_not_spoken(tmp_path: Path) -> None:
    """RFC 8996: TLS 1.2 is the least; and a client cannot make the server renegotiate."""
    context = served_with(tmp_path)
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.options & ssl.OP_NO_RENEGOTIATION


@pytest.mark.parametrize("option", ["tls_certificate", "tls_key"])
def test_a_file_that_is_not_there_is_named(tmp_path: Path, option: str) -> None:
    """With the option that names it."""
    certificate, key = certificate_in(tmp_path)
    missing = str(tmp_path / "missing.pem")
    files = (missing, key) if option == "tls_certificate" else (certificate, missing)
    message = f"^server.{option}: cannot read {missing}: No such file or directory$"
    with pytest.raises(ConfigError, match=message):
        server_context(*files)


@pytest.mark.parametrize("kind", [trustme.KeyType.RSA, trustme.KeyType.ECDSA])
def test_the_key_of_another_certificate_is_refused(tmp_path: Path, kind: trustme.KeyType) -> None:
    """Whether or not it is one of the same kind."""
    certificate, _ = certificate_in(tmp_path)
    other = tmp_path / "other.key"
    other.write_bytes(AUTHORITY.issue_cert("b", key_type=kind).private_key_pem.bytes())
    why = f"cannot use {certificate} with {other}: the key is not the certificate's$"
    with pytest.raises(ConfigError, match=why):
        server_context(certificate, str(other))


def test_files_that_hold_something_else_are_named(tmp_path: Path) -> None:
    """Each as the other, and what is no PEM at all."""
    certificate, key = certificate_in(tmp_path)
    other = tmp_path / "other.pem"
    other.write_bytes(b"\x30\x82 no PEM")
    for path in (certificate, str(other)):
        with pytest.raises(
            ConfigError, match=f"^server.tls_key: there is no private key in {path}"
        ):
            server_context(certificate, path)
    for path in (key, str(other)):
        message = f"^server.tls_certificate: there is no certificate in {path}"
        with pytest.raises(ConfigError, match=message):
            server_context(path, key)


def test_what_only_looks_like_pem_is_refused(tmp_path: Path) -> None:
    """With what OpenSSL says of it."""
    certificate, key = certificate_in(tmp_path)
    Path(key).write_text("-----BEGIN PRIVATE KEY-----\nbroken\n-----END PRIVATE KEY-----\n")
    with pytest.raises(ConfigError, match=f"cannot use {certificate} with {key}: ."):
        server_context(certificate, key)


@pytest.mark.parametrize("kind", [form.PrivateFormat.PKCS8, form.PrivateFormat.TraditionalOpenSSL])
def test_an_encrypted_key_is_refused_and_not_asked_for(
    tmp_path: Path, kind: form.PrivateFormat
) -> None:
    """Nobody sits at a daemon's terminal."""
    certificate, key = certificate_in(tmp_path)
    encrypted = tmp_path / "encrypted.key"
    secret = form.BestAvailableEncryption(b"secret")
    loaded = form.load_pem_private_key(Path(key).read_bytes(), None)
    encrypted.write_bytes(loaded.private_bytes(form.Encoding.PEM, kind, secret))
    with pytest.raises(ConfigError, match=f"^server.tls_key: {encrypted} is encrypted"):
        server_context(certificate, str(encrypted))


@pytest.mark.parametrize(
    ("begins", "ends", "refusal"),
    [
        (2020, 2100, None),
        (2020, 2021, "certificate has expired"),
        (2099, 2100, "certificate is not yet valid"),
    ],
)
def test_the_end_of_a_certificate_is_known(
    tmp_path: Path, begins: int, ends: int, refusal: str | None
) -> None:
    """Or why it is refused; the authority that issued it need not be known here."""
    first, last = (datetime(year, 5, 4, 3, 2, 1, tzinfo=UTC) for year in (begins, ends))
    files = certificate_in(tmp_path, not_before=first, not_after=last)
    until_ms = None if refusal else int(last.timestamp()) * 1000
    assert validity(server_context(*files), files[0]) == (until_ms, refusal)


def test_what_no_usual_client_takes_is_only_said(tmp_path: Path) -> None:
    """A curve that is seldom offered, and what is no certificate behind one: neither is a fault."""
    key = ec.generate_private_key(ec.SECP256K1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "meterd")])
    first, last = datetime(2020, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
    built = x509.CertificateBuilder(name, name, key.public_key(), 1, first, last)
    made = built.sign(key, hashes.SHA256()).public_bytes(form.Encoding.PEM)
    secret = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    unusual, unusual_key = tmp_path / "unusual.crt", tmp_path / "unusual.key"
    unusual.write_bytes(made)
    unusual_key.write_bytes(secret)
    certificate, its_key = certificate_in(tmp_path)
    with Path(certificate).open("a") as file:
        file.write("-----BEGIN X509 CRL-----\nMA==\n-----END X509 CRL-----\n")
    for files in ((str(unusual), str(unusual_key)), (certificate, its_key)):
        until_ms, refusal = validity(server_context(*files), files[0])
        assert until_ms is None
        assert refusal


@pytest.mark.parametrize(
    ("mode", "shown"),
    [(0o600, False), (0o400, False), (0o640, False), (0o644, True), (0o604, True)],
)
def test_a_key_that_everybody_may_read_is_noticed(tmp_path: Path, mode: int, shown: bool) -> None:
    """A group may be there for it; and what is not there any more is nobody's."""
    _, key = certificate_in(tmp_path)
    Path(key).chmod(mode)
    assert is_shown_to_all(key) is shown
    Path(key).unlink()
    assert is_shown_to_all(key) is False
