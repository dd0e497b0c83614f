"""A delivery with its attempts, as the commands print it; and what they look up for that."""

from __future__ import annotations

from typing import Any, Final, Protocol

import click

from meterd.domain.deliveries import DeliveryStatus
from meterd.domain.errors import MeterdError
from meterd.tables import facts

# Each of these is a request of its own.
_LOOKED_UP: Final = 100


class Gets(Protocol):
    """What is needed of a Client."""

    def get(self, path: str, **parameters: str | int | None) -> Any: ...


def with_behind(client: Gets, found: list[dict[str, Any]]) -> None:
    """Adds to deliveries of a listing that they wait behind another of their customer: what is held
    by nothing else and is not in the air may be, and only each one's own document says so.
    """
    waiting = [
        one
        for one in found
        if one["status"] == DeliveryStatus.PENDING
        and "held" not in one
        and "attemptBegunAt" not in one
    ]
    for one in waiting[:_LOOKED_UP]:
        held = client.get(f"/deliveries/{one['id']}").get("held")
        if held is not None:
            one["held"] = held
            one.pop("nextAttemptAt", None)


def page_with(client: Gets, path: str, number: int) -> dict[str, Any]:
    """The delivery with that attempt, or with the earliest that are in the log: they come a hundred
    at a time, the last ones first.
    """
    skip = 0
    while True:
        found: dict[str, Any] = client.get(path, skip=skip or None)
        log = found["attemptLog"]
        skip += len(log)
        if not log or log[0]["number"] <= number or skip >= found["attemptsKept"]:
            return found


def curl_line(found: dict[str, Any], number: int) -> str:
    """Of that attempt. Raises MeterdError, which says where else to look."""
    for attempt in found["attemptLog"]:
        if attempt["number"] != number:
            continue
        if "curl" in attempt:
            return str(attempt["curl"])
        if "batch" in attempt:
            batch, in_batch = attempt["batch"], attempt["batchAttempt"]
            raise MeterdError(
                f"sent with batch {batch}: meterd deliveries show {batch} --curl {in_batch}"
            )
    known = ", ".join(str(one["number"]) for one in found["attemptLog"] if "curl" in one)
    raise MeterdError(
        f"what was sent at attempt {number} is not in the log; there are {known or 'none'}"
    )


def show_delivery(found: dict[str, Any]) -> None:
    """A delivery as the API gave it, for people."""
    attempts = found.pop("attemptLog")
    body, held = found.pop("body"), found.pop("held", None)
    facts(found)
    if held is not None:
        click.echo(f"\n{held_text(held, found['endpoint'])}")
    for attempt in attempts:
        click.echo(f"\nattempt {attempt.pop('number')}{_with_batch(attempt)}")
        for name in ("curl", "bodySha256"):
            attempt.pop(name, None)
        for name in ("requestHeaders", "responseHeaders"):
            if name in attempt:
                attempt[name] = [f"{one}: {value}" for one, value in attempt[name]]
        facts(attempt)
    click.echo(f"\n{body}")


def _with_batch(attempt: dict[str, Any]) -> str:
    batch, number = attempt.pop("batch", None), attempt.pop("batchAttempt", None)
    return "" if batch is None else f", batch {batch} attempt {number}"


def held_text(held: dict[str, str], endpoint_id: str) -> str:
    """Why something is not sent, and the way out."""
    more = "".join(f" ({held[name]})" for name in ("until", "behind") if name in held)
    way_out = f"; meterd webhooks enable {endpoint_id}" if "enable" in held else ""
    return f"held: {held['message']}{more}{way_out}"
