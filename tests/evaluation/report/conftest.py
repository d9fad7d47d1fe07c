"""A run to write reports of."""

import pytest
from report_runs import made_run


@pytest.fixture(scope="session")
def example_run(tmp_path_factory):
    """A run of two stages."""
    return made_run(tmp_path_factory.mktemp("runs") / "example")
