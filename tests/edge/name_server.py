"""A small DNS server (RFC 1035, over UDP) that says what a test wants, a new thing each time."""

from __future__ import annotations

import ipaddress
import itertools
import struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import trio

A, CNAME, AAAA = 1, 5, 28
SERVFAIL, NXDOMAIN = 2, 3
_HEADER: Final = struct.Struct(">6H")
_QUESTION_END: Final = struct.Struct(">2H")
_RECORD: Final = struct.Struct(">2HLH")
_ANSWER_FLAGS: Final = 0x8580  # an answer, with authority, recursion asked for and available
_NAME_OF_QUESTION: Final = 0xC000 | _HEADER.size


class NameServer:
    """``zone`` has the successive answers of each name, the last one for ever.

    An answer is addresses, of which a question for A or AAAA gets its own; "SERVFAIL" is a failure;
    any other text is the canonical name of what follows it. What is not there does not exist.
    """

    def __init__(self, zone: Mapping[str, Sequence[Sequence[str]]]) -> None:
        self.asked: list[tuple[str, int]] = []
        self._zone = {name.lower(): answers for name, answers in zone.items()}
        self._turns: dict[tuple[str, int], itertools.count[int]] = {}

    async def serve(self, at: trio.socket.SocketType) -> None:
        while True:
            query, client = await at.recvfrom(512)
            await at.sendto(self.answer(query), client)

    def answer(self, query: bytes) -> bytes:
        number, *_ = _HEADER.unpack_from(query)
        name, end = _name(query)
        kind, _ = _QUESTION_END.unpack_from(query, end)
        question = query[_HEADER.size : end + _QUESTION_END.size]
        self.asked.append((name, kind))
        answers = self._zone.get(name.lower())
        if answers is None:
            return _HEADER.pack(number, _ANSWER_FLAGS | NXDOMAIN, 1, 0, 0, 0) + question
        turn = next(self._turns.setdefault((name.lower(), kind), itertools.count()))
        found = answers[min(turn, len(answers) - 1)]
        if "SERVFAIL" in found:
            return _HEADER.pack(number, _ANSWER_FLAGS | SERVFAIL, 1, 0, 0, 0) + question
        records = _records(found, kind)
        head = _HEADER.pack(number, _ANSWER_FLAGS, 1, len(records), 0, 0)
        return head + question + b"".join(records)


def _records(found: Sequence[str], kind: int) -> list[bytes]:
    records = []
    owner = struct.pack(">H", _NAME_OF_QUESTION)
    for text in found:
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            canonical = b"".join(bytes([len(part)]) + part for part in text.encode().split(b"."))
            records.append(_record(owner, CNAME, canonical + b"\0"))
            owner = canonical + b"\0"
        else:
            if kind == (A if address.version == 4 else AAAA):
                records.append(_record(owner, kind, address.packed))
    return records


def _record(owner: bytes, kind: int, data: bytes) -> bytes:
    """Of class IN, and to be forgotten at once."""
    return owner + _RECORD.pack(kind, 1, 0, len(data)) + data


def _name(query: bytes) -> tuple[str, int]:
    """The name that is asked for, and where it ends."""
    labels = []
    at = _HEADER.size
    while length := query[at]:
        labels.append(query[at + 1 : at + 1 + length])
        at += 1 + length
    return b".".join(labels).decode("ascii"), at + 1
