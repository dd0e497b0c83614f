"""No block of code is in a document that no test runs."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import pytest

from tests.docs.reading import DOCUMENTS, ROOT, Block, blocks

if TYPE_CHECKING:
    from pathlib import Path

# What runs all blocks of a language that a document has, or takes in what each configures.
#
# A document's shell blocks are taken by ``pieces``, which leaves none out, and those of other
# languages by ``blocks_of``: so a block that is added to a document is run by what runs the others.
RUN_BY: Final = {
    ("README.md", "bash"): (
        "tests/docs/test_readme.py::test_five_minutes_and_all_that_follows",
        "tests/docs/test_readme.py::test_the_file_of_the_template_is_served",
        "tests/docs/test_readme.py::test_all_tests_are_run_by_its_command",
    ),
    ("README.md", "json"): ("tests/docs/test_readme.py::test_five_minutes_and_all_that_follows",),
    ("docs/api.md", "bash"): ("tests/docs/test_api.py::test_what_is_asked_is_answered",),
    ("docs/commands.md", "bash"): (
        "tests/docs/test_commands.py::test_every_command_does_what_is_said",
    ),
    ("docs/configuration.md", "bash"): (
        "tests/docs/test_configuration_page.py::test_a_change_is_checked_and_taken_over",
    ),
    ("docs/monitoring.md", "bash"): (
        "tests/docs/test_monitoring.py::test_the_key_that_is_made_reads_metrics",
    ),
    ("docs/monitoring.md", "json"): (
        "tests/docs/test_monitoring.py::test_the_line_of_a_request_is_one",
    ),
    ("docs/monitoring.md", "yaml"): (
        "tests/system/test_packaging.py::test_prometheus_takes_the_configuration_of_the_page",
        "tests/docs/test_monitoring.py::test_prometheus_scrapes_as_the_page_has_it",
    ),
    ("docs/moving.md", "bash"): (
        "tests/docs/test_moving.py::test_the_move_works_as_it_is_written",
    ),
    ("docs/operations.md", "bash"): (
        "tests/docs/test_operations.py::test_what_is_to_be_done_can_be_done",
    ),
    ("docs/proof.md", "bash"): ("tests/docs/test_commands.py::test_a_month_is_proved",),
    ("docs/quick-start.md", "bash"): (
        "tests/docs/test_quick_start.py::test_a_newcomer_gets_a_webhook",
    ),
    ("docs/receivers.md", "bash"): ("tests/docs/test_receivers.py::test_one_is_tried",),
    ("docs/receivers.md", "javascript"): (
        "tests/docs/test_receivers.py::test_what_meterd_sends_is_booked",
    ),
    ("docs/receivers.md", "python"): (
        "tests/docs/test_receivers.py::test_what_meterd_sends_is_booked",
    ),
    ("docs/reliability.md", "bash"): (
        "tests/docs/test_reliability.py::test_a_year_is_lived_again_by_its_seed",
    ),
    ("docs/running.md", "nginx"): ("tests/docs/test_proxy.py::test_events_go_through",),
    ("docs/webhooks.md", "bash"): (
        "tests/docs/test_webhooks.py::test_what_was_sent_is_found_and_sent_again",
        "tests/docs/test_webhooks.py::test_a_dry_run_sends_nothing",
    ),
    ("docs/webhooks.md", "json"): ("tests/docs/test_webhooks.py::test_the_threshold_shown_is_one",),
    ("docs/running.md", "bash"): (
        "tests/docs/test_running.py::test_it_is_installed_under_systemd",
        "tests/docs/test_running.py::test_an_authority_of_ones_own_is_trusted",
        "tests/system/test_binary.py::test_the_binary_does_its_job_where_no_python_is",
        "tests/system/test_image.py::test_the_image_does_its_job",
    ),
    ("examples/README.md", "bash"): (
        "tests/docs/test_examples_page.py::test_events_are_sent_and_webhooks_received",
        "tests/docs/test_examples_page.py::test_an_invoice_is_made",
        "tests/docs/test_webhooks.py::test_a_dry_run_sends_nothing",
    ),
    **{
        (document, "toml"): ("tests/test_docs.py::test_configurations_are_valid",)
        for document in ("docs/api.md", "docs/webhooks.md", "examples/README.md")
    },
}
# Output, and drawings: nothing that somebody could run.
TEXT: Final = "text"
COMMAND: Final = re.compile(
    r"[$#] |(?:\w+=\S+ )*(?:meterd|curl|make|python3?|docker|systemctl) [a-z-]"
)


def key(block: Block) -> tuple[str, str]:
    return block.document.relative_to(ROOT).as_posix(), block.language


ALL: Final = [block for document in DOCUMENTS for block in blocks(document)]


@pytest.mark.parametrize("block", ALL, ids=lambda one: "-".join(key(one)))
def test_every_block_is_run(block: Block) -> None:
    """By a test that there is; or it is marked as text, and holds no command."""
    if block.language == TEXT:
        assert not [line for line in block.text.splitlines() if COMMAND.match(line)]
        return
    assert key(block) in RUN_BY, f"no test runs {key(block)}:\n{block.text}"


@pytest.mark.parametrize("test", sorted({one for tests in RUN_BY.values() for one in tests}))
def test_what_runs_them_is_there(test: str) -> None:
    """And is a test."""
    path, _, name = test.partition("::")
    assert re.search(rf"^(?:async )?def {name}\(", (ROOT / path).read_text(), re.MULTILINE)


def test_what_is_run_is_there() -> None:
    """The table holds nothing that is gone."""
    assert RUN_BY.keys() == {key(block) for block in ALL if block.language != TEXT}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda one: one.name)
def test_fences_are_closed(document: Path) -> None:
    """What is not found as a block is no test's: each fence is one's beginning or end."""
    fences = len(re.findall(r"^ *```", document.read_text(), re.MULTILINE))
    assert fences == 2 * len(blocks(document))


def test_every_document_is_looked_at() -> None:
    """Wherever it lies, but for what was made or installed."""
    places = [ROOT, *(ROOT / name for name in ("docs", "examples", "packaging", "meterd", "tests"))]
    found = {path for place in places[1:] for path in place.rglob("*.md")} | {*ROOT.glob("*.md")}
    assert found == set(DOCUMENTS)
