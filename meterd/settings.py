"""The configuration in force, with what is made of it: the keys that are let in, and TLS."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from meterd.domain.config import LogLevel
from meterd.domain.credentials import Keyring
from meterd.edge.certificates import is_shown_to_all, server_context, validity

if TYPE_CHECKING:
    import ssl

    from meterd.domain.config import Config

_log = structlog.get_logger("meterd")


class Settings:
    """The configuration in force; a reload replaces it whole."""

    def __init__(self, config: Config) -> None:
        self.replace(config)

    def replace(self, config: Config) -> None:
        """Reads the TLS files anew. Raises ConfigError, with nothing replaced, if that fails."""
        server = config.server
        tls = server_context(server.tls_certificate, server.tls_key) if server.has_tls else None
        if tls is not None and (refusal := validity(tls, server.tls_certificate).refusal):
            _log.warning(
                "clients refuse this certificate", file=server.tls_certificate, why=refusal
            )
        if tls is not None and is_shown_to_all(server.tls_key):
            _log.warning("everybody on this machine may read the TLS key", file=server.tls_key)
        self._config, self._keyring, self._tls = config, Keyring(config.keys), tls
        self._logs_requests = config.log_level is LogLevel.DEBUG  # asked for at each request

    def config(self) -> Config:
        return self._config

    def keyring(self) -> Keyring:
        return self._keyring

    def logs_requests(self) -> bool:
        return self._logs_requests

    def tls(self) -> ssl.SSLContext | None:
        """What new connections are encrypted with, if they are."""
        return self._tls
