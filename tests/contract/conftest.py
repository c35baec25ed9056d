import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.servers.postgresql import postgresql


@pytest.fixture(scope="session")
def postgresql_url() -> Iterator[str]:
    """A real server, shared by the session; each test makes a schema of its own."""
    with (
        tempfile.TemporaryDirectory(prefix="sidestage-pg-") as folder,
        postgresql(Path(folder)) as url,
    ):
        yield url
