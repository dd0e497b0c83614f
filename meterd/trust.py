"""By which authorities others' certificates are judged: receivers', and that of a meterd asked."""

from __future__ import annotations

import os
import re
import ssl
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import certifi

if TYPE_CHECKING:
    from collections.abc import Mapping

# A folder's authorities are found by the hash of their names, see c_rehash(1).
_BY_HASH: Final = re.compile(r"[0-9a-f]{8}\.[0-9]+")
# What OpenSSL heeds; Python calls them by these names, too.
_CHOSEN_BY: Final = ("SSL_CERT_FILE", "SSL_CERT_DIR")


def client_context(environ: Mapping[str, str] = os.environ) -> ssl.SSLContext:
    """The system's authorities, or those that SSL_CERT_FILE and SSL_CERT_DIR name; where the system
    has none, as in a bare container, and none are named, Mozilla's as certifi has them.
    """
    context = ssl.create_default_context()
    is_chosen = any(environ.get(name) for name in _CHOSEN_BY)
    if not is_chosen and not _are_some_in(ssl.get_default_verify_paths()):
        context.load_verify_locations(certifi.where())
    return context


def _are_some_in(places: ssl.DefaultVerifyPaths) -> bool:
    """Not by what a context has: it looks into the folder only when it meets a certificate."""
    if places.cafile and Path(places.cafile).stat().st_size:
        return True
    if not places.capath:
        return False
    with suppress(OSError):  # what cannot be read vouches for nobody
        return any(_BY_HASH.fullmatch(one.name) for one in Path(places.capath).iterdir())
    return False
