"""Which content codings say that a body must be unpacked first."""

from __future__ import annotations

import pytest

from meterd.edge.codings import CompressedBodyError, refuse_compressed


@pytest.mark.parametrize(
    ("given", "coding"),
    [
        (["gzip"], "gzip"),
        (["GZip"], "gzip"),
        (["identity, br"], "br"),
        (["identity", " zstd "], "zstd"),
        (["deflate,gzip"], "deflate"),
    ],
)
def test_what_was_compressed_is_refused_by_name(given: list[str], coding: str) -> None:
    """In whichever case, list or line it stands."""
    with pytest.raises(CompressedBodyError) as refused:
        refuse_compressed(given)
    assert refused.value.coding == coding


@pytest.mark.parametrize("given", [[], [""], ["identity"], ["utf-8"], ["gzipped"], [" , "]])
def test_what_changes_no_body_is_passed_over(given: list[str]) -> None:
    """Some clients name a charset there; their bodies are JSON all the same."""
    refuse_compressed(given)
