"""Where a body that is no JSON breaks, for people.

Lines and columns are counted from 1, as editors do, bytes from 0. The place is msgspec's: of what
breaks, or just behind it.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

_MALFORMED: Final = re.compile(r"JSON is malformed: (.+) \(byte (\d+)\)")


def fault_in(body: bytes) -> str:
    """What is wrong, and where, in printable ASCII that holds nothing of the body."""
    try:
        body.decode()
        msgspec.json.decode(body, type=msgspec.Raw)  # builds nothing of what it looks at
    except UnicodeDecodeError as fault:
        return f"not UTF-8 ({_place(body, fault.start)})"
    except RecursionError:
        return "nested too deep"
    except msgspec.DecodeError as fault:
        said = _MALFORMED.fullmatch(str(fault))
        if said is None:
            return f"ends before it is whole ({_place(body, len(body))})"
        return f"{said[1]} ({_place(body, int(said[2]))})"
    return "not JSON"  # for another reader than this one


def _place(body: bytes, at: int) -> str:
    """Of one line the byte says all."""
    line = body.count(b"\n", 0, at) + 1
    if line == 1:
        return f"byte {at}"
    column = len(body[body.rindex(b"\n", 0, at) + 1 : at].decode(errors="replace")) + 1
    return f"line {line}, column {column}, byte {at}"
