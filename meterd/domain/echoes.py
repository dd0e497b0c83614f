"""What a receiver repeats of the URL that it was asked by: its tokens, masked.

Redirects repeat a URL in Location, and common servers name the path and query that they do not
have. What an attempt's log keeps of an answer is read with keys that do not show the URL itself.
"""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote_to_bytes

from meterd.domain.endpoints import MASK, hidden_in

if TYPE_CHECKING:
    from collections.abc import Iterator

# A shorter one is part of many words, and of numbers: it is a token only behind its name.
_ANYWHERE_CHARACTERS: Final = 8
# Each of them is looked for at each place of an answer. The longest come first.
_TOKENS_MAX: Final = 16
# In a URL, in JSON, in what programs print of a dictionary.
_IS: Final = rb"(?:=|%(?:25)*3[dD]|[\"']? {0,2}[:=]>? {0,2}[\"']?)"
_ENDS: Final = rb"(?![0-9A-Za-z])"
_BEGINS: Final = rb"(?<![0-9A-Za-z])"


class Echoes:
    """Finds the parts of one URL that ``masked_url`` hides, in whatever common spelling."""

    def __init__(self, url: str) -> None:
        hidden = sorted(set(hidden_in(url)), key=lambda found: len(found[1]), reverse=True)
        patterns = [_pattern(name, token) for name, token in hidden[:_TOKENS_MAX]]
        self._pattern = re.compile(b"|".join(patterns)) if patterns else None

    def masked(self, data: bytes) -> bytes:
        return self._pattern.sub(_mask, data) if self._pattern else data

    def masked_text(self, text: str) -> str:
        return self.masked(text.encode()).decode(errors="replace")


def _mask(found: re.Match[bytes]) -> bytes:
    name: bytes = found[found.lastindex] if found.lastindex else b""
    return name + MASK.encode()


def _pattern(name: str, token: str) -> bytes:
    spelled = _spelled(token)
    if len(token) >= _ANYWHERE_CHARACTERS:
        return spelled
    if name:
        return b"(%b%b%b)%b%b" % (_BEGINS, _spelled(name), _IS, spelled, _ENDS)
    return b"([?&;])%b%b" % (spelled, _ENDS)


def _spelled(text: str) -> bytes:
    return b"".join(b"(?:%b)" % b"|".join(_spellings(byte)) for byte in unquote_to_bytes(text))


def _spellings(byte: int) -> Iterator[bytes]:
    """As URLs (also within others), HTML and JSON escape it, and, since some begin so, as it is."""
    plain = re.escape(bytes([byte]))
    character = chr(byte)
    yield b"%%(?:25)*(?i:%02x)" % byte
    if character.isascii() and not character.isalnum():
        yield rb"\\%b" % plain
        yield rb"\\u00(?i:%02x)" % byte
        yield b"&#(?:0*%d|[xX]0*(?i:%x));" % (byte, byte)
        yield re.escape(html.escape(character).encode())
    if character in " +":
        yield rb"[ +]"
    yield plain
