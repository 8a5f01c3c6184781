"""What holds for every test: integration tests are marked, searched, closed."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from .support import bed as beds
from .support.bed import Bed

INTEGRATION = Path(__file__).with_name("integration")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(INTEGRATION):
            item.add_marker(pytest.mark.integration)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Put the ends of the logs under a failure; the bed is still open then."""
    report = yield
    if report.when == "call" and report.failed:
        for one in beds.OPEN:
            report.sections.extend(one.report().items())
    return report


@pytest.fixture(autouse=True)
def nothing_in_clear() -> Iterator[None]:
    """Search every bed that the test opened, also one it made by itself.

    Set up before all other fixtures and so torn down behind them.
    """
    yield
    hits = []
    for one in list(beds.OPEN):
        try:
            hits += one.hits()
        finally:
            one.close()
    if hits:
        pytest.fail("found in clear:\n" + "\n".join(map(str, hits)), pytrace=False)


@pytest.fixture
def bed() -> Bed:
    """A bed whose server is not started yet; `bed.start(*accounts)` does it."""
    return Bed()
