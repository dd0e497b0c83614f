"""What a request is called, by its client or by us, and when its answer says so.

A client's name is taken where it is short and plain, since it stands in the log and in a header
field. Ours is as good as unique; it is made only where somebody is told of it.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Final

HEADER: Final = "x-request-id"
# What proxies, load balancers and libraries make: UUIDs, hexadecimal, base64, Root=1-67891233-abc.
_FIT: Final = re.compile(r"[A-Za-z0-9._~:/+=@-]{1,128}")
# Of the numbers that ours are made of: by then a daemon has answered for a century.
NUMBERS: Final = 1 << 64


def fit(given: str) -> str | None:
    """The client's name for its request; None where it is none that can be taken."""
    return given if _FIT.fullmatch(given) else None


def made(number: int) -> str:
    """Our name for a request without one, from a random number below NUMBERS."""
    return f"{number:016x}"


def is_told(given: str | None, status: int) -> bool:
    """Whether the answer carries it: to who gave one, and to who may have to ask about it."""
    return given is not None or status >= HTTPStatus.BAD_REQUEST
