"""Errors of the system that say which file they are about: of a full disk it tells no name."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def blaming(path: Path) -> Iterator[None]:
    """Have an OSError of the block name a file, unless it names one already."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise
