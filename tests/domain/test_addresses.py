"""meterd/domain/addresses.py"""

from __future__ import annotations

from typing import Any

import pytest

from meterd.domain.addresses import Server, bind_address
from meterd.domain.sections import Refused


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:8080", "127.0.0.1", 8080),
        ("0.0.0.0:80", "0.0.0.0", 80),
        ("127.0.0.1:0", "127.0.0.1", 0),
        ("[::1]:8080", "::1", 8080),
        ("[::]:65535", "::", 65535),
        ("localhost:8080", "localhost", 8080),
        ("meter-1.internal:8080", "meter-1.internal", 8080),
    ],
)
def test_host_and_port(text: str, host: str, port: int) -> None:
    """An address is taken apart, and written again as it was."""
    server = bind_address(text)
    assert server == Server(host, port)
    assert server.bind == text


@pytest.mark.parametrize(
    "value",
    [
        ":8080",
        "8080",
        "localhost",
        "127.0.0.1:",
        "127.0.0.1:65536",
        "127.0.0.1:-1",
        "::1:8080",
        "[::1]",
        "[::g]:80",
        "[127.0.0.1]:80",
        "256.0.0.1:80",
        "127.1:80",
        "*:80",
        "a b:80",
        "http://localhost:80",
        "-a:80",
        "localhost:80\n",
        "",
        8080,
        None,
    ],
)
def test_what_is_no_address_is_refused(value: Any) -> None:
    """Above all an address without a host: every network is listened to only when asked for."""
    with pytest.raises(Refused, match=r"must be host:port such as 127\.0\.0\.1:8080"):
        bind_address(value)
