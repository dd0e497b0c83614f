"""The address meterd listens on, as an operator writes it: ``host:port``."""

from __future__ import annotations

import ipaddress
import re
from typing import Any, Final

import msgspec

from meterd.domain.sections import Refused, shown

_BIND: Final = re.compile(r"(?:\[([^\[\]]+)\]|([^:\[\]]+)):(\d{1,5})", re.ASCII)
_HOST: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?", re.ASCII)


class Server(msgspec.Struct, frozen=True):
    """``host`` is without the brackets of IPv6; ``port`` 0 lets the system choose one.

    With TLS both files are named, without it neither; a relative path starts at the working
    directory.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    tls_certificate: str = ""
    tls_key: str = ""

    @property
    def has_tls(self) -> bool:
        return bool(self.tls_certificate)

    @property
    def bind(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def bind_address(value: Any) -> Server:
    """Reads ``host:port``. The host must be there: nobody listens to all networks by omission."""
    matched = _BIND.fullmatch(value) if isinstance(value, str) else None
    if matched is not None:
        v6, host, port = matched.groups()
        if int(port) <= 0xFFFF and (_is_v6(v6) if v6 else _is_host(host)):
            return Server(v6 or host, int(port))
    raise Refused(
        "must be host:port such as 127.0.0.1:8080, [::1]:8080 or, for every IPv4 address of the"
        f" machine, 0.0.0.0:8080, not {shown(value)}"
    )


def _is_v6(host: str) -> bool:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return True


def _is_host(host: str) -> bool:
    if host.replace(".", "").isdigit():  # no name looks like an address, so it must be one
        try:
            ipaddress.IPv4Address(host)
        except ValueError:
            return False
    return bool(_HOST.fullmatch(host))
