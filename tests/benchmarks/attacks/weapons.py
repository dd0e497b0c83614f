"""What each attack sends, how often and from where; and what it must have reached to count.

Peers are addresses of loopback: 127.0.0.2 and on, while honest clients are 127.0.0.1.
"""

from __future__ import annotations

import itertools
import random
import ssl
from typing import TYPE_CHECKING, Final

import msgspec

from tests.daemon_process import KEY
from tests.edge.malformed import mutated
from tests.edge.test_http2_frames import CONTINUATION, PING, RESET, SETTINGS, frame

if TYPE_CHECKING:
    from collections.abc import Iterator

EVENT: Final = b'{"customerId":"attacker","value":1}'
LINE: Final = b"POST /usage/api.calls HTTP/1.1\r\nHost: a\r\n"
NAMED: Final = LINE + b"x-apikey: " + KEY.encode() + b"\r\n"
PING_REQUEST: Final = b"GET /ping HTTP/1.1\r\nHost: a\r\n\r\n"
PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SETTINGS
# HPACK's static table: GET, http, /; then :authority with a literal.
GET_BLOCK: Final = b"\x82\x86\x84\x41\x01a"
NO_WINDOW: Final = frame(4, b"\0\x04\0\0\0\0", stream=0)


class Attack(msgspec.Struct, frozen=True, kw_only=True):
    """``first`` goes out on each connection at once, or what ``makes`` names: another for each.

    ``more`` is sent every ``every_s`` then; or with ``asks_again`` the first, after each answer.
    Not more than ``connections`` at once and ``per_s`` new ones a second, from ``peers`` addresses.
    ``protocol`` is spoken over TLS; with ``by_tls`` the server speaks TLS and the attacker need
    not. With ``stored`` there are events to be listed. ``least`` is what has to have been reached:
    fields of a Blow, statuses and other outcomes.
    """

    first: bytes = b""
    makes: str = ""
    more: bytes = b""
    every_s: float = 0.5
    asks_again: bool = False
    connections: int = 50
    per_s: float = 500.0
    peers: int = 1
    reads: bool = True
    leaves_at_once: bool = False
    protocol: str = ""
    by_tls: bool = False
    stored: bool = False
    least: dict[str, int]

    @property
    def is_by_tls(self) -> bool:
        return self.by_tls or bool(self.protocol)


def post(body: bytes, *fields: bytes, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return (
        NAMED
        + b"".join(each + b"\r\n" for each in fields)
        + b"Content-Length: %d\r\n\r\n" % size
        + body
    )


def requests(count: int, *after: bytes, flags: int = 5, block: bytes = GET_BLOCK) -> bytes:
    """So many HTTP/2 streams, each a request and what follows it on its stream."""
    return b"".join(
        frame(1, block, flags=flags, stream=stream)
        + b"".join(each[:5] + stream.to_bytes(4, "big") + each[9:] for each in after)
        for stream in range(1, 2 * count, 2)
    )


# A header of 4,000 bytes put into HPACK's table once, then named by one byte as often as fits into
# a frame: 16 KiB for 60 MB of headers.
BOMB: Final = frame(
    1, GET_BLOCK + b"\x40\x01x\x7f\xa1\x1e" + b"a" * 4000, flags=5, stream=1
) + frame(1, GET_BLOCK + b"\xbe" * 16_000, flags=5, stream=3)


def _client_hello() -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    outgoing = ssl.MemoryBIO()
    handshake = context.wrap_bio(ssl.MemoryBIO(), outgoing)
    try:
        handshake.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()


def payloads(attack: Attack) -> Iterator[bytes]:
    """What goes out on one connection after another."""
    if not attack.makes:
        return itertools.repeat(attack.first)
    return _MAKERS[attack.makes]()


def _wrong_keys() -> Iterator[bytes]:
    for number in itertools.count():
        yield LINE + b"x-apikey: guess-%d\r\nContent-Length: %d\r\n\r\n%b" % (
            number,
            len(EVENT),
            EVENT,
        )


def _malformed() -> Iterator[bytes]:
    chance = random.Random(4)
    made = [
        mutated(chance).replace(b"x-apikey: k", b"x-apikey: " + KEY.encode()) for _ in range(2000)
    ]
    return itertools.cycle(made)


_MAKERS: Final = {"wrong keys": _wrong_keys, "malformed": _malformed}

ATTACKS: Final[dict[str, Attack]] = {
    # Connections.
    "idle": Attack(connections=700, least={"opened": 700, "held": 500}),
    "idle, many peers": Attack(
        connections=1200, peers=4, per_s=800, least={"opened": 1000, "held": 700}
    ),
    "churn": Attack(leaves_at_once=True, per_s=1000, least={"opened": 2500}),
    "churn with a request": Attack(
        first=PING_REQUEST + b"GARBAGE\r\n\r\n", per_s=300, least={"200": 500, "400": 500}
    ),
    # Slow.
    "slow heads": Attack(
        first=LINE + b"X: ", more=b"a", connections=600, least={"held": 500, "408": 300}
    ),
    "slow bodies": Attack(
        first=post(b"", length=100_000),
        more=b"x",
        connections=600,
        least={"held": 500, "sent_bytes": 60_000},
    ),
    "unread answers": Attack(
        first=b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 600, reads=False, least={"held": 50}
    ),
    "unread listings": Attack(
        first=NAMED.replace(b"POST /usage/api.calls", b"GET /events?limit=100000") + b"\r\n",
        reads=False,
        stored=True,
        least={"held": 50, "requests": 50},
    ),
    # Too much.
    "long request line": Attack(first=b"GET /" + b"a" * 64_000, per_s=200, least={"414": 400}),
    "long head": Attack(first=LINE + b"X: " + b"a" * 64_000, per_s=200, least={"431": 400}),
    "many fields": Attack(
        first=LINE + b"X: a\r\n" * 2_000 + b"\r\n", per_s=200, least={"431": 400}
    ),
    "declared body": Attack(
        first=post(b"x" * 500_000, length=10**9), per_s=200, least={"413": 400}
    ),
    "endless chunks": Attack(
        first=NAMED
        + b"Transfer-Encoding: chunked\r\n\r\n"
        + (b"4000\r\n" + b"x" * 16384 + b"\r\n") * 300,
        connections=4,
        per_s=20,
        least={"413": 20, "sent_bytes": 50_000_000},
    ),
    # Odd bodies, by somebody who has a key: at a rate, since whoever has a key may keep us busy.
    "deep JSON": Attack(
        first=post(b'{"a":' * 100_000 + b"}" * 100_000),
        asks_again=True,
        connections=5,
        every_s=0.1,
        least={"400": 100},
    ),
    "huge numbers": Attack(
        first=post(b'{"customerId":"c","value":%b}' % (b"9" * 250_000)),
        asks_again=True,
        connections=5,
        every_s=0.1,
        least={"422": 100},
    ),
    "1e999": Attack(
        first=post(b'{"customerId":"c","value":1e999}'),
        asks_again=True,
        connections=5,
        every_s=0.02,
        least={"422": 400},
    ),
    "bad UTF-8": Attack(
        first=post(b'{"customerId":"\xff\xfe","value":1}'),
        asks_again=True,
        connections=5,
        every_s=0.02,
        least={"400": 400},
    ),
    # Floods.
    "wrong keys": Attack(
        makes="wrong keys",
        asks_again=True,
        connections=20,
        every_s=0.0,
        least={"401": 100, "429": 100},
    ),
    "wrong keys, slowly": Attack(
        makes="wrong keys",
        asks_again=True,
        connections=20,
        every_s=0.1,
        least={"401": 100, "429": 100},
    ),
    "pipelined": Attack(
        first=PING_REQUEST * 2000,
        connections=4,
        every_s=0.0,
        more=PING_REQUEST * 2000,
        least={"200": 2000},
    ),
    "malformed": Attack(
        makes="malformed", connections=500, per_s=300, least={"opened": 1000, "400": 300}
    ),
    # HTTP/2.
    "rapid reset": Attack(
        first=PREFACE + requests(1000, RESET), per_s=50, connections=20, least={"calm down": 100}
    ),
    "CONTINUATION": Attack(
        first=PREFACE + frame(1, GET_BLOCK) + CONTINUATION * 10_000,
        per_s=50,
        connections=20,
        least={"calm down": 100},
    ),
    "SETTINGS": Attack(
        first=PREFACE + SETTINGS * 5_000, per_s=50, connections=20, least={"calm down": 100}
    ),
    "PING": Attack(
        first=PREFACE + PING * 5_000, per_s=50, connections=20, least={"calm down": 100}
    ),
    "window of 0": Attack(
        first=PREFACE + NO_WINDOW + requests(100), more=PING, connections=20, least={"held": 20}
    ),
    "HPACK bomb": Attack(first=PREFACE + BOMB, per_s=50, connections=20, least={"ended": 100}),
    # TLS.
    "TLS begun and left": Attack(
        first=_client_hello(), by_tls=True, connections=600, per_s=200, least={"held": 400}
    ),
    "TLS garbage": Attack(
        first=bytes.fromhex("16030100a5010000a10303") + bytes(range(160)),
        by_tls=True,
        per_s=300,
        least={"opened": 1000},
    ),
    "HTTP without TLS": Attack(first=PING_REQUEST, by_tls=True, per_s=300, least={"opened": 1000}),
    "TLS churn": Attack(
        first=PING_REQUEST,
        protocol="http/1.1",
        per_s=50,
        leaves_at_once=True,
        least={"opened": 150},
    ),
    "rapid reset, TLS": Attack(
        first=PREFACE + requests(1000, RESET),
        protocol="h2",
        per_s=20,
        connections=20,
        least={"calm down": 40},
    ),
    "PING, TLS": Attack(
        first=PREFACE + PING * 5_000,
        protocol="h2",
        per_s=20,
        connections=20,
        least={"calm down": 40},
    ),
}
