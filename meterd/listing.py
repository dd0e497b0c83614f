"""Lists of commands: what is asked for a page at a time, printed as a table or an object a line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click
import msgspec
from msgspec import Raw

from meterd.options import Name
from meterd.tables import table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from meterd.client import Page

_LISTED: Final = 50
# So many are in memory at once where all are listed, and a table has its own widths.
PAGE: Final = 1000


def limit_option(limit_max: int) -> Callable[[Any], Any]:
    """``limit_max`` is the API's."""
    return click.option(
        "--limit",
        type=click.IntRange(1, limit_max),
        default=_LISTED,
        show_default=True,
        help="So many at most.",
    )


all_option: Final = click.option(
    "--all", "all_pages", is_flag=True, help="All there are, a page at a time."
)
cursor_option: Final = click.option(
    "--cursor", type=Name(), help="Go on where one ended that had more, which printed this."
)


def paging(limit: int, cursor: str | None, *, all_pages: bool) -> dict[str, str | int | None]:
    """The parameters of a long answer."""
    return {"limit": PAGE if all_pages else limit, "cursor": cursor}


def list_pages(
    pages: Iterable[Page],
    columns: Mapping[str, str],
    row_of: Callable[[dict[str, Raw]], dict[str, Any]],
    *,
    all_pages: bool,
    as_json: bool,
) -> None:
    """Page by page, so that what is listed may be larger than memory."""
    listed = 0
    for page in pages:
        found = msgspec.json.decode(page.content, type=list[Raw])
        if as_json:
            for one in found:
                click.echo(bytes(one))
        elif found or not listed:
            table(columns, [row_of(one) for one in fields_of(found)])
        listed += len(found)
        if all_pages:
            continue
        if page.pruned_until is not None:
            click.echo(
                f"note: of before {page.pruned_until} some were pruned (retention.events)", err=True
            )
        if page.cursor is not None:
            click.echo(
                f"there are more: --all lists them, --cursor {page.cursor} goes on", err=True
            )
        return


def fields_of(found: Iterable[Raw]) -> Iterator[dict[str, Raw]]:
    """Of each object, by their names."""
    for one in found:
        yield msgspec.json.decode(one, type=dict[str, Raw])


def shown(value: Raw) -> str:
    """Texts without quotes, numbers with their digits."""
    text = bytes(value).decode()
    return msgspec.json.decode(value, type=str) if text.startswith('"') else text
