"""An answer is read the same, whether it is recognised by its bytes or parsed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from meterd.domain.outcomes import ErrorKind
from meterd.edge.answers import ANSWER_BYTES_MAX, INTERIM_MAX, Answer

LINE = b"HTTP/1.1 200 OK\r\n"
LENGTH = b"Content-Length: 2\r\n"


def read(*pieces: bytes) -> tuple[Answer, bytes]:
    answer = Answer()
    body = b""
    for piece in pieces:
        if answer.ended or answer.fault is not None:
            break
        body += answer.receive(piece)
    return answer, body


def is_plain(answer: Answer) -> bool:
    return answer._parser is None


def facts(found: tuple[Answer, bytes]) -> Any:
    answer, body = found
    fault = answer.fault and (answer.fault.kind, str(answer.fault))
    return answer.status, answer.reason, answer.fields, answer.ended, answer.again, fault, body


PLAIN = {
    "with a body": LINE + LENGTH + b"\r\nok",
    "without": LINE + b"content-length:0\r\n\r\n",
    "no content": b"HTTP/1.1 204 No Content\r\nDate: x\r\n\r\n",
    "no reason": b"HTTP/1.1 299\r\nContent-Length: 0\r\n\r\n",
    "an empty reason": b"HTTP/1.1 299 \r\nContent-Length: 0\r\n\r\n",
    "a failure": b"HTTP/1.1 500 Oh  no \r\nContent-Length: 2\r\n\r\nok",
    "kept alive": LINE + LENGTH + b"Connection: Keep-Alive\r\nKeep-Alive: timeout=5\r\n\r\nok",
    "blanks": LINE + b"x-Empty:\r\nX_b:   a b  \r\n" + LENGTH + b"\r\nok",
}
NOT_PLAIN = {
    "an older protocol": b"HTTP/1.0 200 OK\r\n" + LENGTH + b"\r\nok",
    "to the end of the connection": LINE + b"\r\nok",
    "chunks": LINE + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "chunks with a length": LINE + LENGTH + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "the last of the connection": LINE + LENGTH + b"Connection: close\r\n\r\nok",
    "more of the connection": LINE + LENGTH + b"Connection: keep-alive, close\r\n\r\nok",
    "two lengths": LINE + LENGTH + b"Content-Length: 3\r\n\r\nok",
    "one length, twice": LINE + LENGTH + LENGTH + b"\r\nok",
    "no content, with a length": b"HTTP/1.1 204 No Content\r\n" + LENGTH + b"\r\n",
    "not modified": b"HTTP/1.1 304 Not Modified\r\nContent-Length: 0\r\n\r\n",
    "a signed length": LINE + b"Content-Length: +2\r\n\r\nok",
    "a length in other digits": LINE + "Content-Length: \u0662\r\n\r\nok".encode(),
    "more than its length": LINE + LENGTH + b"\r\nokHTTP/1.1 200 OK\r\n\r\n",
    "interim": b"HTTP/1.1 103 Early Hints\r\n\r\n" + LINE + LENGTH + b"\r\nok",
    "a status beyond": b"HTTP/1.1 600 OK\r\nContent-Length: 2\r\n\r\nok",
    "a name with a blank": LINE + LENGTH + b"x : y\r\n\r\nok",
    "a name that is none": LINE + LENGTH + b"(x): y\r\n\r\nok",
    "a folded field": LINE + LENGTH + b"x: y\r\n z\r\n\r\nok",
    "single line feeds": LINE.replace(b"\r", b"") + b"Content-Length: 2\n\nok",
    "a null": LINE + LENGTH + b"x: \0\r\n\r\nok",
    "not ASCII": LINE + LENGTH + b"x: \xe9\r\n\r\nok",
}


@pytest.mark.parametrize("data", PLAIN.values(), ids=PLAIN.keys())
def test_a_plain_answer_is_recognised(data: bytes) -> None:
    """Whole and in its most common form; and parsed, cut in two, it says the same."""
    whole = read(data)
    assert is_plain(whole[0])
    assert whole[0].ended
    assert whole[0].again
    cut = read(data[:20], data[20:])
    assert not is_plain(cut[0])
    assert facts(whole) == facts(cut)


@pytest.mark.parametrize("data", NOT_PLAIN.values(), ids=NOT_PLAIN.keys())
def test_all_else_is_parsed(data: bytes) -> None:
    """What is uncommon in any way is for a parser of everything."""
    whole = read(data, b"")
    assert not is_plain(whole[0])
    assert facts(whole) == facts(read(data[:20], data[20:], b""))


LINES = st.lists(
    st.sampled_from(
        [
            *(b"Content-Length: 2", b"content-length:2 ", b"Content-Length: 0", b"Content-Length:"),
            *(b"Connection: close", b"Connection: keep-alive", b"Connection: Keep-Alive, x"),
            *(
                b"Transfer-Encoding: chunked",
                b"Transfer-Encoding: identity",
                b"x: y",
                b"x:",
                b": y",
            ),
            *(b"x y: z", b" x: y", b"x: \t y", b"Date: Sat, 28 Nov 2026 08:43:36 GMT", b"x\x7f: y"),
        ]
    ),
    max_size=4,
)
STATUS_LINES = st.sampled_from(
    [
        *(b"HTTP/1.1 200 OK", b"HTTP/1.1 204 No Content", b"HTTP/1.1 304 x", b"HTTP/1.1 101 x"),
        *(b"HTTP/1.1 500", b"HTTP/1.1 999 x", b"HTTP/1.0 200 OK", b"HTTP/1.1  200 OK", b"http"),
        *(b"HTTP/1.1 200 \xe9", b"HTTP/1.1 20 x", b"HTTP/1.1 2000 x"),
    ]
)
BODIES = st.sampled_from([b"", b"ok", b"okk", b"2\r\nok\r\n0\r\n\r\n", LINE])


@given(STATUS_LINES, LINES, BODIES, st.integers(1, 30))
def test_both_ways_read_the_same(line: bytes, fields: list[bytes], body: bytes, cut: int) -> None:
    """Of every answer, good or bad: status, reason, fields, body, end, and what is wrong."""
    data = b"\r\n".join([line, *fields, b"", body])
    # What follows an answer that has no body is seen only if it comes with the answer's end.
    assume(cut != len(data) - len(body))
    assert facts(read(data, b"")) == facts(read(data[:cut], data[cut:], b""))


def test_what_nobody_asked_for_is_not_the_next_answer() -> None:
    """A receiver that says more than it was asked for is not asked again on that connection."""
    answer, body = read(LINE + LENGTH + b"\r\nok" + LINE + LENGTH + b"\r\nno")
    assert (answer.ended, body, answer.again) == (True, b"ok", False)


def test_a_head_counts_though_the_body_is_broken() -> None:
    """In one piece, too: what was read of the answer is there beside what is wrong with it."""
    answer, _ = read(b"HTTP/1.1 502 x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")
    assert answer.status == 502
    assert answer.fault is not None
    assert answer.fault.kind is ErrorKind.PROTOCOL


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", ErrorKind.RESET),
        (LINE, ErrorKind.RESET),
        (LINE + LENGTH + b"\r\no", ErrorKind.RESET),
        (LINE + b"Transfer-Encoding: chunked\r\n\r\n2\r\n", ErrorKind.RESET),
        (b"SSH-2.0-x\r\n\r\n", ErrorKind.PROTOCOL),
        (b"HTTP/1.1 103 x\r\n\r\n" * (INTERIM_MAX + 1), ErrorKind.PROTOCOL),
        (
            LINE + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 6000,
            ErrorKind.ANSWER_TOO_LONG,
        ),
        (LINE + b"x: " + b"y" * ANSWER_BYTES_MAX, ErrorKind.ANSWER_TOO_LONG),
        (LINE + b"\r\n" + b"y" * ANSWER_BYTES_MAX, ErrorKind.ANSWER_TOO_LONG),
    ],
)
def test_why_no_more_is_read(data: bytes, kind: ErrorKind) -> None:
    """By class; the limit holds for all bytes, whatever they are."""
    pieces = [data[at : at + 1024] for at in range(0, len(data), 1024)]
    answer, _ = read(*pieces, b"")
    assert answer.fault is not None
    assert answer.fault.kind is kind
    assert not answer.again


def test_some_interim_answers_are_passed_over() -> None:
    """As many as anybody has a use for."""
    answer, found = read(b"HTTP/1.1 103 x\r\n\r\n" * INTERIM_MAX, LINE + LENGTH + b"\r\nok")
    assert (answer.fault, answer.status, answer.ended, found) == (None, 200, True, b"ok")


@pytest.mark.parametrize(
    ("field", "is_in_chunks"), [(b"Transfer-Encoding: chunked", True), (b"X: y", False)]
)
def test_it_is_known_whether_a_body_comes_in_chunks(field: bytes, *, is_in_chunks: bool) -> None:
    """Only then is there anything to be parsed in it."""
    answer, _ = read(LINE + field + b"\r\n\r\n")
    assert answer.is_in_chunks is is_in_chunks


def test_an_answer_may_be_as_long_as_the_limit() -> None:
    """To the byte."""
    head = LINE + b"Content-Length: %05d\r\n\r\n"
    body = b"a" * (ANSWER_BYTES_MAX - len(head % 0))
    answer, found = read(head % len(body), body)
    assert (answer.fault, answer.ended, found) == (None, True, body)
