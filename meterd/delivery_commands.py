"""The commands ``meterd deliveries``: what was sent, what waits, and sending it again.

They ask a meterd that runs. On stdout is what was asked for, as a table or as JSON, an object a
line; how far it is, on stderr.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from meterd.delivery_history import curl_line, held_text, page_with, show_delivery, with_behind
from meterd.domain.deliveries import DeliveryStatus
from meterd.domain.errors import MeterdError
from meterd.domain.periods import PeriodType
from meterd.options import (
    Daemon,
    Instant,
    Name,
    client_options,
    id_in_path,
    instant_ms,
    json_option,
    require_order,
)
from meterd.tables import print_json, table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


_LISTED: Final = 50
_COLUMNS: Final = {
    "id": "id",
    "endpoint": "endpoint",
    "type": "type",
    "sequence": "sequence",
    "customerId": "customer",
    "period": "period",
    "periodKey": "key",
    "revision": "revision",
    "eventType": "event type",
    "threshold": "threshold",
    "status": "status",
    "attempts": "attempts",
    "nextAttemptAt": "next attempt",
    "held": "held",
    "lastError": "last error",
}


class Posts(Protocol):
    """What a replay needs of a Client."""

    def post(self, path: str, content: Mapping[str, Any] | None = None) -> Any: ...


@click.group(epilog="Example: meterd deliveries list --status parked")
def deliveries() -> None:
    """List, show and repeat what is sent to webhooks."""


@deliveries.command("list", epilog="Example: meterd deliveries list --status parked --json")
@client_options
@click.option("--endpoint", type=Name(), help="Those of this webhook.")
@click.option("--customer", type=Name(), help="Those of this customer.")
@click.option(
    "--period",
    type=click.Choice([kind.value for kind in PeriodType]),
    help="Those of such periods.",
)
@click.option(
    "--status", type=click.Choice([one.value for one in DeliveryStatus]), help="Those that are so."
)
@click.option(
    "--limit",
    type=click.IntRange(1, 100_000),
    default=_LISTED,
    show_default=True,
    help="So many at most.",
)
@json_option
def list_deliveries(
    daemon: Daemon,
    endpoint: str | None,
    customer: str | None,
    period: str | None,
    status: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """List deliveries, the newest first.

    What waits for more than its time says what holds it: the webhook is gone (410), paused, off or
    removed; or it is behind an earlier one of its customer, which show names (looked up for the
    first hundred that wait).

    Exit codes: 0 listed, also where there are none; 1 no such webhook, or no answer; 2 wrong
    arguments.
    """
    with daemon.client() as client:
        found = client.get(
            "/deliveries",
            endpoint=endpoint,
            customerId=customer,
            period=period,
            status=status,
            limit=limit,
        )
        with_behind(client, found)
    if as_json:
        for one in found:
            print_json(one)
        return
    table(_COLUMNS, [_row(one) for one in found])
    if len(found) == limit:
        click.echo(f"the newest {limit}; --limit shows more", err=True)


def _row(found: dict[str, Any]) -> dict[str, Any]:
    """The error of what arrived after all is in its log of attempts, and no trouble any more."""
    row = {**found, "held": found["held"]["reason"]} if "held" in found else dict(found)
    if found["status"] == DeliveryStatus.DELIVERED:
        row.pop("lastError", None)
    return row


@deliveries.command(
    epilog="Example: meterd deliveries show ID --curl 1 | sh",
    short_help="Show every attempt, the body, and what it waits for.",
)
@client_options
@click.argument("delivery_id", metavar="ID")
@click.option(
    "--curl",
    "attempt",
    type=click.IntRange(1),
    metavar="NUMBER",
    help="Print only the curl line that makes this attempt once more, signed as it was then.",
)
@json_option
def show(
    daemon: Daemon,
    delivery_id: str,
    attempt: int | None,
    as_json: bool,
) -> None:
    """Show a delivery: every attempt, its body, and what it waits for.

    Of a URL, values in its query and long parts of its path are masked: a curl line needs them
    filled in. Receivers refuse signatures that are older than five minutes.

    Exit codes: 0 shown; 1 there is no such delivery or attempt, or no answer; 2 wrong arguments.
    """
    with daemon.client() as client:
        path = f"/deliveries/{_segment(delivery_id)}"
        found = client.get(path) if attempt is None else page_with(client, path, attempt)
    if attempt is not None:
        click.echo(curl_line(found, attempt))
    elif as_json:
        print_json(found)
    else:
        show_delivery(found)


@deliveries.command(
    epilog="Example: meterd deliveries retry ID",
    short_help="Send deliveries again at once, whatever became of them.",
)
@client_options
@click.argument("delivery_ids", metavar="ID...", nargs=-1, required=True)
@json_option
def retry(
    daemon: Daemon,
    delivery_ids: tuple[str, ...],
    as_json: bool,
) -> None:
    """Send deliveries again, whatever became of them: at once, with the same id and body.

    The schedule of attempts begins anew. Earlier deliveries of the same customer still go first;
    what is held, by a webhook that is gone, paused or off say, says so and is sent when that ends.

    To a webhook with batch, what is delivered or parked leaves its batch and may come in another,
    whose id is new: its body in there is the same, and so are its data.id and revision. What
    still waits in a batch is sent again with all of it.

    Exit codes: 0 all are under way, or held, which is said; 1 one is not known, those before it are
    under way, or no answer; 2 wrong arguments.
    """
    with daemon.client() as client:
        for delivery_id in delivery_ids:
            again = client.post(f"/deliveries/{_segment(delivery_id)}/retry")
            if as_json:
                print_json(again)
            else:
                click.echo(f"{again['id']} {_under_way(again)}")


def _under_way(again: dict[str, Any]) -> str:
    if "held" in again:
        return f"is {held_text(again['held'], again['endpoint'])}"
    return f"is under way to {again['endpoint']}"


def _segment(delivery_id: str) -> str:
    return id_in_path(delivery_id, "delivery", "deliveries")


@deliveries.command(
    epilog="Example: meterd deliveries replay --endpoint crm --since 2026-01-01",
    short_help="Send all whose periods ended in between, also for the first time.",
)
@client_options
@click.option(
    "--endpoint", required=True, type=Name(), help="To this webhook, which is configured."
)
@click.option("--since", type=Instant(), required=True, help="Of periods that ended from then on.")
@click.option("--until", type=Instant(), help="Of periods that ended until then. Default: now.")
@click.option("--dry-run", is_flag=True, help="Only count.")
@click.option("--cursor", help="Go on where one ended that was interrupted, which printed this.")
@json_option
def replay(
    daemon: Daemon,
    endpoint: str,
    since: str,
    until: str | None,
    dry_run: bool,
    cursor: str | None,
    as_json: bool,
) -> None:
    """Send every aggregation whose period ended in between, in the order of closing.

    What was sent before is sent again under its id, so a receiver that keeps ids knows it; for what
    never was, as to a webhook that is new, or was off, deliveries are made. Of each aggregation it
    is the newest revision, and none before it. All is counted first.
    Interrupted, it says how to go on. To a webhook with batch it goes in new batches: what tells a
    repeat is the data.id and revision of each item.

    Exit codes: 0 all are under way, held, which is said, or counted; 1 not all; 2 wrong arguments;
    130 interrupted.
    """
    require_order(since, until, ("--since", "--until"))
    with daemon.client() as client:
        now = client.get("/ping")["timestamp"]
        if instant_ms(since) > instant_ms(now):
            raise MeterdError(f"--since {since} is in the future: for meterd it is {now}")
        # All pages are of one stretch of time, the daemon's.
        asked = {"endpoint": endpoint, "from": since, "to": until or now}
        start = {} if cursor is None else {"cursor": cursor}
        counted, held = _count(client, {**asked, **start})
        if not dry_run:
            if not as_json and any(counted.values()):
                click.echo(told_of_replay(counted, "to be sent", held, endpoint), err=True)
            replay_pages(client, asked, start, sum(counted.values()))
    if as_json:
        shown = {**asked, "dryRun": dry_run, **counted}
        print_json(shown if held is None else {**shown, "held": held})
    else:
        how = "would be sent" if dry_run else "under way" if held is None else "waiting"
        click.echo(told_of_replay(counted, how, held, endpoint))


def _count(client: Posts, asked: dict[str, Any]) -> tuple[dict[str, int], dict[str, str] | None]:
    """How many there are, and what holds them."""
    counted = {"again": 0, "created": 0}
    while True:
        done = client.post("/deliveries/replay", {**asked, "dryRun": True})
        for name in counted:
            counted[name] += done[name]
        if "cursor" not in done:
            return counted, done.get("held")
        asked = {**asked, "cursor": done["cursor"]}


def replay_pages(client: Posts, asked: dict[str, Any], start: dict[str, str], count: int) -> None:
    """Page by page to the end; what ends it before, says how to go on."""
    cursor = start.get("cursor")
    finished = False
    try:
        with _bar(count) as advance:
            while not finished:
                page = asked if cursor is None else {**asked, "cursor": cursor}
                done = client.post("/deliveries/replay", page)
                cursor = done.get("cursor")
                finished = cursor is None
                advance(done["again"] + done["created"])
    finally:
        if not finished:
            more = "" if cursor is None else f" --cursor {cursor}"
            click.echo(
                f"not finished; go on with: meterd deliveries replay --endpoint {asked['endpoint']}"
                f" --since {asked['from']} --until {asked['to']}{more}",
                err=True,
            )


def told_of_replay(
    counted: dict[str, int], how: str, held: dict[str, str] | None, endpoint_id: str
) -> str:
    """What a replay comes to, for people."""
    count = sum(counted.values())
    if not count:
        return "nothing closed in between"
    told = f"{count:,} {how}: {counted['again']:,} sent before, {counted['created']:,} never yet"
    return told if held is None else f"{told}\n{held_text(held, endpoint_id)}"


@contextmanager
def _bar(count: int) -> Iterator[Callable[[int], None]]:
    """On stderr, where that is a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bars:
        task = bars.add_task("replay", total=max(count, 1))
        yield lambda done: bars.advance(task, done)
