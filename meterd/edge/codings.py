"""Bodies that were compressed, which meterd does not take: a small one may unpack to gigabytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

# RFC 9110, 8.4.1, and the registry of HTTP content codings. What else some clients write there,
# utf-8 say, changes nothing about the body.
_COMPRESSED: Final = frozenset(
    {
        *("gzip", "x-gzip", "deflate", "compress", "x-compress", "br", "zstd", "dcb", "dcz"),
        *("aes128gcm", "exi", "pack200-gzip"),
    }
)


class CompressedBodyError(Exception):
    """``coding`` is the Content-Encoding of a body that was to be read."""

    def __init__(self, coding: str) -> None:
        super().__init__(coding)
        self.coding = coding


def refuse_compressed(content_encodings: Iterable[str]) -> None:
    """Of the values of that header. Raises CompressedBodyError."""
    for coding in ",".join(content_encodings).lower().split(","):
        if coding.strip() in _COMPRESSED:
            raise CompressedBodyError(coding.strip())
