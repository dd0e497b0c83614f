"""Finds where each answer of a server ends, at the least cost that still sees to all of it."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

_END_OF_HEAD: Final = b"\r\n\r\n"
_END_OF_CHUNKS: Final = b"0\r\n\r\n"


class MalformedAnswerError(Exception):
    """These bytes are no answer, or go on behind its end."""


class AnswerReader:
    """One connection's answers; one request is under way at a time."""

    def __init__(self) -> None:
        self._received = b""

    def feed(self, data: bytes) -> int | None:
        """The status when the answer is whole. Raises MalformedAnswerError."""
        received = self._received + data if self._received else data
        head_end = received.find(_END_OF_HEAD)
        if head_end >= 0:
            status, length = parse_head(received[:head_end])
            body = head_end + len(_END_OF_HEAD)
            end = _end_of_chunks(received, body) if length is None else body + length
            if end == len(received):
                self._received = b""
                return status
            if end is not None and end < len(received):
                raise MalformedAnswerError(f"{len(received) - end} bytes behind an answer")
        self._received = received
        return None


@lru_cache(maxsize=1024)
def parse_head(head: bytes) -> tuple[int, int | None]:
    """Status and length of the body, None if it comes in chunks. Raises MalformedAnswerError.

    Remembered, because a server's heads differ in nothing but the date.
    """
    status_line, *lines = head.split(b"\r\n")
    fields = {}
    for line in lines:
        name, _, value = line.partition(b":")
        fields[name.strip().lower()] = value.strip().lower()
    try:
        version, status, *_ = status_line.split(b" ")
        chunked = fields.get(b"transfer-encoding") == b"chunked"
        length = None if chunked else int(fields[b"content-length"])
        if version != b"HTTP/1.1":
            raise MalformedAnswerError(f"not HTTP/1.1: {status_line!r}")
        return int(status), length
    except (ValueError, KeyError) as fault:
        raise MalformedAnswerError(f"not an answer: {head!r}") from fault


def _end_of_chunks(received: bytes, at: int) -> int | None:
    """Where the last chunk ends; None if it is not there yet."""
    while not received.startswith(_END_OF_CHUNKS, at):
        size_end = received.find(b"\r\n", at)
        if size_end < 0:
            return None
        try:
            at = size_end + 2 + int(received[at:size_end], 16) + 2
        except ValueError as fault:
            raise MalformedAnswerError("a chunk without a size") from fault
        if at > len(received):
            return None
    return at + len(_END_OF_CHUNKS)
