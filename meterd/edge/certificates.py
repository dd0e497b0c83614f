"""What connections are encrypted with: the certificate and its key, and what is wrong with them."""

from __future__ import annotations

import ssl
import stat
from pathlib import Path
from typing import Final, NamedTuple

from meterd.domain.errors import ConfigError

HTTP2: Final = "h2"
_PROTOCOLS: Final = (HTTP2, "http/1.1")
_MISMATCHES: Final = ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED")
# Client and server each speak twice in the longest handshake there is.
_FLIGHTS_MAX: Final = 4


class Validity(NamedTuple):
    """When a certificate ends, or why clients refuse it already."""

    until_ms: int | None
    refusal: str | None


def server_context(certificate: str, key: str) -> ssl.SSLContext:
    """TLS 1.2 or later with the certificate chain and its key, from PEM files.

    Raises ConfigError with the option and the file that cannot be used.
    """
    _require("tls_certificate", certificate, b"CERTIFICATE")
    _require("tls_key", key, b"PRIVATE KEY")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(_PROTOCOLS)
    try:
        # Without a password given, OpenSSL would ask for one on the terminal.
        context.load_cert_chain(certificate, key, password="")  # nosec B106
    except (ssl.SSLError, ValueError) as fault:
        reason = getattr(fault, "reason", None)
        why = "the key is not the certificate's" if reason in _MISMATCHES else reason or str(fault)
        raise ConfigError(
            f"server.tls_certificate, server.tls_key: cannot use {certificate} with {key}: {why}"
        ) from fault
    return context


def validity(context: ssl.SSLContext, certificate: str) -> Validity:
    """Of the file's first certificate, as a client finds it who trusts it. Raises nothing: an odd
    certificate may do for odd clients.
    """
    client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_context.check_hostname = False
    client_context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        client_context.load_verify_locations(certificate)
        client = client_context.wrap_bio(to_client, to_server)
        server = context.wrap_bio(to_server, to_client, server_side=True)
        for _ in range(_FLIGHTS_MAX):
            for side in (client, server):
                try:
                    side.do_handshake()
                except ssl.SSLWantReadError:
                    pass
    except ssl.SSLCertVerificationError as fault:
        return Validity(None, fault.verify_message)
    except OSError as fault:
        return Validity(None, str(fault))
    shown = client.getpeercert()
    assert shown is not None, "the handshake is not over"
    return Validity(ssl.cert_time_to_seconds(str(shown["notAfter"])) * 1000, None)


def is_shown_to_all(key: str) -> bool:
    """Whether everybody on this machine may read the key, and pass for this meterd."""
    try:
        return bool(Path(key).stat().st_mode & stat.S_IROTH)
    except OSError:
        return False


def _require(option: str, path: str, kind: bytes) -> None:
    try:
        text = Path(path).read_bytes()
    except OSError as fault:
        raise ConfigError(f"server.{option}: cannot read {path}: {fault.strerror}") from fault
    if b"-----BEGIN ENCRYPTED" in text or b"Proc-Type: 4,ENCRYPTED" in text:
        raise ConfigError(f"server.{option}: {path} is encrypted: meterd knows no password for it")
    if kind + b"-----" not in text:
        raise ConfigError(f"server.{option}: there is no {kind.decode().lower()} in {path} (PEM)")
